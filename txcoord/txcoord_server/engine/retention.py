"""How long finished transactions stay, and which leave with the next group commit.

Only settled transactions leave, never an unsettled or parked one. The common rule is for plain committed ones: beyond the newest
`keep_committed`, and older than `keep_committed_for`. They leave in ranges of their XIDs, which costs two statements however many
there are; what settled so late that a range has passed it, and everything that stays longer, carries a time of its own
(`purge_at`) and is found by an index.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from txcoord_proto.status import GlobalStatus
from txcoord_proto.xid import Xid, epoch_prefix, mint

from txcoord_server.domain.absent import History
from txcoord_server.domain.session import Transaction
from txcoord_server.engine.storage import GroupWrite, PurgeRange, Store

_LATE = 20_000
_RANGE = 2_000


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """Times in milliseconds.

    Attributes:
        keep_committed: So many of the newest committed transactions stay whatever their age.
        keep_committed_for: Committed ones stay at least so long; at least twice the clients' `failover_wait`.
        keep_notable_for: Those rolled back, forced, once parked or with a business key stay so long.
        sweep: Pause between two looks for rows whose own time is over.
    """

    keep_committed: int = 100_000
    keep_committed_for: int = 60_000
    keep_notable_for: int = 24 * 3600 * 1000
    sweep: int = 5_000


class Retention:
    """Retention of one epoch's leader.

    Args:
        config: How long.
        history: Purged sequences by epoch; raised here, written with the purge.
        epoch: Of this leader.
    """

    def __init__(self, config: RetentionConfig, history: History, epoch: int) -> None:
        self._config = config
        self._history = history
        self._epoch = epoch
        self._prefix = epoch_prefix(history.group, epoch)
        self._samples: deque[tuple[int, int]] = deque()
        self._cursor = 0
        self._range_end = 0
        self._due: deque[str] = deque()
        self._sweep_at = 0

    def purge_at(self, transaction: Transaction) -> int | None:
        """When a finished transaction leaves; None: by the common rule."""
        t = transaction
        if t.status is not GlobalStatus.COMMITTED or t.forced or t.once_parked or t.key:
            return t.settled_at + self._config.keep_notable_for
        if t.settled_at - t.begun_at > _LATE:
            return t.settled_at + self._config.keep_committed_for
        return None

    def observe(self, now: int, sequence: int) -> None:
        """Remember how far the sequence was, about once a second, and advance what the common rule frees."""
        if not self._samples or now - self._samples[-1][0] >= 1000:
            self._samples.append((now, sequence))
        before = now - self._config.keep_committed_for - _LATE
        while self._samples and self._samples[0][0] <= before:
            self._range_end = max(self._range_end, self._samples.popleft()[1])
        self._range_end = min(self._range_end, max(0, sequence - self._config.keep_committed))

    async def sweep(self, store: Store, now: int) -> None:
        """Look for rows whose own time is over, and for those that earlier epochs left behind."""
        if now < self._sweep_at or self._due:
            return
        self._sweep_at = now + self._config.sweep
        self._due.extend(await store.purgeable(now, now - self._config.keep_committed_for, self._prefix, _RANGE))
        if self._due:
            self._sweep_at = now  # there may be more

    def fill(self, write: GroupWrite) -> None:
        """Add to a group commit what may leave now."""
        if self._cursor < self._range_end:
            last = min(self._range_end, self._cursor + _RANGE)
            write.purge_range = PurgeRange(mint(self._prefix, self._cursor + 1), mint(self._prefix, last))
            self._cursor = last
            self._mark(write, self._epoch, last)
        while self._due and len(write.purge_xids) < _RANGE:
            xid = self._due.popleft()
            write.purge_xids.append(xid)
            parsed = Xid.parse(xid)
            self._mark(write, parsed.epoch, parsed.sequence)

    def _mark(self, write: GroupWrite, epoch: int, sequence: int) -> None:
        if sequence > self._history.purged.get(epoch, 0):
            self._history.purged[epoch] = sequence
            write.purged[epoch] = sequence
