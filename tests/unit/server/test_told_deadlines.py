"""How long a transaction has, for a participant whose caller did not say."""

from __future__ import annotations

from typing import Any

from txcoord_proto.status import BranchType
from txcoord_server.domain.answers import Registered
from txcoord_server.domain.requests import NewBranch, NewTransaction

from tests.unit.server.books import STOCK, Books


def test_who_does_not_know_the_deadline_is_told_what_is_left() -> None:
    books = Books()
    transaction = books.begin(timeout=30_000)
    books.now += 1000
    first, branch = books.register(transaction.xid, tell_timeout=True)
    books.now += 500
    again, _ = books.register(transaction.xid, id=branch, tell_timeout=True)
    books.now = transaction.deadline_at + 5
    late, _ = books.register(transaction.xid, id=branch, tell_timeout=True)
    assert books.told(first) is None, "not before it is durable"
    books.commit_group()
    assert [books.told(request) for request in (first, again, late)] == [
        Registered(transaction.xid, 29_000),
        Registered(transaction.xid, 28_500),
        Registered(transaction.xid, 1),
    ]


def test_no_deadline_is_told_as_none() -> None:
    books = Books()
    transaction = books.begin()
    transaction.deadline_at = 0
    request, _ = books.register(transaction.xid, tell_timeout=True)
    books.commit_group()
    assert books.told(request) == Registered(transaction.xid, 0)


def test_what_is_left_is_told_to_who_begins_by_registering() -> None:
    books = Books()
    caller, number = books.ticket()
    new = NewBranch(7, BranchType.TCC, STOCK, tell_timeout=True)
    books.t.begin_and_register((caller, number), "order", NewTransaction("order", 5000), new, books.now)
    books.commit_group()
    (xid,) = books.t.ledger.by_xid
    assert books.told(number) == Registered(xid, 5000)


def test_a_registration_that_waits_for_a_lock_is_told_what_was_left_when_it_came_last() -> None:
    books = Books()
    holder, waiting = books.begin(), books.begin(timeout=30_000)
    books.register(holder.xid, kind=BranchType.AT, lock_keys=("a",))
    wanted: dict[str, Any] = {"lock_keys": ("a",), "lock_wait": 20_000, "tell_timeout": True}
    books.register(waiting.xid, kind=BranchType.AT, id=50, **wanted)
    books.now += 4000
    again, _ = books.register(waiting.xid, kind=BranchType.AT, id=50, **wanted)
    books.now += 1000
    books.rollback(holder.xid)
    books.settle(holder.branches[0])
    books.commit_group()
    assert books.told(again) == Registered(waiting.xid, 26_000)
