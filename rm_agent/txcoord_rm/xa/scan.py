"""Finds prepared transactions that nobody has ended: when a process begins to serve a database, and every ten seconds.

The coordinator sends the second phase of every branch that it knows until it is done, so there is mostly nothing to find. What is
found ends as the coordinator says, in an answer on which one may act. A prepared transaction of which it knows nothing is an
orphan and is rolled back only if all of this holds (the rules of Narayana's recovery): its name is ours and of this database; its
global transaction is unknown, and of an epoch and a number of which that means that it was never committed and cannot be any
more; and it has been there for longer than any registration takes. Whatever else is strange is left alone and said.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from txcoord_proto.errors import CoordinatorUnreachableError, TxcoordError, UnknownXidError
from txcoord_proto.status import BranchStatus, Decision
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.client import Client
from txcoord_sdk.database import Database
from txcoord_sdk.transaction.effects import Invoke, Steps, adrive, drive

from txcoord_rm.xa.identifier import Identifier
from txcoord_rm.xa.second_phase import XaSecondPhase

log = logging.getLogger(__name__)

PERIOD_SECONDS = 10.0
ORPHAN_SECONDS = 20.0
"""Narayana's safety interval."""

ENDED = {Decision.COMMIT: "committed", Decision.ROLLBACK: "rolled back", None: "left alone"}
"""What has become of a prepared transaction, in words."""

Status = Callable[[str], Any]
"""Asks the coordinator for a transaction, plainly or as a coroutine; see `Client.status`."""


UNDECIDED = "UNDECIDED"
"""The coordinator knows the transaction, and nothing is decided."""
UNKNOWN = "UNKNOWN"
"""The coordinator knows of no such transaction, and that means that it was not committed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A prepared transaction of ours.

    Args:
        identifier: It.
        decision: What the coordinator says: COMMIT, ROLLBACK, UNDECIDED or UNKNOWN; empty: it has said nothing of use.
        end: How it has to end; None: it is left alone.
        reason: Why it is left alone or could not be ended, and why an end is another one than the decision.
        ended: Whether it has ended.
        level: How loud a process says so that looks from time to time.
    """

    identifier: Identifier
    decision: str = ""
    end: Decision | None = None
    reason: str = ""
    ended: bool = False
    level: int = logging.DEBUG

    @property
    def is_too_young(self) -> bool:
        """Whether it is an orphan that has not been seen for long enough."""
        return self.decision == UNKNOWN and self.end is None

    def __str__(self) -> str:
        if self.ended:
            why = f": {self.reason}" if self.reason else ""
            return f"{self.identifier} was prepared and left behind, and is {ENDED[self.end]} now{why}"
        return f"{self.identifier} stays prepared for now: {self.reason}"


