"""All unfinished global transactions of one group, and every step they can take up to their decision.

A step is a synchronous call: it checks, changes the objects and leaves its consequences in `effects`. Nothing here waits, reads a
clock or talks to anybody. The caller hands the effects to the store as one group commit and gives the answers afterwards; when
that commit does not succeed, the whole object is thrown away and loaded anew.

Invariants kept here: a decision is taken once; commit is decided only when every branch that takes part has reported DONE; a
branch registers, with all its locks or not at all, only while its transaction is ACTIVE.
"""

from __future__ import annotations

from txcoord_proto.errors import (
    BranchMismatchError,
    InvalidArgumentError,
    NotActiveError,
    ResourceDeniedError,
    TooManyTransactionsError,
    TxcoordError,
    WrongOwnerError,
)
from txcoord_proto.status import (
    BranchStatus,
    Decision,
    GlobalStatus,
    PhaseOne,
    Reason,
    Settlement,
    Wait,
)
from txcoord_proto.xid import epoch_prefix, mint

from txcoord_server.domain import limits as bounds
from txcoord_server.domain.answers import OK, Answer, Begun, LockState, Refused, Registered, Reported, Settlements, Ticket
from txcoord_server.domain.effects import AbsentQuestion
from txcoord_server.domain.ledger import Ledger
from txcoord_server.domain.limits import Limits
from txcoord_server.domain.lock_waits import LockWaits, Registration
from txcoord_server.domain.reports import Reports
from txcoord_server.domain.requests import NewBranch, NewTransaction
from txcoord_server.domain.session import Account, Branch, Transaction, Waiter
from txcoord_server.domain.settlement import Settler
from txcoord_server.domain.timers import Timers
from txcoord_server.domain.transitions import BranchEvent, GlobalEvent, next_branch

_REPORT_EVENTS = {
    PhaseOne.DONE: BranchEvent.REPORT_DONE,
    PhaseOne.FAILED: BranchEvent.REPORT_FAILED,
    PhaseOne.UNKNOWN: BranchEvent.REPORT_UNKNOWN,
}


