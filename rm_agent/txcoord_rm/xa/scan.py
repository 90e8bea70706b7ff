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
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from txcoord_proto.errors import TxcoordError, UnknownXidError
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

Status = Callable[[str], Any]
"""Asks the coordinator for a transaction, plainly or as a coroutine; see `Client.status`."""


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

    def steps(self) -> Steps[int]:
        """Look once; returns how many it has ended.

        Raises:
            Exception: The list could not be read, which says nothing about what is prepared.
        """
        listed = yield from self._second_phase.listed_steps()
        now = self._clock()
        self._seen = {identifier: self._seen.get(identifier, now) for identifier in listed}
        ended = 0
        for identifier in sorted(listed, key=lambda known: (known.xid, known.branch_id)):
            try:
                commit = yield from self._decided(identifier, now - self._seen[identifier])
                if commit is None:
                    continue
                yield from self._second_phase.settle_steps(identifier, commit)
            except (TxcoordError, SQLAlchemyError, OSError) as error:  # one holds no other up
                log.warning("%s stays prepared for now: %s", identifier, error, extra={"xid": identifier.xid})
                continue
            ended += 1
            log.info(
                "%s was prepared and left behind, and is %s now", identifier, "committed" if commit else "rolled back",
                extra={"xid": identifier.xid},
            )  # fmt: skip
        return ended

    def _decided(self, identifier: Identifier, age: float) -> Steps[bool | None]:
        """Whether a branch is to be committed; None: that is not decided, or a person has to look."""
        try:
            answer = yield Invoke(lambda: self._status(identifier.xid))
        except UnknownXidError:
            return False if age >= ORPHAN_SECONDS else None
        assert isinstance(answer, pb.Transaction)
        branch = next((known for known in answer.branches if known.id == identifier.branch_id), None)
        if not answer.decision or (branch is not None and branch.status in (BranchStatus.PARKED, BranchStatus.FORCED)):
            return None
        if answer.decision == Decision.ROLLBACK:
            return False
        if branch is None:
            log.error(
                "%s is prepared and its transaction is %s without it: it is left alone, check the data and end it by hand",
                identifier, answer.decision, extra={"xid": identifier.xid},
            )  # fmt: skip
            return None
        return branch.status != BranchStatus.FAILED  # one that failed took no part in the decision


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
            await adrive(scan.steps())
        except (TxcoordError, SQLAlchemyError, OSError) as error:
            _say(error)

    def run() -> None:
        try:
            drive(scan.steps())
        except (TxcoordError, SQLAlchemyError, OSError) as error:
            _say(error)

    client.in_background(arun if database.is_async else run)
    timer = threading.Timer(PERIOD_SECONDS, _once, (client_ref, database_ref, scan))
    timer.daemon = True
    timer.start()


def _say(error: BaseException) -> None:
    log.warning("whether prepared transactions were left behind is not known, it is looked again: %s", error)
