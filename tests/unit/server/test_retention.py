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


class Kept:
    """A store in which so many of an earlier epoch are due, in pieces."""

    def __init__(self, *due: int) -> None:
        self.due = list(due)
        self.asked: list[str] = []

    async def older(self, below: str, newest: int) -> str:
        return name(70, EPOCH - 1)

    async def purgeable(self, now: int, committed_before: int, below: str, limit: int) -> list[str]:
        self.asked.append(below)
        count = self.due.pop(0) if below and self.due else 0
        return [name(n, EPOCH - 1) for n in range(1, count + 1)]


async def test_earlier_epochs_are_read_through_until_nothing_of_them_can_become_due() -> None:
    books, store = Books(), Kept(2_000, 5)
    slow = name(69, EPOCH - 1)
    for second in range(200):
        if second == 150:
            books.finish(slow, took=150_000)
        await books.retention.sweep(store, books.now)  # type: ignore[arg-type]
        books.pass_time(1, 50)
    older, last = name(70, EPOCH - 1), [below for below in store.asked if below]
    assert set(last) == {older}
    assert 10 < len(last) < 25, "for a minute and a half"
    assert store.asked[-1] == ""
    assert books.pass_time(30, 50).purge_xids == [slow], "it settled too late for a sweep to see it"
    await books.retention.sweep(store, books.now)  # type: ignore[arg-type]
    books.pass_time(1, CONFIG.keep_committed)
    books.now += CONFIG.sweep
    await books.retention.sweep(store, books.now)  # type: ignore[arg-type]
    assert store.asked[-1] == epoch_prefix("default", EPOCH), "by now none of them is among the newest"


def test_a_slow_transaction_of_an_earlier_epoch_is_left_to_the_sweep() -> None:
    books = Books()
    books.pass_time(90, 300)
    books.finish(name(5, EPOCH - 1), took=90_000)
    assert books.pass_time(100, 300).purge_xids == []


def test_most_small_groups_that_somebody_waits_for_carry_nothing_and_all_together_keep_up() -> None:
    books = Books()
    books.pass_time(1, 10_000)
    books.now += 90_000
    books.retention.observe(books.now, 20_000)
    sizes = []
    for n in range(3_000):
        write = GroupWrite(EPOCH, 0, 0, waiting=1)
        write.new_globals = [()] * (n % 3 == 0)  # each transaction takes three groups
        books.retention.fill(write)
        sizes.append(sum(map(len, write.purge_ranges)))
    assert sum(sizes) >= 2 * 1_000
    assert sum(size > 0 for size in sizes) < len(sizes) / 50
    assert max(sizes) < 200


def test_a_group_that_nobody_waits_for_carries_many() -> None:
    books = Books()
    books.pass_time(1, 10_000)
    books.now += 90_000
    books.retention.observe(books.now, 20_000)
    write = GroupWrite(EPOCH, 0, 0)
    books.retention.fill(write)
    assert [len(r) for r in write.purge_ranges] == [2_000]
