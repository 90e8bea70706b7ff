"""The second phase: what happens to a transaction after its decision, and who is told when.

A decision never changes here. A branch settles, waits for its next try, is parked for a person, or is declared done by one. The
transaction is finished when nothing is expected of any branch; only then it leaves memory.
"""

from __future__ import annotations

from collections.abc import Callable

from txcoord_proto.errors import AlreadyCommittedError, TooManyTransactionsError
from txcoord_proto.status import BranchStatus, BranchType, Decision, GlobalStatus, Wait

from txcoord_server.domain.answers import OK, SETTLED, Answer, Decided, Refused
from txcoord_server.domain.explain import explain
from txcoord_server.domain.ledger import Ledger
from txcoord_server.domain.limits import MAX_CODE, MAX_ERROR, clean_text
from txcoord_server.domain.locks import LockRequest
from txcoord_server.domain.session import Branch, Transaction, Waiter
from txcoord_server.domain.timers import Timers
from txcoord_server.domain.transitions import ENDED_BRANCH, BranchEvent, GlobalEvent, next_branch

MOST_WAITERS = 100
"""For one transaction: clients that lose their streams ask again."""
_WAITED_FOR = frozenset({BranchType.XA, BranchType.TCC})


class Settler:
    """Steps of the second phase.

    Args:
        ledger: The books.
        on_granted: Called with lock requests that a release has granted, and the time.
    """

    def __init__(self, ledger: Ledger, on_granted: Callable[[list[LockRequest], int], None]) -> None:
        self._ledger = ledger
        self._on_granted = on_granted
        self._waits: Timers[Transaction] = Timers()

    # ------------------------------------------------------------ answers of participants

    def settle(self, branch: Branch, now: int) -> None:
        """The branch's second phase is done, now or earlier."""
        self._end(branch, BranchEvent.SETTLE, now)
        if branch.transaction.waiters is not None:
            self._tell_settled(branch.transaction)

    def failed(self, branch: Branch, code: str, error: str, next_try_at: int) -> None:
        """A try failed; the branch will be tried again."""
        branch.error_code = clean_text(code, MAX_CODE)
        branch.error = clean_text(error, MAX_ERROR)
        branch.next_try_at = next_try_at
        self._ledger.effects.branches[branch] = None

    def overdue(self, branch: Branch) -> None:
        """The branch has failed so often that it is shown as overdue until it has settled or is parked."""
        self._ledger.overdue.add(branch)

    def park(self, branch: Branch, code: str, error: str) -> None:
        """The branch needs a person; the others go on."""
        transaction = branch.transaction
        branch.status = next_branch(branch.status, BranchEvent.PARK)
        branch.error_code = clean_text(code, MAX_CODE)
        branch.error = clean_text(error, MAX_ERROR)
        branch.next_try_at = 0
        self._ledger.move(transaction, GlobalEvent.PARK)
        transaction.once_parked = True
        transaction.changed()
        self._ledger.overdue.discard(branch)
        self._ledger.effects.branches[branch] = None
        self._ledger.effects.transactions[transaction] = None
        self._tell_settled(transaction)

    # ------------------------------------------------------------ an operator's acts

    def retry(self, transaction: Transaction, now: int) -> None:
        """Try every branch that is parked or waits for its next try again, now."""
        for branch in transaction.branches:
            if branch.status is BranchStatus.PARKED:
                branch.status = next_branch(branch.status, BranchEvent.RETRY)
            elif not branch.next_try_at:
                continue
            branch.next_try_at = now
            self._ledger.effects.branches[branch] = None
        transaction.changed()
        self._ledger.effects.transactions[transaction] = None
        self._ledger.effects.operated.append(transaction)
        self._resume(transaction)

    def force(self, transaction: Transaction, now: int) -> None:
        """Declare every branch that has not settled done, by an operator's word; the decision stays as it is.

        Those who wait are told after the group commit: unlike a participant's answer, the word of an operator proves neither that
        the decision is durable nor that the branch would be found done again.
        """
        transaction.forced = True
        for branch in transaction.branches:
            if branch.status not in ENDED_BRANCH:
                self._end(branch, BranchEvent.FORCE, now)
        self._ledger.effects.operated.append(transaction)
        self.tell_decided(transaction)

    # ------------------------------------------------------------ the decision's consequences

    def release_decided(self, transaction: Transaction, now: int) -> None:
        """Give back the locks that a decision frees at once: of committed AT branches, and where every branch failed."""
        done = set()
        for branch in transaction.branches:
            if branch.lock_keys and branch.resource not in done:
                done.add(branch.resource)
                self._release(transaction, branch.resource, now)

    @staticmethod
    def needs_locks(transaction: Transaction, resource: str) -> bool:
        """Whether the transaction still needs its locks on `resource`.

        It does until its last branch there has settled; committed AT branches need none after the decision.
        """
        if transaction.decision is None:
            return True
        committed = transaction.decision is Decision.COMMIT
        for branch in transaction.branches:
            if branch.resource != resource or branch.status in ENDED_BRANCH:
                continue
            if not (committed and branch.type is BranchType.AT):
                return True
        return False

    def finish(self, transaction: Transaction, now: int) -> None:
        """Nothing is expected of any branch: the transaction is over."""
        committed = transaction.decision is Decision.COMMIT
        event = GlobalEvent.ALL_COMMITTED if committed else GlobalEvent.ALL_ROLLED_BACK
        self._ledger.move(transaction, event)
        transaction.settled_at = now
        transaction.changed()
        self._ledger.effects.transactions[transaction] = None
        self._ledger.leave(transaction)

    # ------------------------------------------------------------ those who wait

    def wait_for(self, transaction: Transaction, waiter: Waiter) -> None:
        """Let somebody wait for the decision, and for settlement if he wants that."""
        if transaction.waiters is None:
            transaction.waiters = []
        elif len(transaction.waiters) >= MOST_WAITERS:
            oldest = transaction.waiters.pop(0)
            error = f"commit or rollback of {transaction.xid} was asked for {MOST_WAITERS} times since: ask for its status"
            self._ledger.refuse(oldest.ticket, TooManyTransactionsError(error))
        transaction.waiters.append(waiter)

    def tell_decided(self, transaction: Transaction) -> None:
        """Answer, after the next group commit, those whom the decision answers; the others wait for settlement."""
        if transaction.waiters is None or transaction.decision is None:
            return
        kept = []
        for waiter in transaction.waiters:
            answer = self._answer(transaction, waiter)
            if answer is None:
                kept.append(waiter)
                self._waits.add(waiter.until, transaction)
            else:
                self._ledger.answer(waiter.ticket, answer)
        transaction.waiters = kept or None

    def tick(self, now: int) -> None:
        """Answer those whose time to wait for settlement is over: decided, not settled.

        Like the decision's own answers these follow a group commit: the store may have been slow, and the decision not be
        durable.
        """
        for transaction in self._waits.due(now):
            for waiter in transaction.waiters or ():
                self._ledger.answer(waiter.ticket, OK)
            transaction.waiters = None

    # ------------------------------------------------------------ inside

    def _end(self, branch: Branch, event: BranchEvent, now: int) -> None:
        transaction = branch.transaction
        was_parked = branch.status is BranchStatus.PARKED
        branch.status = next_branch(branch.status, event)
        branch.settled_at = now
        branch.next_try_at = 0
        transaction.open -= 1
        self._ledger.overdue.discard(branch)
        self._ledger.effects.branches[branch] = None
        # Also where this one has no keys: it may be the last that needed those of others.
        if self._ledger.locks.count and not (branch.type is BranchType.AT and transaction.decision is Decision.COMMIT):
            self._release(transaction, branch.resource, now)
        if not transaction.open:
            self.finish(transaction, now)
        elif was_parked:
            self._resume(transaction)

    def _resume(self, transaction: Transaction) -> None:
        parked = any(branch.status is BranchStatus.PARKED for branch in transaction.branches)
        if transaction.status is GlobalStatus.PARKED and not parked:
            committed = transaction.decision is Decision.COMMIT
            event = GlobalEvent.RESUME_COMMIT if committed else GlobalEvent.RESUME_ROLLBACK
            self._ledger.move(transaction, event)
            self._ledger.effects.transactions[transaction] = None

    def _release(self, transaction: Transaction, resource: str, now: int) -> None:
        """Give back the locks on `resource` once the last branch that needs them there has settled."""
        if self.needs_locks(transaction, resource):
            return
        keys = [key for branch in transaction.branches if branch.resource == resource for key in branch.lock_keys]
        granted = self._ledger.locks.release(transaction, resource, keys)
        if granted:
            self._on_granted(granted, now)

    def _tell_settled(self, transaction: Transaction) -> None:
        """Answer those who waited for settlement, at once.

        Only for what participants answered: no command is sent before the decision is durable, so an answer to one proves it.
        """
        kept = []
        for waiter in transaction.waiters or ():
            answer = self._answer(transaction, waiter)
            if answer is None:
                kept.append(waiter)
            else:
                waiter.ticket[0].answer(waiter.ticket[1], answer)
                self._waits.remove(waiter.until, transaction)
        transaction.waiters = kept or None

    def _answer(self, transaction: Transaction, waiter: Waiter) -> Answer | None:
        """What the transaction's state answers to a waiter; None: he has to wait."""
        if waiter.wanted is not transaction.decision:
            if waiter.wanted is Decision.ROLLBACK:
                return Refused(
                    AlreadyCommittedError(
                        f"{transaction.xid} is decided COMMIT, and a decision never changes: undo its effects with a new "
                        "transaction"
                    )
                )
            return decided(transaction)
        if transaction.status is GlobalStatus.PARKED:
            return decided(transaction)
        if waiter.wait is Wait.SETTLED and any(_waited_for(branch) for branch in transaction.branches):
            return None
        return OK if transaction.open else SETTLED


def _waited_for(branch: Branch) -> bool:
    """Whether settlement of this branch is what a caller waits for: XA and TCC, and everything in a rollback."""
    if branch.status in ENDED_BRANCH:
        return False
    return branch.type in _WAITED_FOR or branch.transaction.decision is Decision.ROLLBACK


def decided(transaction: Transaction) -> Decided:
    """The full answer about a decided transaction."""
    return Decided(
        transaction.xid,
        transaction.status,
        transaction.decision or "",
        transaction.reason or "",
        transaction.settled_at > 0,
        explain(transaction).text,
    )
