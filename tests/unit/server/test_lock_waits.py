"""Registrations that wait for global locks: what ends their wait, and what they are told."""

from __future__ import annotations

import pytest
from txcoord_proto.status import BranchType, GlobalStatus, Reason
from txcoord_server.domain.answers import OK
from txcoord_server.domain.requests import NewBranch, NewTransaction
from txcoord_server.domain.session import Transaction

from tests.unit.server.books import Books, Caller, begun_xid

DB = "db@1"


def held(books: Books, *keys: str, **begin: object) -> Transaction:
    """A transaction with a branch that holds `keys` and has reported."""
    transaction = books.begin(**begin)  # type: ignore[arg-type]
    _, branch = books.register(transaction.xid, DB, BranchType.AT, lock_keys=keys)
    books.report(transaction.xid, branch)
    books.commit_group()
    return transaction


def wait(books: Books, transaction: Transaction, *keys: str, id: int = 0, row_locks: bool = False) -> int:
    """A registration that has to wait; returns its request."""
    request, _ = books.register(
        transaction.xid, DB, BranchType.AT, id, lock_keys=keys, lock_wait=30_000, holds_row_locks=row_locks
    )
    books.commit_group()
    assert books.told(request) is None
    return request


def test_a_waiting_registration_that_is_sent_again_is_one_branch_and_answered_once() -> None:
    books = Books()
    holder, transaction = held(books, "a"), books.begin()
    wait(books, transaction, "a", id=77)
    again = wait(books, transaction, "a", id=77)
    books.commit(holder.xid)
    books.commit_group()
    assert books.told(again) is OK
    assert [b.id for b in transaction.branches] == [77]


@pytest.mark.parametrize("granted", [True, False])
def test_a_waiting_registration_that_comes_over_two_streams_is_answered_over_both(granted: bool) -> None:
    """What was sent over a stream that broke may arrive after what was sent again over the next one."""
    books, elsewhere = Books(), Caller()
    holder, transaction = held(books, "a"), books.begin()
    request = wait(books, transaction, "a", id=77)
    new = NewBranch(77, BranchType.AT, DB, ("a",), lock_wait=30_000)
    books.t.register((elsewhere, 1), transaction.xid, new, books.now)
    if granted:
        books.commit(holder.xid)
    else:
        books.t.tick(books.now + 30_000)
    books.commit_group()
    assert elsewhere.told[1] == books.told(request)
    assert (elsewhere.told[1] is OK) is granted


def test_a_waiting_branch_id_with_other_contents_is_refused() -> None:
    books = Books()
    held(books, "a")
    transaction = books.begin()
    wait(books, transaction, "a", id=77)
    request, _ = books.register(transaction.xid, DB, BranchType.AT, 77, lock_keys=("b",))
    books.commit_group()
    assert books.error(request) == "BRANCH_MISMATCH"


def test_a_begin_within_a_registration_that_waited_is_told_its_xid() -> None:
    books = Books()
    holder = held(books, "a")
    caller, request = books.ticket()
    new = NewBranch(7, BranchType.AT, DB, lock_keys=("a",), lock_wait=1_000)
    books.t.begin_and_register((caller, request), "order", NewTransaction("n", begin_key=7), new, books.now)
    books.commit_group()
    assert books.told(request) is None
    books.commit(holder.xid)
    books.commit_group()
    assert begun_xid(books.told(request)) in books.t.ledger.by_xid


def test_a_begin_within_a_registration_that_is_refused_leaves_nothing() -> None:
    books = Books()
    held(books, "a")
    for number, lock_wait in enumerate((0, 500), 7):
        caller, request = books.ticket()
        new = NewBranch(number, BranchType.AT, DB, lock_keys=("a",), lock_wait=lock_wait)
        books.t.begin_and_register((caller, request), "order", NewTransaction("n", begin_key=number), new, books.now)
        books.t.tick(books.now + 1_000)
        books.commit_group()
        assert books.error(request) in ("LOCK_CONFLICT", "LOCK_TIMEOUT")
        assert len(books.t.ledger.by_xid) == 1
        assert books.t.ledger.accounts["order"].unfinished == 1


