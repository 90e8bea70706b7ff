"""A global transaction as service code holds it.

The process that began it is its initiator and decides it, once; a process that joined it by its XID takes part and never decides.
The XID is taken from the coordinator when it is first needed: together with the first branch, or for the first outgoing call. A
transaction that never needed one ends without asking anybody.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, Protocol

from txcoord_proto.errors import (
    DeadlinePassedError,
    LocalTransactionOpenError,
    OutcomeUnknownError,
    RolledBackError,
    TransactionEndedError,
    TxcoordError,
    UnknownXidError,
    WrongOwnerError,
)
from txcoord_proto.status import Decision, GlobalStatus, PhaseOne, Reason, Wait
from txcoord_proto.v1 import coordinator_pb2 as pb

from txcoord_sdk.session.requests import Beginning, Done, Registration, Sink
from txcoord_sdk.transaction.effects import Ask, Steps, adrive, drive


class Requests(Protocol):
    """What a transaction asks of the client; any thread, answers through the sink."""

    def begin(self, beginning: Beginning, sink: Sink) -> None:
        """Get an XID."""

    def branch_id(self, beginning: Beginning, sink: Sink) -> None:
        """Get an id for a branch that is registered later, and the XID."""

    def register(self, beginning: Beginning, registration: Registration, sink: Sink) -> None:
        """Register a branch."""

    def commit(self, xid: str, wait: Wait, sink: Sink) -> None:
        """Ask for commit."""

    def rollback(self, xid: str, wait: Wait, reason: str, sink: Sink) -> None:
        """Ask for rollback."""

    def rollback_only(self, xid: str, reason: str, sink: Sink) -> None:
        """Veto."""

    def report(self, xid: str, branch_id: int, result: PhaseOne, error: str = "", rides: bool = False) -> None:
        """Report the end of a phase one; `rides`: with the next request, which is not far."""


class GlobalTransaction:
    """One global transaction in one process.

    Made by `global_transaction` and the carriers, not by hand.

    Args:
        requests: The client.
        beginning: Name, timeout and the like; with an XID for one that was joined.
        initiator: Whether this process decides it.
        timeout: Seconds that it has from now on; infinite: not known yet.
    """

    def __init__(self, requests: Requests, beginning: Beginning, initiator: bool, timeout: float) -> None:
        self._requests = requests
        self._beginning = beginning
        self.initiator = initiator
        """Whether this process began it and decides it."""
        self.deadline = time.monotonic() + timeout
        """Until when local work may commit, by `time.monotonic`; infinite: not known yet, or there is none."""
        self.begun_at = beginning.first_begun_at or int(time.time() * 1000)
        """When its first attempt began, milliseconds since 1970."""
        self.status: GlobalStatus = GlobalStatus.ACTIVE
        """As far as this process knows."""
        self.isolation = ""
        """Level at which what is done in its name reads, where nothing nearer says one; empty: each engine's own."""
        self.settled = False
        """Whether the second phases were done when its end was told."""
        self._rollback_only = ""
        self._open: dict[Hashable, str] = {}
        self._ended = False
        self._asking = 0
        """Requests under way, or given up, that may bring its XID."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<GlobalTransaction {self.name} {self._beginning.xid or '(no XID yet)'} {self.status}>"

    @property
    def name(self) -> str:
        """Its name, for people."""
        return self._beginning.name

    @property
    def known_xid(self) -> str:
        """Its XID if it has one, else empty; asks nobody."""
        return self._beginning.xid

    @property
    def ended(self) -> bool:
        """Whether its end has begun here, whatever that came to."""
        return self._ended

    @property
    def rollback_only(self) -> str:
        """Why it can only be rolled back; empty: it can be committed."""
        return self._rollback_only

    # ------------------------------------------------------------ XID and branches

    def xid(self) -> str:
        """Its XID, taken from the coordinator if it has none yet (blocks)."""
        return self._beginning.xid or drive(self._xid_steps())

    async def axid(self) -> str:
        """Its XID, taken from the coordinator if it has none yet."""
        return self._beginning.xid or await adrive(self._xid_steps())

    def register(self, registration: Registration) -> int:
        """Register a branch; returns its id (blocks).

        Raises:
            NotActiveError: The transaction is decided already.
            LockConflictError: Another transaction holds a row.
            CoordinatorUnreachableError: No coordinator answered in time.
        """
        return drive(self.register_steps(registration))

    async def aregister(self, registration: Registration) -> int:
        """Register a branch; returns its id. Raises like `register`."""
        return await adrive(self.register_steps(registration))

    def report(self, branch_id: int, result: PhaseOne, error: str = "") -> None:
        """Report the end of a branch's phase one; from any thread, never blocks.

        The coordinator needs to know that it is done when it is asked to commit: where that is done here, this rides with it.
        """
        rides = self.initiator and result is PhaseOne.DONE
        self._requests.report(self._beginning.xid, branch_id, result, error, rides)

    def check_open(self) -> None:
        """Refuse work in the name of a transaction that has ended.

        Raises:
            TransactionEndedError: It has.
        """
        if self._ended:
            raise TransactionEndedError(
                f"{self!r} has ended: nothing can be done in its name any more; what goes on after it, such as a background "
                "task, is started within `with suspend():`"
            )

    def check_deadline(self) -> None:
        """Refuse local work that comes too late.

        Raises:
            DeadlinePassedError: The coordinator rolls the transaction back about now.
        """
        if time.monotonic() >= self.deadline:
            raise DeadlinePassedError(
                f"the global transaction {self.known_xid or self.name} has passed its deadline, so this local transaction must "
                "not commit: raise its timeout, or do less in it",
                {"xid": self.known_xid},
            )

    # ------------------------------------------------------------ local transactions

    def local_opened(self, key: Hashable, what: str) -> None:
        """A local transaction of this process has written in its name; `what` is shown to people."""
        self._open.setdefault(key, what)

    def local_ended(self, key: Hashable) -> None:
        """That local transaction has ended."""
        self._open.pop(key, None)

    # ------------------------------------------------------------ its end

    def set_rollback_only(self, reason: str) -> None:
        """See to it that it is not committed.

        In the initiator that is enough. In a participant the coordinator has to hear of it before the answer goes out: the
        carriers do that with `veto`.
        """
        self._rollback_only = self._rollback_only or reason or "marked rollback-only"

    def veto(self) -> None:
        """Tell the coordinator, if this participant marked it rollback-only (blocks)."""
        drive(self.veto_steps())

    async def aveto(self) -> None:
        """Tell the coordinator, if this participant marked it rollback-only."""
        await adrive(self.veto_steps())

    def commit(self) -> None:
        """Commit it (blocks).

        Raises:
            RolledBackError: It was rolled back instead; the reason is in it.
            OutcomeUnknownError: No coordinator answered; it will be finished one way or the other.
            LocalTransactionOpenError: A local transaction of it is open; it stays as it is, and commit may be repeated.
            TransactionEndedError: It was ended before, or this process only takes part in it.
        """
        drive(self.commit_steps())

    async def acommit(self) -> None:
        """Commit it. Raises like `commit`."""
        await adrive(self.commit_steps())

    def rollback(self, reason: str = "") -> None:
        """Roll it back (blocks).

        Raises:
            AlreadyCommittedError: Commit was decided before.
            OutcomeUnknownError: No coordinator answered; it is rolled back at its deadline at the latest.
            TransactionEndedError: It was ended before, or this process only takes part in it.
        """
        drive(self.rollback_steps(reason))

    async def arollback(self, reason: str = "") -> None:
        """Roll it back. Raises like `rollback`."""
        await adrive(self.rollback_steps(reason))

    # ------------------------------------------------------------ steps

    def _xid_steps(self) -> Steps[str]:
        yield from self._asked(lambda sink: self._requests.begin(self._beginning, sink))
        return self._beginning.xid

    def branch_id_steps(self) -> Steps[int]:
        """An id for a branch that is registered later; from then on it has an XID."""
        self.check_deadline()
        branch_id: int = yield from self._asked(lambda sink: self._requests.branch_id(self._beginning, sink))
        return branch_id

    def register_steps(self, registration: Registration) -> Steps[int]:
        """Steps of `register`.

        Where the caller is cancelled before he hears of it, the branch takes no part: its phase one has not begun.
        """
        self.check_deadline()
        if self.deadline == math.inf:
            registration = replace(registration, hear_deadline=self._hear_deadline)
        heard: list[object] = []
        given_up: list[BaseException] = []

        def start(sink: Sink) -> None:
            def hear(value: object, error: BaseException | None) -> None:
                with self._lock:
                    heard.append(value)
                    late = bool(given_up) and error is None
                if late:
                    self._give_up(registration, value, given_up[0])
                sink(value, error)

            self._requests.register(self._beginning, registration, hear)

        try:
            branch_id: int = yield from self._asked(start)
        except TxcoordError:
            raise
        except BaseException as error:
            with self._lock:
                given_up.append(error)
                known = heard and heard[0] is not None
            if known:
                self._give_up(registration, heard[0], error)
            raise
        return branch_id

    def _hear_deadline(self, deadline: float) -> None:
        self.deadline = min(self.deadline, deadline)

    def _give_up(self, registration: Registration, branch_id: object, why: BaseException) -> None:
        assert isinstance(branch_id, int)
        if not registration.done:
            self.report(branch_id, PhaseOne.FAILED, f"its caller did not wait for the registration: {why!r}")

    def _asked(self, start: Callable[[Sink], None]) -> Steps[Any]:
        """Ask for something that may bring the XID. A task that is cancelled meanwhile does not hear it, so it counts on."""
        with self._lock:
            self.check_open()
            self._asking += 1
        try:
            answer = yield Ask(start)
        except TxcoordError:
            self._heard()
            raise
        self._heard()
        return answer

    def _heard(self) -> None:
        with self._lock:
            self._asking -= 1

    def veto_steps(self) -> Steps[None]:
        """Steps of `veto`."""
        if self._rollback_only and not self.initiator:
            yield Ask(lambda sink: self._requests.rollback_only(self._beginning.xid, self._rollback_only, sink), to_the_end=True)

    def commit_steps(self, wait: Wait = Wait.SETTLED) -> Steps[None]:
        """Steps of `commit`; `wait` says what its return means."""
        self._check_mine("commit")
        if self._open:
            raise LocalTransactionOpenError(
                f"{self!r} cannot be committed while a local transaction that has written for it is open ("
                f"{'; '.join(self._open.values())}): commit or close it first, then commit again",
                {"xid": self.known_xid},
            )
        if self._rollback_only:
            reason = self._rollback_only
            yield from self.rollback_steps(reason)
            raise self._rolled_back(Reason.ROLLBACK_ONLY, reason)
        if not (yield from self._end(GlobalStatus.COMMITTING, GlobalStatus.COMMITTED)):
            return
        xid = self._beginning.xid
        try:
            answer = yield Ask(lambda sink: self._requests.commit(xid, wait, sink), to_the_end=True)
        except UnknownXidError as error:
            self.status, self.settled = GlobalStatus.ROLLED_BACK, True
            raise self._rolled_back(error.code, str(error)) from error
        except (OutcomeUnknownError, WrongOwnerError):
            raise
        except TxcoordError as error:
            raise OutcomeUnknownError(
                f"what became of {xid} is not known here ({error}): the coordinator finishes it, ask for its status",
                {"xid": xid},
            ) from error
        self._committed(answer)

    def _end(self, status: GlobalStatus, without_xid: GlobalStatus) -> Steps[bool]:
        """Begin its end; False when it never had an XID, so that this was all."""
        with self._lock:
            self._ended = True
            if not self._beginning.xid and not self._asking:
                self.status, self.settled = without_xid, True
                return False
            self.status = status
        if not self._beginning.xid:
            # Its begin is under way for somebody who did not wait for the answer; it must not be left behind.
            yield Ask(lambda sink: self._requests.begin(self._beginning, sink), to_the_end=True)
        return True

    def _committed(self, answer: object) -> None:
        if isinstance(answer, Done):
            self.status = GlobalStatus.COMMITTED if answer.settled else GlobalStatus.COMMITTING
            self.settled = answer.settled
            return
        assert isinstance(answer, pb.DecisionReply)
        self.status = GlobalStatus(pb.GlobalStatus.Name(answer.status))
        self.settled = answer.settled
        if answer.decision != Decision.COMMIT:
            raise self._rolled_back(answer.reason, answer.explanation)

    def rollback_steps(self, reason: str = "") -> Steps[None]:
        """Steps of `rollback`."""
        self._check_mine("roll back")
        if (yield from self._end(GlobalStatus.ROLLING_BACK, GlobalStatus.ROLLED_BACK)):
            yield from self.settle_steps(reason)

    def settle_steps(self, reason: str = "") -> Steps[None]:
        """Ask for rollback, which changes nothing where it is decided already, and wait until it is settled, for some seconds.

        Not while a local transaction of it is open here: the second phase would wait for that one, and so would we.
        """
        xid, wait = self._beginning.xid, Wait.DECIDED if self._open else Wait.SETTLED
        answer = yield Ask(lambda sink: self._requests.rollback(xid, wait, reason, sink), to_the_end=True)
        assert isinstance(answer, (Done, pb.DecisionReply))
        self.settled = answer.settled
        if isinstance(answer, pb.DecisionReply):  # it is parked, or was rolled back before
            self.status = GlobalStatus(pb.GlobalStatus.Name(answer.status))
        elif self.settled:
            self.status = GlobalStatus.ROLLED_BACK

    def _check_mine(self, what: str) -> None:
        if not self.initiator:
            raise TransactionEndedError(
                f"this process only takes part in {self.known_xid}: only the service that began it can {what} it; raise an "
                "error, or call set_rollback_only()"
            )
        if self._ended:
            raise TransactionEndedError(f"{self!r} has ended: begin a new transaction")

    def _rolled_back(self, reason: str, explanation: str) -> RolledBackError:
        xid = self.known_xid
        return RolledBackError(
            f"the global transaction {self.name} ({xid or 'without XID'}) was rolled back, {reason}: {explanation}",
            {"xid": xid, "reason": reason},
        )