class Transactions:
    """The state of a group of coordinators under one epoch.

    Args:
        group: Name of the group.
        epoch: Term of leadership; new XIDs carry it.
        limits: Bounds on what may be open.
    """

    def __init__(self, group: str, epoch: int, limits: Limits) -> None:
        self.limits = limits
        self.ledger = Ledger()
        self.lock_waits = LockWaits(self.ledger, self._admit, self._refuse_registration, self._give_way)
        self.reports = Reports(self.ledger)
        self.settler = Settler(self.ledger, self.lock_waits.granted)
        self._prefix = epoch_prefix(group, epoch)
        self.sequence = 0
        """Of the XID that was minted last."""
        self._deadlines: Timers[Transaction] = Timers()

    # ------------------------------------------------------------ begin

    def begin(self, service: str, new: NewTransaction, now: int) -> Transaction:
        """Begin a transaction; it has no row until its first branch or its decision.

        Raises:
            InvalidArgumentError: An argument is outside its range.
            TooManyTransactionsError: A limit on unfinished transactions is reached.
        """
        if new.begin_key and (known := self.ledger.by_begin_key.get(new.begin_key)) and known.service == service:
            return known
        account = self._account(service, new)
        timeout = new.timeout or self.limits.default_timeout
        self.sequence += 1
        transaction = Transaction(mint(self._prefix, self.sequence), new.name, account, now, now + timeout)
        transaction.key = new.key
        transaction.traceparent = new.traceparent
        if new.first_begun_at:
            transaction.first_begun_at = min(now, new.first_begun_at)
        transaction.begin_key = new.begin_key
        self.enter(transaction)
        return transaction

    def enter(self, transaction: Transaction) -> None:
        """Take a transaction into the books, with its deadline."""
        self.ledger.enter(transaction)
        if transaction.deadline_at and transaction.status is GlobalStatus.ACTIVE:
            self._deadlines.add(transaction.deadline_at, transaction)

    def reenter(self, transaction: Transaction) -> None:
        """Take a transaction that was loaded from the store into the books, with its locks."""
        self.enter(transaction)
        for branch in transaction.branches:
            if branch.lock_keys and self.settler.needs_locks(transaction, branch.resource):
                self.ledger.locks.hold(transaction, branch.resource, branch.lock_keys)

    def _account(self, service: str, new: NewTransaction) -> Account:
        bounds.check_text("name", new.name, bounds.MAX_NAME)
        bounds.check_text("key", new.key, bounds.MAX_KEY)
        bounds.check_text("traceparent", new.traceparent, bounds.MAX_TRACEPARENT)
        if not 0 <= new.begin_key <= bounds.MAX_BRANCH_ID:
            raise InvalidArgumentError(
                f"begin key {new.begin_key}: take it from the branch ids that the coordinator granted", {"field": "begin_key"}
            )
        if new.timeout > self.limits.timeout:
            raise InvalidArgumentError(
                f"timeout of {new.timeout} ms: at most {self.limits.timeout} ms are allowed; long-running work is a saga's",
                {"field": "timeout"},
            )
        if len(self.ledger.by_xid) >= self.limits.transactions:
            raise TooManyTransactionsError(
                f"{len(self.ledger.by_xid)} global transactions are unfinished, the coordinator's limit: try again later, "
                "or raise --max-transactions"
            )
        account = self.ledger.account(service)
        if account.unfinished >= self.limits.transactions_per_service:
            raise TooManyTransactionsError(
                f"service {service} has {account.unfinished} unfinished global transactions, the limit of one service: "
                "finish some, or raise --max-transactions-per-client"
            )
        return account

    # ------------------------------------------------------------ register

    def register(self, ticket: Ticket, xid: str, new: NewBranch, now: int) -> None:
        """Register a branch with its locks; answered with Ok or Registered after the group commit, or refused."""
        transaction = self.ledger.by_xid.get(xid)
        if transaction is None:
            self.ledger.ask_store(AbsentQuestion(ticket, "register", (xid,)))
            return
        try:
            self._register(ticket, transaction, new, now, _registered(transaction, now) if new.tell_timeout else OK)
        except TxcoordError as error:
            self.ledger.refuse(ticket, error)

    def begin_and_register(self, ticket: Ticket, service: str, begin: NewTransaction, new: NewBranch, now: int) -> None:
        """Begin a transaction with its first branch; answered with Begun or Registered after the group commit, or refused."""
        try:
            transaction = self.begin(service, begin, now)
        except TxcoordError as error:
            self.ledger.refuse(ticket, error)
            return
        try:
            answer = _registered(transaction, now) if new.tell_timeout else Begun(transaction.xid)
            self._register(ticket, transaction, new, now, answer)
        except TxcoordError as error:
            self.ledger.refuse(ticket, error)
            self._forget(transaction, new.id)

    def _register(self, ticket: Ticket, transaction: Transaction, new: NewBranch, now: int, answer: Answer) -> None:
        for known in transaction.branches:
            if known.id == new.id:
                _check_same(known, new)
                self.ledger.answer(ticket, answer)
                return
        if transaction.status is not GlobalStatus.ACTIVE:
            raise NotActiveError(
                f"{transaction.xid} is {transaction.status} ({transaction.reason}): a branch can no longer register; "
                "roll the local transaction back and begin a new global transaction",
                {"status": transaction.status, "reason": transaction.reason or ""},
            )
        if transaction.commit_wait:
            self.decide(transaction, Decision.ROLLBACK, Reason.LATE_BRANCH, now)
            raise NotActiveError(
                f"{transaction.xid} was being committed when this branch arrived, so it is rolled back: commit only after "
                "every call has returned",
                {"status": GlobalStatus.ROLLING_BACK, "reason": Reason.LATE_BRANCH},
            )
        if self.lock_waits and (waiting := self.lock_waits.waiting(transaction, new.id)) is not None:
            _check_same(waiting.branch, new)
            waiting.repeated(ticket, answer)
            return
        self._check_branch(transaction, new)
        branch = Branch(transaction, new.id, new.type, new.resource, new.lock_keys, new.arguments)
        branch.registered_at = now
        branch.registrant = ticket[0].name
        if new.done:
            branch.status = BranchStatus.DONE
            branch.reported_at = now
        registration = Registration(branch, ticket, answer)
        if new.lock_keys:
            wait = min(new.lock_wait, self.limits.lock_wait)
            self.lock_waits.register(registration, wait, new.holds_row_locks, now)
        else:
            self._admit(registration)

    def _check_branch(self, transaction: Transaction, new: NewBranch) -> None:
        if not 0 < new.id <= bounds.MAX_BRANCH_ID:
            raise InvalidArgumentError(f"branch id {new.id}: 1 to 2**63-1 is allowed", {"field": "branch_id"})
        bounds.check_resource(new.resource)
        if len(new.arguments) > self.limits.arguments:
            raise InvalidArgumentError(
                f"arguments of {len(new.arguments)} bytes: at most {self.limits.arguments} are allowed; pass a key and keep "
                "the data in your own table",
                {"field": "arguments"},
            )
        if len(new.lock_keys) > self.limits.locks:
            raise InvalidArgumentError(
                f"{len(new.lock_keys)} lock keys: at most {self.limits.locks} are allowed in one registration",
                {"field": "lock_keys"},
            )
        if self.ledger.weight + len(new.arguments) > self.limits.memory:
            raise TooManyTransactionsError(
                f"arguments and locks of unfinished transactions take {self.ledger.weight >> 20} MiB, the coordinator's limit: "
                "try again later, or pass keys and keep the data in your own tables"
            )
        for key in new.lock_keys:
            bounds.check_text("lock key", key, bounds.MAX_LOCK_KEY)
        if len(transaction.branches) >= self.limits.branches:
            raise InvalidArgumentError(
                f"{transaction.xid} has {len(transaction.branches)} branches, the limit of one transaction: do the work in "
                "fewer statements, or in a saga",
                {"field": "branches"},
            )

    def _admit(self, registration: Registration) -> None:
        branch = registration.branch
        transaction = branch.transaction
        transaction.branches.append(branch)
        transaction.open += 1
        self.ledger.weight += branch.weight
        if branch.status is BranchStatus.REGISTERED:
            transaction.unreported += 1
        effects = self.ledger.effects
        if transaction.stored_status is None:
            effects.transactions[transaction] = None
        effects.branches[branch] = None
        registration.tell(self.ledger, registration.answer)

    def _refuse_registration(self, registration: Registration, error: TxcoordError) -> None:
        registration.tell(self.ledger, Refused(error))
        self._forget(registration.branch.transaction, registration.branch.id)

    def _forget(self, transaction: Transaction, branch_id: int) -> None:
        """Drop a transaction that was begun within a registration which was refused: nobody has been told its XID."""
        unused = transaction.status is GlobalStatus.ACTIVE and transaction.stored_status is None and not transaction.branches
        if unused and transaction.begin_key == branch_id:
            self._deadlines.remove(transaction.deadline_at, transaction)
            self.ledger.leave(transaction)

    def _give_way(self, victim: Transaction, now: int) -> None:
        if victim.status is GlobalStatus.ACTIVE and victim.xid in self.ledger.by_xid:
            self.decide(victim, Decision.ROLLBACK, Reason.DEADLOCK, now)

    # ------------------------------------------------------------ phase-one reports

    def report(
        self, ticket: Ticket, xid: str, branch_id: int, result: PhaseOne, error: str, now: int, at_once: bool = False
    ) -> None:
        """Take a participant's report of its phase one; acknowledged once it is durable, or no longer matters.

        Args:
            ticket: Who reports.
            xid: The transaction.
            branch_id: The branch.
            result: How its phase one ended.
            error: Why, if it is not DONE.
            now: The time.
            at_once: Whether somebody waits for the acknowledgement.
        """
        transaction = self.ledger.by_xid.get(xid)
        branch = _find(transaction, branch_id) if transaction is not None else None
        if branch is not None and branch.status is BranchStatus.REGISTERED:
            if not ticket[0].may(branch.resource):
                denied = ResourceDeniedError.of(branch.resource)
                denied.details |= {"xid": xid, "branch_id": str(branch_id)}  # reports in columns have no request id
                self.ledger.refuse(ticket, denied)
                return
            if branch.transaction.decision is None:
                decided = self._report(branch, result, error, now)
                if result is PhaseOne.DONE and not decided and not at_once:
                    self.reports.hold(branch, ticket)
                    return
                self.ledger.effects.branches[branch] = None
            # else it was decided without it: it has been told to roll back, and its fence settles the rest
        elif branch is not None and (first := self.reports.take(branch)) is not None:
            # Sent twice, over two streams, and the one that comes last may be the older: both are told.
            self.ledger.effects.branches[branch] = None
            self.ledger.effects.answers.append((first, Reported(branch_id)))
        self.ledger.effects.answers.append((ticket, Reported(branch_id)))

    def _report(self, branch: Branch, result: PhaseOne, error: str, now: int) -> bool:
        """Whether the report has brought the decision about."""
        transaction = branch.transaction
        branch.status = next_branch(branch.status, _REPORT_EVENTS[result])
        branch.reported_at = now
        branch.error = bounds.clean_text(error, bounds.MAX_ERROR)
        transaction.unreported -= 1
        if result is PhaseOne.UNKNOWN:
            self.decide(transaction, Decision.ROLLBACK, Reason.BRANCH_UNKNOWN, now, error)
            return True
        if result is PhaseOne.FAILED:
            transaction.open -= 1
        if not transaction.commit_wait or transaction.unreported:
            return False
        self.decide(transaction, Decision.COMMIT, Reason.REQUESTED, now)
        return True

    # ------------------------------------------------------------ decisions

    def commit(self, ticket: Ticket, service: str, xid: str, wait: Wait, now: int) -> None:
        """Decide commit, now or when the last report has arrived; answered with the write-once decision."""
        transaction = self._owned(ticket, service, xid, "commit")
        if transaction is None:
            return
        self.settler.wait_for(transaction, Waiter(ticket, Decision.COMMIT, wait, now + self.limits.commit_wait))
        if transaction.status is not GlobalStatus.ACTIVE:
            self.settler.tell_decided(transaction)
        elif self.ledger.locks.waits(transaction):
            self.decide(transaction, Decision.ROLLBACK, Reason.LATE_BRANCH, now)
        elif not transaction.unreported:
            self.decide(transaction, Decision.COMMIT, Reason.REQUESTED, now)
        elif not transaction.commit_wait:
            until = now + self.limits.phase_one_wait
            transaction.commit_wait = min(until, transaction.deadline_at) if transaction.deadline_at else until
            self._deadlines.add(transaction.commit_wait, transaction)

    def rollback(self, ticket: Ticket, service: str, xid: str, wait: Wait, now: int, cause: str = "") -> None:
        """Decide rollback; answered with the write-once decision, or refused where that is commit."""
        transaction = self._owned(ticket, service, xid, "rollback")
        if transaction is not None:
            reason = Reason.TIMEOUT if _is_late(transaction, now) else Reason.REQUESTED
            self._roll_back(ticket, transaction, wait, reason, now, cause)

    def rollback_only(self, ticket: Ticket, xid: str, now: int, cause: str = "") -> None:
        """A participant's veto: decide rollback now, whoever began the transaction."""
        transaction = self.ledger.by_xid.get(xid)
        if transaction is None:
            self.ledger.ask_store(AbsentQuestion(ticket, "rollback", (xid,)))
            return
        reason = Reason.TIMEOUT if _is_late(transaction, now) else Reason.ROLLBACK_ONLY
        self._roll_back(ticket, transaction, Wait.DECIDED, reason, now, cause)

    def _roll_back(self, ticket: Ticket, transaction: Transaction, wait: Wait, reason: Reason, now: int, cause: str) -> None:
        self.settler.wait_for(transaction, Waiter(ticket, Decision.ROLLBACK, wait, now + self.limits.rollback_wait))
        if transaction.status is GlobalStatus.ACTIVE:
            self.decide(transaction, Decision.ROLLBACK, reason, now, cause)
        else:
            self.settler.tell_decided(transaction)

    def _owned(self, ticket: Ticket, service: str, xid: str, kind: str) -> Transaction | None:
        transaction = self.ledger.by_xid.get(xid)
        if transaction is None:
            self.ledger.ask_store(AbsentQuestion(ticket, kind, (xid,), service=service))
            return None
        if transaction.account.service != service:
            self.ledger.refuse(ticket, WrongOwnerError.of(xid, transaction.service, kind))
            return None
        return transaction

    def decide(self, transaction: Transaction, decision: Decision, reason: Reason, now: int, cause: str = "") -> None:
        """Take the write-once decision; its second phases start when the group commit has returned.

        Raises:
            ForbiddenTransitionError: It is decided already.
        """
        commit = decision is Decision.COMMIT
        event = GlobalEvent.DECIDE_COMMIT if commit else GlobalEvent.DECIDE_ROLLBACK
        self.ledger.move(transaction, event)
        transaction.changed()
        transaction.decision = decision
        transaction.reason = reason
        if cause:
            transaction.cause = bounds.clean_text(cause, bounds.MAX_ERROR)
        transaction.decided_at = now
        if transaction.deadline_at:
            self._deadlines.remove(transaction.deadline_at, transaction)
        if transaction.commit_wait:
            self._deadlines.remove(transaction.commit_wait, transaction)
            transaction.commit_wait = 0
        effects = self.ledger.effects
        effects.transactions[transaction] = None
        effects.decided.append(transaction)
        effects.durable = True
        self.reports.decided(transaction)
        if self.lock_waits:
            self.lock_waits.decided(transaction, now)
        self.settler.release_decided(transaction, now)
        if not transaction.open:
            self.settler.finish(transaction, now)
        self.settler.tell_decided(transaction)

    # ------------------------------------------------------------ time

    def tick(self, now: int) -> None:
        """Everything that is due: deadlines, waits for reports, waits for locks, waits for settlement."""
        for transaction in self._deadlines.due(now):
            if transaction.status is GlobalStatus.ACTIVE:
                self._overdue(transaction, now)
        self.reports.tick(now)
        if self.lock_waits:
            self.lock_waits.tick(now)
        self.settler.tick(now)

    def _overdue(self, transaction: Transaction, now: int) -> None:
        waited = transaction.commit_wait and transaction.commit_wait <= now
        reason = Reason.BRANCH_UNFINISHED if waited else Reason.TIMEOUT
        unused = transaction.stored_status is None and not transaction.branches and not self.ledger.locks.waits(transaction)
        if reason is Reason.TIMEOUT and unused:
            self.ledger.leave(transaction)  # it never had a row: an XID without one is taken as rolled back
            return
        self.decide(transaction, Decision.ROLLBACK, reason, now)

    # ------------------------------------------------------------ questions

    def query_locks(self, ticket: Ticket, resource: str, keys: tuple[str, ...], xid: str) -> None:
        """Whether `keys` are free for the transaction `xid`; answered after a group commit, since somebody acts on it."""
        holder = self.ledger.locks.free_for(self.ledger.by_xid.get(xid), resource, keys)
        self.ledger.answer(ticket, LockState(holder.xid if holder is not None else ""))

    def settled(self, ticket: Ticket, xids: tuple[str, ...]) -> None:
        """Which of `xids` are finished with every settlement durable: memory only knows those that are not."""
        known = tuple(Settlement.UNSETTLED if xid in self.ledger.by_xid else None for xid in xids)
        if all(known):
            self.ledger.answer(ticket, Settlements(tuple(k for k in known if k is not None)))
        else:
            self.ledger.ask_store(AbsentQuestion(ticket, "settled", xids, known))


def _registered(transaction: Transaction, now: int) -> Registered:
    left = max(1, transaction.deadline_at - now) if transaction.deadline_at else 0
    return Registered(transaction.xid, left)


def _is_late(transaction: Transaction, now: int) -> bool:
    """Whether its deadline has passed, which the next tick sees: who asks for rollback now does so since it has."""
    return 0 < transaction.deadline_at <= now


def _check_same(known: Branch, new: NewBranch) -> None:
    """The same registration sent twice, by a client that lost its stream, is answered like the first; another one is refused."""
    if (known.resource, known.type, known.lock_keys) != (new.resource, new.type, new.lock_keys):
        raise BranchMismatchError(
            f"branch {new.id} of {known.transaction.xid} is registered for {known.resource}: take branch ids only from "
            "the block that the coordinator granted to this process"
        )


def _find(transaction: Transaction, branch_id: int) -> Branch | None:
    for branch in transaction.branches:
        if branch.id == branch_id:
            return branch
    return None
