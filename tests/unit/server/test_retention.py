"""Which committed transactions leave by the common rule, and when."""

from __future__ import annotations

from txcoord_proto.status import Decision, GlobalStatus
from txcoord_proto.xid import epoch_prefix, mint
from txcoord_server.domain.absent import History
from txcoord_server.domain.session import Account, Transaction
from txcoord_server.engine.retention import Retention, RetentionConfig
from txcoord_server.engine.storage import GroupWrite

EPOCH = 1_790_000_000_000
CONFIG = RetentionConfig(keep_committed=100, keep_committed_for=60_000)


def name(sequence: int, epoch: int = EPOCH) -> str:
    return mint(epoch_prefix("default", epoch), sequence)


class Books:
    """A retention whose time passes."""

    def __init__(self) -> None:
        self.retention = Retention(CONFIG, History("default", {EPOCH: 0}), EPOCH)
        self.now = 1_000_000

    def finish(self, xid: str, took: int) -> None:
        transaction = Transaction(xid, "n", Account("order"), self.now - took, 0)
        transaction.status, transaction.decision, transaction.settled_at = GlobalStatus.COMMITTED, Decision.COMMIT, self.now
        assert self.retention.purge_at(transaction) is None

    def pass_time(self, seconds: int, sequence: int) -> GroupWrite:
        """One group commit a second; what all of them purge."""
        every = GroupWrite(EPOCH, 0, 0)
        for _ in range(seconds):
            self.now += 1_000
            write = GroupWrite(EPOCH, 0, 0)
            self.retention.observe(self.now, sequence)
            self.retention.fill(write)
            every.purge_ranges += write.purge_ranges
            every.purge_xids += write.purge_xids
        return every


def test_a_slow_transaction_among_the_newest_stays() -> None:
    books = Books()
    books.pass_time(1, 10)
    books.finish(name(5), took=25_000)
    left = books.pass_time(300, 100)
    assert (left.purge_ranges, left.purge_xids) == ([], [])
    left = books.pass_time(100, 200)
    assert [(r.first, r.last) for r in left.purge_ranges] == [(name(1), name(100))], "and goes with its neighbours"
    assert left.purge_xids == []


def test_a_slow_transaction_that_a_range_has_passed_leaves_when_it_is_old_enough() -> None:
    books = Books()
    books.pass_time(1, 10)
    passed = books.pass_time(90, 300).purge_ranges
    assert passed[0].first == name(1)
    books.finish(name(5), took=90_000)
    assert passed[0].settled_before < books.now, "so that the range spared it"
    assert books.pass_time(59, 300).purge_xids == []
    assert books.pass_time(5, 300).purge_xids == [name(5)]


def test_a_slow_transaction_of_an_earlier_epoch_is_left_to_the_sweep() -> None:
    books = Books()
    books.pass_time(90, 300)
    books.finish(name(5, EPOCH - 1), took=90_000)
    assert books.pass_time(100, 300).purge_xids == []
