"""Begin, register, report, decide: what each step tells, and when."""

from __future__ import annotations

import pytest
from txcoord_proto.errors import InvalidArgumentError, TooManyTransactionsError
from txcoord_proto.status import BranchStatus, BranchType, Decision, GlobalStatus, PhaseOne, Reason, Wait
from txcoord_server.domain.answers import OK, SETTLED, Begun, Decided, LockState, Refused
from txcoord_server.domain.explain import explain
from txcoord_server.domain.limits import Limits
from txcoord_server.domain.requests import NewBranch, NewTransaction

from tests.unit.server.books import BALANCE, STOCK, Books, Caller, begun_xid

G, B = GlobalStatus, BranchStatus


def test_nothing_durable_is_told_before_the_group_commit() -> None:
    books = Books()
    transaction = books.begin()
    request, _ = books.register(transaction.xid)
    assert books.told(request) is None
    effects = books.commit_group()
    assert books.told(request) is OK
    assert list(effects.transactions) == [transaction]
    assert list(effects.branches) == transaction.branches


def test_begin_writes_nothing_and_leaves_memory_at_its_deadline() -> None:
    books = Books()
    transaction = books.begin(timeout=1_000)
    assert not books.t.ledger.effects
    books.t.tick(books.now + 2_000)
    assert transaction.xid not in books.t.ledger.by_xid
    assert not books.t.ledger.effects


def test_nothing_is_kept_of_services_that_have_nothing_open() -> None:
    """Without tokens a client chooses its name, and may choose another each time."""
    books = Books(Limits(transactions=1))
    for n in range(3):
        transaction = books.begin(f"service-{n}")
        with pytest.raises(TooManyTransactionsError):
            books.begin(f"other-{n}")
        books.rollback(transaction.xid, service=f"service-{n}")
    assert books.t.ledger.accounts == {}


def test_begin_within_the_registration_is_found_again() -> None:
    books = Books()
    new = NewTransaction("place_order", begin_key=7)
    first, second = books.ticket(), books.ticket()
    for ticket in (first, second):
        books.t.begin_and_register(ticket, "order", new, NewBranch(7, BranchType.TCC, STOCK), books.now)
    books.commit_group()
    xid = begun_xid(books.told(first[1]))
    assert books.told(second[1]) == Begun(xid)
    assert len(books.t.ledger.by_xid[xid].branches) == 1


def test_a_begin_key_of_another_service_finds_nothing() -> None:
    books = Books()
    assert books.begin("order", begin_key=7) is not books.begin("stock", begin_key=7)


def test_commit_with_every_branch_done_is_decided_at_once_and_told_settled_after_the_last_branch() -> None:
    books = Books()
    transaction = books.prepared()
    request = books.commit(transaction.xid)
    assert transaction.status is G.COMMITTING
    effects = books.commit_group()
    assert effects.decided == [transaction]
    assert books.told(request) is None
    books.settle(transaction.branches[0])
    assert books.told(request) is None
    books.settle(transaction.branches[1])
    assert books.told(request) is SETTLED
    assert transaction.status is G.COMMITTED
    assert transaction.xid not in books.t.ledger.by_xid


def test_commit_of_at_branches_is_told_when_it_is_decided() -> None:
    books = Books()
    transaction = books.prepared(kind=BranchType.AT)
    request = books.commit(transaction.xid)
    books.commit_group()
    assert books.told(request) is OK


def test_commit_without_branches_has_a_row_and_is_settled_with_it() -> None:
    books = Books()
    transaction = books.begin()
    request = books.commit(transaction.xid)
    effects = books.commit_group()
    assert list(effects.transactions) == [transaction]
    assert transaction.status is G.COMMITTED
    assert books.told(request) is SETTLED


def test_a_rollback_explains_itself_in_the_words_of_who_asked_for_it() -> None:
    books = Books()
    transaction = books.prepared()
    request = books.rollback(transaction.xid, Wait.DECIDED, cause="OutOfStock('tea')\0" + "x" * 600)
    books.commit_group()
    assert books.told(request) is OK
    assert "its initiator asked for it (OutOfStock('tea')\ufffdxxx" in explain(transaction).text
    assert len(transaction.cause) == 500


