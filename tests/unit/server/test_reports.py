"""When a report of phase one is written, and when its participant may forget it."""

from __future__ import annotations

import pytest
from txcoord_proto.status import BranchStatus, GlobalStatus, PhaseOne
from txcoord_server.domain.answers import Reported
from txcoord_server.domain.reports import HOLD

from tests.unit.server.books import Books


def pass_time(books: Books) -> None:
    """So long that a held report is written."""
    for _ in range(3):
        books.now += HOLD
        books.t.tick(books.now)


def test_a_report_is_written_and_then_acknowledged() -> None:
    books = Books()
    transaction = books.begin()
    _, branch = books.register(transaction.xid)
    books.commit_group()
    request = books.report(transaction.xid, branch)
    assert not books.commit_group().branches
    assert books.told(request) is None, "it is not durable"
    pass_time(books)
    assert books.told(request) is None
    assert list(books.commit_group().branches) == transaction.branches
    assert books.told(request) == Reported(branch)


@pytest.mark.parametrize("commit", [True, False])
def test_a_report_of_what_is_decided_soon_needs_no_row(commit: bool) -> None:
    books = Books()
    transaction = books.begin()
    _, branch = books.register(transaction.xid)
    books.commit_group()
    request = books.report(transaction.xid, branch)
    (books.commit if commit else books.rollback)(transaction.xid)
    effects = books.commit_group()
    assert not effects.branches
    assert effects.decided == [transaction]
    assert books.told(request) == Reported(branch)
    pass_time(books)
    assert not books.commit_group().branches


def test_a_report_that_comes_over_two_streams_is_written_and_acknowledged_over_both() -> None:
    """What was sent over a stream that broke may arrive after what was sent again over the next one."""
    books = Books()
    transaction = books.begin()
    _, branch = books.register(transaction.xid)
    first, second = books.report(transaction.xid, branch), books.report(transaction.xid, branch)
    assert list(books.commit_group().branches) == transaction.branches
    assert books.told(first) == books.told(second) == Reported(branch)
    pass_time(books)
    assert not books.commit_group().branches
    third = books.report(transaction.xid, branch)
    books.commit_group()
    assert books.told(third) == Reported(branch), "it is durable by now"


def test_a_report_for_which_somebody_waits_is_written_at_once() -> None:
    books = Books()
    transaction = books.begin()
    _, branch = books.register(transaction.xid)
    caller, number = books.ticket()
    books.t.report((caller, number), transaction.xid, branch, PhaseOne.DONE, "", books.now, at_once=True)
    assert list(books.commit_group().branches) == transaction.branches
    assert books.told(number) == Reported(branch)


def test_a_failure_is_written_at_once() -> None:
    books = Books()
    transaction = books.begin()
    _, branch = books.register(transaction.xid)
    request = books.report(transaction.xid, branch, PhaseOne.FAILED)
    books.commit_group()
    assert books.told(request) == Reported(branch)
    assert transaction.branches[0].status is BranchStatus.FAILED


def test_the_report_for_which_a_commit_waits_decides_at_once() -> None:
    books = Books()
    transaction = books.begin()
    _, branch = books.register(transaction.xid)
    books.commit(transaction.xid)
    request = books.report(transaction.xid, branch)
    assert transaction.status is GlobalStatus.COMMITTING
    books.commit_group()
    assert books.told(request) == Reported(branch)