class Scan:
    """Of one database, by one process.

    Args:
        second_phase: Ends what is found.
        status: Asks the coordinator.
        clock: Seconds, monotonic.
    """

    def __init__(self, second_phase: XaSecondPhase, status: Status, clock: Callable[[], float] = time.monotonic) -> None:
        self._second_phase = second_phase
        self._status = status
        self._clock = clock
        self._seen: dict[Identifier, float] = {}
        """When each that is listed was seen first: ages are not taken from a clock that somebody sets."""

    def steps(self, dry_run: bool = False) -> Steps[list[Finding]]:
        """Look once, and end what is decided and what is an orphan.

        Args:
            dry_run: Whether to end nothing.

        Returns:
            What is prepared, or was until now, and what is the matter with it; in the order of XIDs.

        Raises:
            Exception: The list could not be read, which says nothing about what is prepared.
        """
        listed = yield from self._second_phase.listed_steps()
        now = self._clock()
        self._seen = {identifier: self._seen.get(identifier, now) for identifier in listed}
        findings: list[Finding] = []
        unreachable: CoordinatorUnreachableError | None = None
        for identifier in sorted(listed, key=lambda known: (known.xid, known.branch_id)):
            finding = Finding(identifier)
            try:
                if unreachable is not None:
                    raise unreachable  # it would be waited for anew for each of them
                finding = yield from self._judged(identifier, now - self._seen[identifier])
                if finding.end is not None and not dry_run:
                    yield from self._second_phase.settle_steps(identifier, finding.end is Decision.COMMIT)
                    finding = replace(finding, ended=True, level=logging.INFO)
            except (TxcoordError, SQLAlchemyError, OSError) as error:  # one holds no other up
                unreachable = error if isinstance(error, CoordinatorUnreachableError) else unreachable
                finding = replace(finding, reason=str(error), level=logging.WARNING)
            findings.append(finding)
        return findings

    def _judged(self, identifier: Identifier, age: float) -> Steps[Finding]:
        """What the coordinator says of a branch, and what has to become of it therefore."""
        try:
            answer = yield Invoke(lambda: self._status(identifier.xid))
        except UnknownXidError:
            if age >= ORPHAN_SECONDS:
                return Finding(identifier, UNKNOWN, Decision.ROLLBACK, "an orphan: the coordinator knows no such transaction")
            return Finding(
                identifier, UNKNOWN, reason="the coordinator knows no such transaction: it is rolled back once it has been seen "
                f"for {ORPHAN_SECONDS:g} s",
            )  # fmt: skip
        assert isinstance(answer, pb.Transaction)
        branch = next((known for known in answer.branches if known.id == identifier.branch_id), None)
        if not answer.decision:
            return Finding(identifier, UNDECIDED, reason="its transaction is not decided yet")
        decision = Decision(answer.decision)
        if branch is not None and branch.status in (BranchStatus.PARKED, BranchStatus.FORCED):
            why = f"its branch is {branch.status}, a person ends it: see `txcoord show {identifier.xid}`"
            return Finding(identifier, decision, reason=why)
        if decision is Decision.ROLLBACK:
            return Finding(identifier, decision, decision)
        if branch is None:
            return Finding(
                identifier, decision, level=logging.ERROR,
                reason=f"its transaction is {decision} without it: it is left alone, check the data and end it by hand",
            )  # fmt: skip
        if branch.status == BranchStatus.FAILED:
            return Finding(identifier, decision, Decision.ROLLBACK, "its branch failed and took no part in the decision")
        return Finding(identifier, decision, decision)


_kept: weakref.WeakKeyDictionary[Database, int] = weakref.WeakKeyDictionary()


def keep_scanning(client: Client, database: Database, scan: Scan) -> None:
    """Scan now, and from time to time as long as the client lives; does nothing the second time in a process."""
    if _kept.get(database) != os.getpid():
        _kept[database] = os.getpid()
        _once(weakref.ref(client), weakref.ref(database), scan)


def _once(client_ref: weakref.ref[Client], database_ref: weakref.ref[Database], scan: Scan) -> None:
    client, database = client_ref(), database_ref()
    if client is None or database is None or client.ended:
        _kept.pop(database, None) if database is not None else None
        return

    async def arun() -> None:
        try:
            tell(await adrive(scan.steps()))
        except (TxcoordError, SQLAlchemyError, OSError) as error:
            _say(error)

    def run() -> None:
        try:
            tell(drive(scan.steps()))
        except (TxcoordError, SQLAlchemyError, OSError) as error:
            _say(error)

    client.in_background(arun if database.is_async else run)
    timer = threading.Timer(PERIOD_SECONDS, _once, (client_ref, database_ref, scan))
    timer.daemon = True
    timer.start()


def tell(findings: Iterable[Finding]) -> None:
    """Log what was found."""
    for finding in findings:
        log.log(finding.level, "%s", finding, extra={"xid": finding.identifier.xid})


def _say(error: BaseException) -> None:
    log.warning("whether prepared transactions were left behind is not known, it is looked again: %s", error)