def test_commit_waits_for_a_report_that_is_under_way() -> None:
    books = Books()
    transaction = books.begin()
    _, branch = books.register(transaction.xid, kind=BranchType.AT)
    request = books.commit(transaction.xid)
    books.commit_group()
    assert transaction.status is G.ACTIVE
    books.report(transaction.xid, branch)
    assert transaction.status is G.COMMITTING
    books.commit_group()
    assert books.told(request) is OK


def test_commit_without_a_report_is_rolled_back_in_time() -> None:
    books = Books(Limits(phase_one_wait=5_000))
    transaction = books.begin()
    books.register(transaction.xid)
    request = books.commit(transaction.xid)
    books.commit_group()
    books.t.tick(books.now + 4_900)
    assert transaction.status is G.ACTIVE
    books.t.tick(books.now + 5_100)
    assert (transaction.status, transaction.reason) == (G.ROLLING_BACK, Reason.BRANCH_UNFINISHED)
    books.commit_group()
    answer = books.told(request)
    assert isinstance(answer, Decided)
    assert (answer.status, answer.reason) == (G.ROLLING_BACK, Reason.BRANCH_UNFINISHED)


def test_waiting_for_a_report_ends_with_the_deadline() -> None:
    books = Books(Limits(phase_one_wait=5_000))
    transaction = books.begin(timeout=1_000)
    books.register(transaction.xid)
    books.commit(transaction.xid)
    books.t.tick(books.now + 1_100)
    assert transaction.reason is Reason.BRANCH_UNFINISHED


def test_an_unknown_phase_one_rolls_back_at_once() -> None:
    books = Books()
    transaction = books.begin()
    _, branch = books.register(transaction.xid)
    books.report(transaction.xid, branch, PhaseOne.UNKNOWN)
    assert (transaction.status, transaction.reason) == (G.ROLLING_BACK, Reason.BRANCH_UNKNOWN)
    assert transaction.open == 1, "it is told to roll back: its fence settles what happened"


def test_a_failed_branch_takes_no_part_and_the_rest_commits() -> None:
    books = Books()
    transaction = books.begin()
    _, failed = books.register(transaction.xid, STOCK)
    _, done = books.register(transaction.xid, BALANCE)
    books.report(transaction.xid, failed, PhaseOne.FAILED)
    books.report(transaction.xid, done)
    request = books.commit(transaction.xid)
    books.commit_group()
    books.settle(transaction.branches[1])
    assert books.told(request) is SETTLED
    assert [b.status for b in transaction.branches] == [B.FAILED, B.SETTLED]


def test_a_report_by_somebody_else_is_refused_and_changes_nothing() -> None:
    books = Books()
    transaction = books.begin()
    _, branch = books.register(transaction.xid)
    stranger = Caller(allowed=False)
    books.t.report((stranger, 1), transaction.xid, branch, PhaseOne.DONE, "", books.now)
    books.commit_group()
    refused = stranger.told[1]
    assert isinstance(refused, Refused)
    assert (refused.error.code, refused.error.details) == (
        "RESOURCE_DENIED",
        {"resource": STOCK, "xid": transaction.xid, "branch_id": str(branch)},
    )
    assert transaction.branches[0].status is B.REGISTERED


def test_a_report_after_the_decision_changes_nothing() -> None:
    books = Books()
    transaction = books.begin()
    _, branch = books.register(transaction.xid)
    books.rollback(transaction.xid)
    books.report(transaction.xid, branch)
    assert transaction.branches[0].status is B.REGISTERED
    assert transaction.status is G.ROLLING_BACK


def test_a_registration_after_the_decision_is_refused() -> None:
    books = Books()
    transaction = books.prepared()
    books.commit(transaction.xid)
    request, _ = books.register(transaction.xid, "third:x@3")
    books.commit_group()
    assert books.error(request) == "NOT_ACTIVE"
    assert len(transaction.branches) == 2


