"""Rows of a store and the objects that they are of: what is written is found again, however little is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from txcoord_proto.status import BranchStatus
from txcoord_server.domain.absent import History
from txcoord_server.domain.session import Account, Branch, Transaction
from txcoord_server.domain.view import TransactionView, view
from txcoord_server.engine.retention import Retention, RetentionConfig
from txcoord_server.engine.rows import RowBuilder, restore
from txcoord_server.engine.storage import CHANGED_BRANCH, CHANGED_GLOBAL, NEW_BRANCH, NEW_GLOBAL, GroupWrite, Row

from tests.unit.server.books import BALANCE, EPOCH, STOCK, Books


class Tables:
    """The two tables, as a database would keep them."""

    def __init__(self) -> None:
        self.transactions: dict[str, dict[str, object]] = {}
        self.branches: dict[tuple[str, int], dict[str, object]] = {}
        self.branch_updates = 0
        self._builder = RowBuilder("default", Retention(RetentionConfig(), History("default", {EPOCH: 0}), EPOCH))

    def take(self, books: Books) -> None:
        """One group commit."""
        write = GroupWrite(EPOCH, 1, 0)
        effects = books.t.ledger.take_effects()
        self._builder.fill(write, effects)
        for row in write.new_globals:
            self.transactions[row[0]] = dict(zip(NEW_GLOBAL, row, strict=True))
        for row in write.new_branches:
            self.branches[row[0], row[1]] = dict(zip(NEW_BRANCH, row, strict=True))
        for row in write.changed_globals:
            self.transactions[row[0]].update(zip(CHANGED_GLOBAL, row[2:], strict=True))
        for row in write.changed_branches:
            self.branches[row[0], row[1]].update(zip(CHANGED_BRANCH, row[2:], strict=True))
            self.branch_updates += 1

    def found(self) -> TransactionView:
        """The one transaction, read."""
        rows: list[Row] = [tuple(row.values()) for row in self.transactions.values()]
        (transaction,) = restore(Account, rows, [tuple(row.values()) for row in self.branches.values()])
        return view(transaction)


def command(branch: Branch, now: int) -> None:
    """What the dispatcher notes of a command."""
    branch.attempts += 1
    branch.executor = "stock@host"
    branch.first_command_at = branch.first_command_at or now


def settled_together(books: Books, tables: Tables, transaction: Transaction) -> None:
    for branch in transaction.branches:
        command(branch, books.now)
        books.now += 5
        books.settle(branch)


def settled_one_by_one(books: Books, tables: Tables, transaction: Transaction) -> None:
    for branch in transaction.branches:
        command(branch, books.now)
        books.settle(branch)
        tables.take(books)
        books.now += 5


def settled_after_a_failure(books: Books, tables: Tables, transaction: Transaction) -> None:
    first = transaction.branches[0]
    command(first, books.now)
    books.t.settler.failed(first, "DEADLOCK", "try again", books.now + 100)
    settled_together(books, tables, transaction)


def forced(books: Books, tables: Tables, transaction: Transaction) -> None:
    books.t.settler.force(transaction, books.now)


@pytest.mark.parametrize(
    ("end", "updates"), [(settled_together, 0), (settled_one_by_one, 1), (settled_after_a_failure, 2), (forced, 2)]
)
def test_an_ended_transaction_is_read_as_it_was(end: Callable[[Books, Tables, Transaction], None], updates: int) -> None:
    books, tables = Books(), Tables()
    transaction = books.begin()
    for resource in (STOCK, BALANCE):
        _, branch = books.register(transaction.xid, resource, lock_keys=("a", "b"))
        books.report(transaction.xid, branch)
    tables.take(books)
    books.commit(transaction.xid)
    tables.take(books)
    assert {branch.status for branch in tables.found().branches} == {BranchStatus.DONE}
    end(books, tables, transaction)
    tables.take(books)
    assert tables.found() == view(transaction)
    assert tables.branch_updates == updates, "rows of branches are written again only where the transaction's cannot tell"