def test_a_deadline_ends_the_wait_and_nothing_is_granted_afterwards() -> None:
    books = Books()
    holder = held(books, "a")
    transaction = books.begin(timeout=1_000)
    request = wait(books, transaction, "a")
    books.t.tick(books.now + 2_000)
    books.commit_group()
    assert books.error(request) == "NOT_ACTIVE"
    assert transaction.status is GlobalStatus.ROLLED_BACK
    books.commit(holder.xid)
    books.commit_group()
    assert not transaction.branches
    assert books.t.ledger.locks.count == 0


def test_a_commit_while_a_registration_waits_rolls_back() -> None:
    books = Books()
    held(books, "a")
    transaction = held(books, "b")
    request = wait(books, transaction, "a")
    books.commit(transaction.xid)
    books.commit_group()
    assert (transaction.status, transaction.reason) == (GlobalStatus.ROLLING_BACK, Reason.LATE_BRANCH)
    assert books.error(request) == "NOT_ACTIVE"


def test_a_rollback_sends_away_those_whose_row_locks_it_may_need() -> None:
    books = Books()
    holder = held(books, "a")
    patient, stubborn, behind = books.begin(), books.begin(), books.begin()
    waits = [wait(books, patient, "a"), wait(books, stubborn, "a", row_locks=True), wait(books, behind, "a")]
    books.rollback(holder.xid)
    books.commit_group()
    assert [books.told(waits[0]), books.told(waits[2])] == [None, None]
    assert books.error(waits[1]) == "LOCK_CONFLICT"
    assert patient.status is stubborn.status is GlobalStatus.ACTIVE
    books.settle(holder.branches[0])
    books.commit_group()
    assert books.told(waits[0]) is OK
    assert books.told(waits[2]) is None


def test_a_commit_sends_nobody_away() -> None:
    books = Books()
    holder = held(books, "a")
    transaction = books.begin()
    request = wait(books, transaction, "a", row_locks=True)
    books.commit(holder.xid)
    books.commit_group()
    assert books.told(request) is OK


def test_a_circle_that_a_grant_closes_is_found_by_the_next_tick() -> None:
    books = Books()
    first = held(books, "x")
    blocker = held(books, "k1")
    books.now += 10
    young = held(books, "k2")
    waiting = wait(books, first, "k1", "k2")
    other = wait(books, young, "x")
    books.commit(blocker.xid)
    books.t.tick(books.now + 50)
    books.commit_group()
    assert books.error(other) == "DEADLOCK"
    assert (young.status, young.reason) == (GlobalStatus.ROLLING_BACK, Reason.DEADLOCK)
    books.settle(young.branches[0])
    books.commit_group()
    assert books.told(waiting) is OK


def test_a_wait_that_its_own_decision_ends_gives_back_no_lock_that_another_branch_needs() -> None:
    """Seed 251 of the simulation: rows that were yet to be restored were told to be free."""
    books = Books()
    holder, other = held(books, "b"), held(books, "a")
    waits = wait(books, other, "a", "b")
    books.rollback(other.xid)
    books.rollback(holder.xid)
    books.settle(holder.branches[0])
    books.commit_group()
    assert books.error(waits) == "NOT_ACTIVE"
    locks = books.t.ledger.locks
    assert locks.free_for(None, DB, ("b",)) is None
    assert locks.free_for(None, DB, ("a",)) is other, "its branch has yet to put back what was before"
    books.settle(other.branches[0])
    assert locks.count == 0


def test_locks_are_given_back_by_the_last_branch_even_if_it_has_none_itself() -> None:
    books = Books()
    holder = held(books, "a")
    _, branch = books.register(holder.xid, DB, BranchType.AT)
    books.report(holder.xid, branch)
    books.rollback(holder.xid)
    request = wait(books, books.begin(), "a")
    for settled in holder.branches:
        assert books.told(request) is None
        books.settle(settled)
        books.commit_group()
    assert books.told(request) is OK