def test_a_registration_while_commit_waits_rolls_back() -> None:
    books = Books()
    transaction = books.begin()
    books.register(transaction.xid)
    books.commit(transaction.xid)
    request, _ = books.register(transaction.xid, BALANCE)
    books.commit_group()
    assert transaction.reason is Reason.LATE_BRANCH
    assert books.error(request) == "NOT_ACTIVE"


def test_the_same_registration_twice_is_one_branch() -> None:
    books = Books()
    transaction = books.begin()
    first, branch = books.register(transaction.xid)
    again, _ = books.register(transaction.xid, id=branch)
    other, _ = books.register(transaction.xid, BALANCE, id=branch)
    books.commit_group()
    assert books.told(first) is OK
    assert books.told(again) is OK
    assert books.error(other) == "BRANCH_MISMATCH"
    assert len(transaction.branches) == 1


def test_the_same_registration_again_after_the_decision_gets_the_same_answer() -> None:
    books = Books()
    transaction = books.prepared(STOCK)
    books.commit(transaction.xid)
    again, _ = books.register(transaction.xid, STOCK, id=transaction.branches[0].id)
    books.commit_group()
    assert books.told(again) is OK


def test_a_second_commit_gets_the_same_decision() -> None:
    books = Books()
    transaction = books.prepared()
    first, second = books.commit(transaction.xid), books.commit(transaction.xid)
    books.commit_group()
    for branch in transaction.branches:
        books.settle(branch)
    assert books.told(first) is SETTLED
    assert books.told(second) is SETTLED


def test_rollback_after_commit_is_refused_and_commit_after_rollback_is_told_the_truth() -> None:
    books = Books()
    committed, rolled_back = books.prepared(), books.prepared()
    books.commit(committed.xid)
    refused = books.rollback(committed.xid)
    books.rollback(rolled_back.xid)
    told = books.commit(rolled_back.xid)
    books.commit_group()
    assert books.error(refused) == "ALREADY_COMMITTED"
    answer = books.told(told)
    assert isinstance(answer, Decided)
    assert answer.status == G.ROLLING_BACK


def test_only_the_service_that_began_decides() -> None:
    books = Books()
    transaction = books.prepared()
    by_others = books.commit(transaction.xid, service="stock"), books.rollback(transaction.xid, service="stock")
    books.commit_group()
    assert [books.error(r) for r in by_others] == ["WRONG_OWNER", "WRONG_OWNER"]
    assert transaction.status is G.ACTIVE


def test_any_participant_may_veto() -> None:
    books = Books()
    transaction = books.prepared()
    ticket = books.ticket()
    books.t.rollback_only(ticket, transaction.xid, books.now)
    books.commit_group()
    assert books.told(ticket[1]) is OK
    assert transaction.reason is Reason.ROLLBACK_ONLY


def test_the_deadline_rolls_back_and_a_late_commit_is_told_so() -> None:
    books = Books()
    transaction = books.prepared()
    books.t.tick(transaction.deadline_at + 100)
    request = books.commit(transaction.xid)
    books.commit_group()
    answer = books.told(request)
    assert isinstance(answer, Decided)
    assert answer.reason == Reason.TIMEOUT


def test_rollback_is_told_settled_or_decided_after_its_limit() -> None:
    books = Books(Limits(rollback_wait=10_000))
    transaction = books.prepared()
    request = books.rollback(transaction.xid)
    books.commit_group()
    books.t.tick(books.now + 9_900)
    assert books.told(request) is None
    books.t.tick(books.now + 10_200)
    books.commit_group()
    assert books.told(request) is OK


def test_a_limit_that_passes_while_the_decision_is_being_written_tells_nothing_early() -> None:
    books = Books(Limits(commit_wait=5_000))
    transaction = books.prepared()
    request = books.commit(transaction.xid)
    writing = books.t.ledger.take_effects()
    assert writing.decided == [transaction]
    books.t.tick(books.now + 60_000)
    assert books.told(request) is None, "the store may refuse the decision yet: this node may no longer lead"


