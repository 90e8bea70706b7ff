"""Those who wait for a transaction's end."""

from __future__ import annotations

from txcoord_proto.status import Reason
from txcoord_server.domain.answers import SETTLED
from txcoord_server.domain.settlement import MOST_WAITERS

from tests.unit.server.books import Books


def test_who_asks_again_and_again_does_not_grow_the_coordinator() -> None:
    books = Books()
    transaction = books.prepared()
    requests = [books.commit(transaction.xid) for _ in range(MOST_WAITERS + 5)]
    assert transaction.waiters is not None
    assert len(transaction.waiters) == MOST_WAITERS
    books.commit_group()
    assert {books.error(request) for request in requests[:5]} == {"TOO_MANY_TRANSACTIONS"}
    for branch in transaction.branches:
        books.settle(branch)
    assert all(books.told(request) is SETTLED for request in requests[5:])


def test_who_gives_up_at_the_deadline_is_told_that_it_was_the_deadline() -> None:
    books = Books()
    asked, vetoed = (books.begin(timeout=1_000) for _ in range(2))
    for transaction in (asked, vetoed):
        books.register(transaction.xid)
    books.now += 1_000
    books.rollback(asked.xid, cause="the statement was ended")
    books.t.rollback_only(books.ticket(), vetoed.xid, books.now)
    assert asked.reason is vetoed.reason is Reason.TIMEOUT
    assert asked.cause == "the statement was ended"
