"""Registrations that need global locks: granted, refused, or waiting for a holder to leave.

A registration waits only while its transaction is ACTIVE and nobody has asked to commit it: whatever decides a transaction first
ends its waits, so that a granted lock always finds a transaction that may still grow. A decision to roll back also ends the waits
of others that stand in its way: those whose participants hold row locks which the rollback's own statements need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from txcoord_proto.errors import DeadlockError, LockConflictError, LockTimeoutError, NotActiveError, TxcoordError
from txcoord_proto.status import GlobalStatus

from txcoord_server.domain.answers import Answer, Ticket
from txcoord_server.domain.ledger import Ledger
from txcoord_server.domain.locks import GRANTED, Conflict, Deadlock, LockRequest, Queued
from txcoord_server.domain.session import Branch, Transaction

_AGAIN = "try again"
_WHOLE_AGAIN = "roll back and try the whole transaction again"


class Registration:
    """A branch that is about to be registered.

    Args:
        branch: It; not yet among its transaction's branches.
        ticket: Who is told.
        answer: What he is told when the branch is registered.
    """

    __slots__ = ("answer", "branch", "tickets")

    def __init__(self, branch: Branch, ticket: Ticket, answer: Answer) -> None:
        self.branch = branch
        self.tickets = [ticket]
        self.answer = answer

    def repeated(self, ticket: Ticket, answer: Answer) -> None:
        """It came again: of one stream the newer counts; of two streams both, since the one that comes last may be the older."""
        self.answer = answer
        self.tickets = [other for other in self.tickets if other[0] is not ticket[0]]
        self.tickets.append(ticket)

    def tell(self, ledger: Ledger, answer: Answer) -> None:
        """Have everybody who waits for it be told after the next group commit."""
        for ticket in self.tickets:
            ledger.answer(ticket, answer)


class LockWaits:
    """Steps with global locks.

    Args:
        ledger: The books.
        admit: Takes a branch that has its locks into its transaction and answers.
        refuse: Answers that a registration changed nothing.
        give_way: Rolls the victim of a deadlock back.
    """

    def __init__(
        self,
        ledger: Ledger,
        admit: Callable[[Registration], None],
        refuse: Callable[[Registration, TxcoordError], None],
        give_way: Callable[[Transaction, int], None],
    ) -> None:
        self._ledger = ledger
        self._admit = admit
        self._refuse = refuse
        self._give_way = give_way
        self._waiting: dict[LockRequest, Registration] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    # ------------------------------------------------------------ registrations

    def register(self, registration: Registration, wait: int, holds_row_locks: bool, now: int) -> None:
        """Admit the registration with all its locks, refuse it, or let it wait.

        Args:
            registration: It.
            wait: Longest wait, milliseconds; 0: none.
            holds_row_locks: Whether its participant holds row locks meanwhile that it cannot give back.
            now: The time.

        Raises:
            LockConflictError: A key is taken, and it must not wait or waiting would not help.
            DeadlockError: It would close a circle in which it began last.
        """
        branch = registration.branch
        until = now + wait if wait else 0
        request = LockRequest(branch.transaction, branch.resource, branch.lock_keys, until, holds_row_locks)
        while (outcome := self._ledger.locks.acquire(request)) is not GRANTED:
            match outcome:
                case Queued():
                    self._waiting[request] = registration
                    return
                case Conflict(key, holder):
                    raise conflict(LockConflictError, branch, key, holder, _AGAIN)
                case Deadlock(victim, key, holder) if victim is branch.transaction:
                    raise conflict(DeadlockError, branch, key, holder, _WHOLE_AGAIN)
                case Deadlock(victim):
                    self._defeat(victim, now)
        self._admit(registration)

    def waiting(self, transaction: Transaction, branch_id: int) -> Registration | None:
        """The registration of that branch, if it waits: a client that lost its stream sends it again."""
        for request in self._ledger.locks.waits(transaction):
            if self._waiting[request].branch.id == branch_id:
                return self._waiting[request]
        return None

    def granted(self, requests: Iterable[LockRequest], now: int) -> None:
        """Requests that have just been given all their keys: their registrations go on where they stopped."""
        for request in requests:
            registration = self._waiting.pop(request)
            registration.branch.registered_at = now
            self._admit(registration)

    # ------------------------------------------------------------ waits that end without a grant

    def decided(self, transaction: Transaction, now: int) -> None:
        """End every wait that a decision has made pointless: the transaction's own, and those in a rollback's way."""
        for request in self._ledger.locks.waits(transaction):
            self._refuse(
                self._waiting.pop(request),
                NotActiveError(
                    f"{transaction.xid} was decided while this branch waited for a global lock: roll the local transaction back",
                    {"status": transaction.status, "reason": transaction.reason or ""},
                ),
            )
            self.granted(self._ledger.locks.withdraw(request), now)
        if transaction.status is GlobalStatus.ROLLING_BACK:
            self._end(self._ledger.locks.in_the_way_of(transaction), LockConflictError, _AGAIN, now)

    def tick(self, now: int) -> None:
        """End the circles that grants have closed, and refuse those whose time is over."""
        while victims := self._ledger.locks.take_victims():
            for victim in victims:
                self._defeat(victim, now)
        self._end(self._ledger.locks.expired(now), LockTimeoutError, "try again later", now)

    def _defeat(self, victim: Transaction, now: int) -> None:
        self._end(self._ledger.locks.waits(victim), DeadlockError, _WHOLE_AGAIN, now)
        self._give_way(victim, now)

    def _end(self, requests: Iterable[LockRequest], kind: type[LockConflictError], advice: str, now: int) -> None:
        for request in requests:
            if request not in self._waiting:
                continue  # an earlier one's end has granted it
            registration = self._waiting.pop(request)
            key, holder = self._ledger.locks.held_up(request)
            self._refuse(registration, conflict(kind, registration.branch, key, holder, advice))
            self.granted(self._ledger.locks.withdraw(request), now)


def conflict(kind: type[LockConflictError], branch: Branch, key: str, holder: Transaction, advice: str) -> LockConflictError:
    """The error for a branch that does not get `key`."""
    return kind(
        f"{branch.transaction.xid} cannot lock {key!r} of {branch.resource}: {holder.xid} ({holder.name}, {holder.status}) "
        f"holds it; {advice}",
        {"key": key, "resource": branch.resource, "holder": holder.xid, "holder_status": holder.status},
    )