def test_wait_decided_is_told_with_the_decision() -> None:
    books = Books()
    transaction = books.prepared()
    request = books.rollback(transaction.xid, Wait.DECIDED)
    books.commit_group()
    assert books.told(request) is OK


def test_a_parked_branch_parks_the_transaction_and_the_others_go_on() -> None:
    books = Books()
    transaction = books.prepared()
    request = books.commit(transaction.xid)
    books.commit_group()
    books.t.settler.park(transaction.branches[0], "NOT_TRIED", "no row")
    assert (transaction.status, transaction.decision) == (G.PARKED, Decision.COMMIT)
    answer = books.told(request)
    assert isinstance(answer, Decided)
    assert answer.status == G.PARKED
    assert "no row" in answer.explanation
    books.settle(transaction.branches[1])
    assert transaction.status is G.PARKED
    books.t.settler.retry(transaction, books.now)
    assert transaction.status is G.COMMITTING
    books.settle(transaction.branches[0])
    assert (transaction.status, transaction.once_parked) == (G.COMMITTED, True)


def test_limits_on_open_transactions() -> None:
    books = Books(Limits(transactions=3, transactions_per_service=2))
    first = books.begin("order")
    books.begin("order")
    with pytest.raises(TooManyTransactionsError, match="service order"):
        books.begin("order")
    books.begin("stock")
    with pytest.raises(TooManyTransactionsError, match="coordinator's limit"):
        books.begin("balance")
    books.commit(first.xid)
    books.commit_group()
    books.begin("order")


@pytest.mark.parametrize(
    ("new", "field"),
    [
        (NewTransaction("n" * 129), "name"),
        (NewTransaction("n\0"), "name"),
        (NewTransaction("n", key="k" * 129), "key"),
        (NewTransaction("n", timeout=25 * 3600 * 1000), "timeout"),
        (NewTransaction("n", traceparent="t" * 65), "traceparent"),
    ],
)
def test_bad_begins_change_nothing(new: NewTransaction, field: str) -> None:
    books = Books()
    with pytest.raises(InvalidArgumentError) as caught:
        books.t.begin("order", new, books.now)
    assert caught.value.details["field"] == field
    assert not books.t.ledger.by_xid


@pytest.mark.parametrize(
    ("new", "field"),
    [
        (NewBranch(0, BranchType.TCC, STOCK), "branch_id"),
        (NewBranch(1 << 63, BranchType.TCC, STOCK), "branch_id"),
        (NewBranch(1, BranchType.TCC, ""), "resource"),
        (NewBranch(1, BranchType.TCC, "with blank"), "resource"),
        (NewBranch(1, BranchType.TCC, "r" * 201), "resource"),
        (NewBranch(1, BranchType.TCC, STOCK, ("k" * 513,)), "lock key"),
        (NewBranch(1, BranchType.TCC, STOCK, ("k\0",)), "lock key"),
        (NewBranch(1, BranchType.TCC, STOCK, arguments=b"x" * ((1 << 20) + 1)), "arguments"),
        (NewBranch(1, BranchType.TCC, STOCK, tuple(map(str, range(10_001)))), "lock_keys"),
    ],
)
def test_bad_registrations_change_nothing(new: NewBranch, field: str) -> None:
    books = Books()
    transaction = books.begin()
    ticket = books.ticket()
    books.t.register(ticket, transaction.xid, new, books.now)
    books.commit_group()
    assert books.error(ticket[1]) == "INVALID_ARGUMENT"
    assert not transaction.branches
    assert not books.t.ledger.locks.count


def test_too_many_branches() -> None:
    books = Books(Limits(branches=2))
    transaction = books.begin()
    books.register(transaction.xid)
    books.register(transaction.xid)
    request, _ = books.register(transaction.xid)
    books.commit_group()
    assert books.error(request) == "INVALID_ARGUMENT"


# ---------------------------------------------------------------- global locks


