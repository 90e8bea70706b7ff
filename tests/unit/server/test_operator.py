"""An operator's orders: what each changes, what is refused, and when somebody is told."""

from __future__ import annotations

import pytest
from txcoord_proto.status import BranchStatus, BranchType, Decision, GlobalStatus, PhaseOne, Reason, Wait
from txcoord_server.domain.answers import OK, SETTLED, Refused
from txcoord_server.domain.effects import Effects
from txcoord_server.domain.explain import explain
from txcoord_server.domain.operator import Act, Operator, Order
from txcoord_server.domain.session import Transaction

from tests.unit.server.books import BALANCE, Books, Caller

G, B = GlobalStatus, BranchStatus
RETRY, FORCE_COMMIT, FORCE_ROLLBACK = Act


class Desk:
    """An operator at his desk."""

    def __init__(self) -> None:
        self.books = Books()
        self.operator = Operator(self.books.t)

    def order(self, act: Act, transaction: Transaction, version: int | None = None, reason: str = "rows were repaired") -> int:
        ticket = self.books.ticket()
        seen = transaction.revision if version is None else version
        self.operator.carry_out(ticket, Order(act, transaction.xid, seen, "anna", reason), self.books.now)
        return ticket[1]

    def stuck(self, decision: Decision = Decision.COMMIT) -> Transaction:
        """A decided transaction, durable, of which one branch is parked and one fails."""
        transaction = self.books.prepared()
        if decision is Decision.COMMIT:
            self.books.commit(transaction.xid, Wait.DECIDED)
        else:
            self.books.rollback(transaction.xid, Wait.DECIDED)
        self.books.commit_group()
        self.books.t.settler.failed(transaction.branches[0], "RETRY", "disk full", self.books.now + 60_000)
        self.books.t.settler.park(transaction.branches[1], "NOT_TRIED", "no row")
        self.books.commit_group()
        return transaction


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_retry_makes_what_is_parked_or_backs_off_due_now(desk: Desk) -> None:
    transaction = desk.stuck()
    seen = transaction.revision
    request = desk.order(RETRY, transaction, reason="")
    assert [(b.status, b.next_try_at) for b in transaction.branches] == [(B.DONE, desk.books.now)] * 2
    assert transaction.status is G.COMMITTING
    assert desk.books.told(request) is None, "a durable answer"
    effects = desk.books.commit_group()
    assert desk.books.told(request) is OK
    assert effects.operated == [transaction]
    assert list(effects.branches) == transaction.branches
    assert effects.audit == [(transaction.xid, seen, "RETRY", desk.books.now, "anna", "")]


def test_a_retry_leaves_a_branch_alone_that_is_being_asked(desk: Desk) -> None:
    transaction = desk.books.prepared()
    desk.books.commit(transaction.xid)
    desk.books.commit_group()
    desk.order(RETRY, transaction)
    effects = desk.books.commit_group()
    assert {b.next_try_at for b in transaction.branches} == {0}
    assert not effects.branches
    assert effects.transactions == {transaction: None}, "its version has changed"


@pytest.mark.parametrize(
    ("act", "decision", "end"), [(FORCE_COMMIT, Decision.COMMIT, G.COMMITTED), (FORCE_ROLLBACK, Decision.ROLLBACK, G.ROLLED_BACK)]
)
def test_a_force_declares_the_rest_done(desk: Desk, act: Act, decision: Decision, end: GlobalStatus) -> None:
    transaction = desk.stuck(decision)
    version = transaction.revision
    request = desk.order(act, transaction)
    assert desk.books.told(request) is None
    effects = desk.books.commit_group()
    assert desk.books.told(request) is OK
    assert (transaction.status, transaction.decision, transaction.forced) == (end, decision, True)
    assert {b.status for b in transaction.branches} == {B.FORCED}
    assert effects.audit == [(transaction.xid, version, act.value, desk.books.now, "anna", "rows were repaired")]
    assert effects.operated == [transaction]
    assert "by an operator's word" in explain(transaction).text