def test_a_lock_conflict_names_the_holder_and_takes_nothing() -> None:
    books = Books()
    holder, other = books.begin(), books.begin()
    books.register(holder.xid, "db@1", BranchType.AT, lock_keys=("a",))
    request, _ = books.register(other.xid, "db@1", BranchType.AT, lock_keys=("b", "a"))
    books.commit_group()
    assert books.error(request) == "LOCK_CONFLICT"
    assert not other.branches
    assert books.t.ledger.locks.count == 1


def test_a_waiter_is_granted_by_push_when_the_holder_commits() -> None:
    books = Books()
    holder, other = books.begin(), books.begin()
    _, branch = books.register(holder.xid, "db@1", BranchType.AT, lock_keys=("a",))
    books.report(holder.xid, branch)
    request, _ = books.register(other.xid, "db@1", BranchType.AT, lock_keys=("a",), lock_wait=1_000)
    books.commit_group()
    assert books.told(request) is None
    books.commit(holder.xid)
    effects = books.commit_group()
    assert books.told(request) is OK, "granted in the decision's own group commit"
    assert list(effects.branches) == other.branches


def test_locks_of_a_rollback_are_kept_until_its_branch_has_settled() -> None:
    books = Books()
    holder, other = books.begin(), books.begin()
    _, branch = books.register(holder.xid, "db@1", BranchType.AT, lock_keys=("a",))
    books.report(holder.xid, branch)
    books.rollback(holder.xid)
    request, _ = books.register(other.xid, "db@1", BranchType.AT, lock_keys=("a",), lock_wait=1_000)
    hopeless, _ = books.register(other.xid, "db@1", BranchType.AT, lock_keys=("a",), lock_wait=1_000, holds_row_locks=True)
    books.commit_group()
    assert books.told(request) is None
    assert books.error(hopeless) == "LOCK_CONFLICT"
    books.settle(holder.branches[0])
    books.commit_group()
    assert books.told(request) is OK


def test_a_lock_wait_ends_at_its_time() -> None:
    books = Books()
    holder, other = books.begin(), books.begin()
    books.register(holder.xid, "db@1", BranchType.AT, lock_keys=("a",))
    request, _ = books.register(other.xid, "db@1", BranchType.AT, lock_keys=("a",), lock_wait=1_000)
    books.t.tick(books.now + 1_100)
    books.commit_group()
    assert books.error(request) == "LOCK_TIMEOUT"


def test_the_youngest_of_a_deadlock_is_rolled_back() -> None:
    books = Books()
    old = books.begin()
    books.now += 10
    young = books.begin()
    for transaction, key in ((old, "a"), (young, "b")):
        _, branch = books.register(transaction.xid, "db@1", BranchType.AT, lock_keys=(key,))
        books.report(transaction.xid, branch)
    waits, _ = books.register(young.xid, "db@1", BranchType.AT, lock_keys=("a",), lock_wait=60_000)
    closes, _ = books.register(old.xid, "db@1", BranchType.AT, lock_keys=("b",), lock_wait=60_000)
    books.commit_group()
    assert books.error(waits) == "DEADLOCK"
    assert (young.status, young.reason) == (G.ROLLING_BACK, Reason.DEADLOCK)
    assert books.told(closes) is None
    books.settle(young.branches[0])
    books.commit_group()
    assert books.told(closes) is OK


def test_a_lock_query_sees_others_locks_and_not_its_own() -> None:
    books = Books()
    holder = books.begin()
    books.register(holder.xid, "db@1", BranchType.AT, lock_keys=("a",))
    answers = []
    for xid, keys in (("", ("a",)), (holder.xid, ("a",)), ("", ("b",))):
        ticket = books.ticket()
        books.t.query_locks(ticket, "db@1", keys, xid)
        answers.append(ticket[1])
    assert all(books.told(a) is None for a in answers), "somebody acts on it: told after a fenced commit"
    books.commit_group()
    assert [books.told(a) for a in answers] == [LockState(holder.xid), LockState(""), LockState("")]