def test_a_forced_end_is_told_to_nobody_before_it_is_durable(desk: Desk) -> None:
    """A participant's answer proves that the decision is durable; an operator's word proves nothing of the kind."""
    books = desk.books
    transaction = books.prepared()
    waiter = books.commit(transaction.xid)
    desk.order(FORCE_COMMIT, transaction)
    assert transaction.status is G.COMMITTED
    assert books.told(waiter) is None
    books.commit_group()
    assert books.told(waiter) is SETTLED


def test_what_a_participant_settles_is_told_at_once_and_what_is_forced_is_not(desk: Desk) -> None:
    books = desk.books
    by_participant, by_operator = books.prepared(), books.prepared()
    waiters = [books.commit(t.xid) for t in (by_participant, by_operator)]
    books.commit_group()
    for branch in by_participant.branches:
        books.settle(branch)
    desk.order(FORCE_COMMIT, by_operator)
    assert [books.told(w) for w in waiters] == [SETTLED, None]
    books.commit_group()
    assert books.told(waiters[1]) is SETTLED


def test_a_force_gives_the_locks_back_after_the_group_commit(desk: Desk) -> None:
    books = desk.books
    holder, other = books.begin(), books.begin()
    _, branch = books.register(holder.xid, "db@1", BranchType.AT, lock_keys=("a",))
    books.report(holder.xid, branch)
    books.rollback(holder.xid)
    waits, _ = books.register(other.xid, "db@1", BranchType.AT, lock_keys=("a",), lock_wait=1_000)
    books.commit_group()
    desk.order(FORCE_ROLLBACK, holder)
    assert books.told(waits) is None
    books.commit_group()
    assert books.told(waits) is OK


def test_the_opposite_of_a_decision_is_refused(desk: Desk) -> None:
    for decision, act in ((Decision.COMMIT, FORCE_ROLLBACK), (Decision.ROLLBACK, FORCE_COMMIT)):
        transaction = desk.stuck(decision)
        refused(desk, desk.order(act, transaction), "CANNOT_FORCE", f"force-{decision.lower()} {transaction.xid}")
        assert transaction.status is G.PARKED


def test_an_undecided_transaction_is_rolled_back_by_force_and_its_branches_are_asked(desk: Desk) -> None:
    transaction = desk.books.prepared()
    desk.order(FORCE_ROLLBACK, transaction)
    assert (transaction.status, transaction.reason) == (G.ROLLING_BACK, Reason.FORCED)
    effects = desk.books.commit_group()
    assert effects.decided == [transaction]
    assert {b.status for b in transaction.branches} == {B.DONE}, "decided, not declared done: their second phases follow"
    assert not transaction.forced


def test_an_undecided_transaction_is_committed_by_force_only_when_every_branch_is_done(desk: Desk) -> None:
    books = desk.books
    transaction = books.begin()
    _, failed = books.register(transaction.xid)
    _, open_branch = books.register(transaction.xid, BALANCE)
    books.report(transaction.xid, failed, PhaseOne.FAILED)
    books.commit_group()
    refused(desk, desk.order(FORCE_COMMIT, transaction), "CANNOT_FORCE", "1 of 2 branches")
    assert transaction.status is G.ACTIVE
    books.report(transaction.xid, open_branch)
    desk.order(FORCE_COMMIT, transaction)
    assert (transaction.status, transaction.reason) == (G.COMMITTING, Reason.FORCED)
    assert "by an operator" in explain(transaction).text


def test_an_initiator_that_asks_later_hears_the_decision_of_the_operator(desk: Desk) -> None:
    books = desk.books
    transaction = books.prepared()
    desk.order(FORCE_COMMIT, transaction)
    rollback = books.rollback(transaction.xid)
    books.commit_group()
    assert books.error(rollback) == "ALREADY_COMMITTED"


def test_an_undecided_transaction_has_nothing_to_retry(desk: Desk) -> None:
    refused(desk, desk.order(RETRY, desk.books.prepared()), "CANNOT_FORCE", "force-rollback")


@pytest.mark.parametrize("act", list(Act))
def test_an_order_about_what_has_changed_changes_nothing(desk: Desk, act: Act) -> None:
    transaction = desk.stuck()
    seen = transaction.revision
    refused(desk, desk.order(act, transaction, version=seen - 1), "VERSION_CHANGED", "look again")
    assert (transaction.status, transaction.revision) == (G.PARKED, seen)


@pytest.mark.parametrize("change", ["registered", "reported", "settled", "parked", "retried"])
def test_whatever_an_operator_can_see_change_changes_the_version(desk: Desk, change: str) -> None:
    """Also what is written in the rows of branches only: the next leader counts on from there."""
    books = desk.books
    if change in ("registered", "reported"):
        transaction = books.begin()
        _, branch = books.register(transaction.xid)
    else:
        transaction = desk.stuck()
    seen = transaction.revision
    match change:
        case "registered":
            books.register(transaction.xid)
        case "reported":
            books.report(transaction.xid, branch)
        case "settled":
            books.settle(transaction.branches[0])
        case "parked":
            books.t.settler.park(transaction.branches[0], "NOT_TRIED", "no row")
        case "retried":
            desk.order(RETRY, transaction)
            books.commit_group()
    assert transaction.revision > seen
    refused(desk, desk.order(FORCE_ROLLBACK, transaction, seen), "VERSION_CHANGED", "look again")


def test_versions_grow_over_a_whole_life_and_never_repeat(desk: Desk) -> None:
    """They are keys of the audit."""
    books = desk.books
    transaction = books.begin()
    seen = [transaction.revision]
    for _ in range(2):
        _, id = books.register(transaction.xid)
        seen.append(transaction.revision)
        books.report(transaction.xid, id)
        seen.append(transaction.revision)
    books.commit(transaction.xid, Wait.DECIDED)
    seen.append(transaction.revision)
    for branch in transaction.branches:
        books.t.settler.park(branch, "NOT_TRIED", "no row")
        seen.append(transaction.revision)
    desk.order(RETRY, transaction)
    seen.append(transaction.revision)
    for branch in transaction.branches:
        books.settle(branch)
        seen.append(transaction.revision)
    assert transaction.status is G.COMMITTED
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("act", [FORCE_COMMIT, FORCE_ROLLBACK])
def test_two_operators_with_the_same_version(desk: Desk, act: Act) -> None:
    transaction = desk.books.prepared()
    seen = transaction.revision
    first, second = desk.order(act, transaction, seen), desk.order(FORCE_ROLLBACK, transaction, seen)
    effects = desk.books.commit_group()
    assert desk.books.told(first) is OK
    assert desk.books.error(second) == "VERSION_CHANGED"
    assert len(effects.audit) == 1


@pytest.mark.parametrize(
    ("act", "version", "reason", "text"),
    [
        (FORCE_COMMIT, None, "", "say why"),
        (FORCE_ROLLBACK, None, " \t", "say why"),
        (RETRY, 0, "", "version"),
        (FORCE_COMMIT, None, "x" * 501, "501 characters"),
        (FORCE_COMMIT, None, "x\0", "NUL"),
    ],
)
def test_an_incomplete_order(desk: Desk, act: Act, version: int | None, reason: str, text: str) -> None:
    refused(desk, desk.order(act, desk.stuck(), version, reason), "INVALID_ARGUMENT", text)


def test_a_branch_that_a_dead_process_left_unreported_is_rolled_back_by_force(desk: Desk) -> None:
    transaction = desk.books.begin()
    desk.books.register(transaction.xid)
    desk.order(FORCE_ROLLBACK, transaction)
    desk.order(FORCE_ROLLBACK, transaction)
    effects = desk.books.commit_group()
    assert transaction.status is G.ROLLED_BACK
    assert [row[1] for row in effects.audit] == [2, 3], "two acts, each with the version that it saw"


def test_an_actor_of_any_length_fits_the_audit(desk: Desk) -> None:
    transaction = desk.stuck()
    ticket = (Caller(), 1)
    desk.operator.carry_out(ticket, Order(RETRY, transaction.xid, transaction.revision, "a" * 500), desk.books.now)
    assert len(str(desk.books.commit_group().audit[0][4])) == 128


def refused(desk: Desk, request: int, code: str, text: str) -> Effects:
    effects = desk.books.commit_group()
    answer = desk.books.told(request)
    assert isinstance(answer, Refused)
    assert (answer.error.code, effects.audit) == (code, [])
    assert text in answer.error.message
    return effects
