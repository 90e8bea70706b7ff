"""How long finished transactions stay, and which leave with the next group commit.

Only settled transactions leave, never an unsettled or parked one. The common rule is for plain committed ones: beyond the newest
`keep_committed`, and older than `keep_committed_for`. They leave in ranges of their XIDs, which costs two statements however many
there are; what settled so late that a range has passed it leaves by its XID. Everything that stays longer carries a time of its
own (`purge_at`) and is found by an index. Committed ones with a business key carry such a time too, but beyond the newest
`keep_keyed` of one epoch they leave in ranges before it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from txcoord_proto.status import GlobalStatus
from txcoord_proto.xid import Xid, epoch_prefix, mint

from txcoord_server.domain.absent import History
from txcoord_server.domain.session import Transaction
from txcoord_server.engine.storage import GroupWrite, PurgeRange, Store

_RANGE = 2_000
_PIECE = 128
_KEYED_STEPS = 1_000


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """Times in milliseconds.

    Attributes:
        keep_committed: So many of the newest committed transactions stay whatever their age.
        keep_committed_for: Committed ones stay at least so long; at least twice the clients' `failover_wait`.
        keep_keyed: So many of the newest committed ones with a business key stay for `keep_notable_for`, older ones may leave.
        keep_notable_for: Those rolled back, forced, once parked or with a business key stay so long.
        sweep: Pause between two looks for rows whose own time is over.
    """

    keep_committed: int = 100_000
    keep_committed_for: int = 60_000
    keep_keyed: int = 1_000_000
    keep_notable_for: int = 24 * 3600 * 1000
    sweep: int = 5_000

    @property
    def late(self) -> int:
        """What takes longer than this from begin to settlement may be passed by a range before it has settled for long enough."""
        return self.keep_committed_for // 3


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
        self._samples: deque[tuple[int, int, int]] = deque()
        """Time, sequence and number of keyed ones, about once a second."""
        self._sequence = 0
        self._cursor = 0
        self._range_end = 0
        self._keyed = 0
        """How many committed ones with a business key have finished in this epoch."""
        self._keyed_samples: deque[tuple[int, int]] = deque()
        self._keyed_cursor = 0
        self._keyed_end = 0
        self._settled_before = 0
        self._older: str | None = None
        """XIDs of earlier epochs below this are not among the newest; None: not yet known."""
        self._swept_below = ""
        """Earlier epochs hold nothing below this XID that leaves by the common rule: no need to read through them again."""
        self._quiet_from: int | None = None
        """From when on nothing more of earlier epochs becomes due but what is in `_late`."""
        self._late: deque[tuple[int, str]] = deque()
        """When those may leave that took long, in order: a range may have passed them by then."""
        self._due: deque[str] = deque()
        self._credit = 0
        """How many may leave with a group that somebody waits for."""
        self._sweep_at = 0

    def purge_at(self, transaction: Transaction) -> int | None:
        """When a finished transaction leaves; None: by the common rule."""
        t = transaction
        plain = t.status is GlobalStatus.COMMITTED and not t.forced and not t.once_parked
        if not plain or t.key:
            self._keyed += plain
            return t.settled_at + self._config.keep_notable_for
        if t.settled_at - t.begun_at > self._config.late:
            self._late.append((t.settled_at, t.xid))
        return None

    def observe(self, now: int, sequence: int) -> None:
        """Remember how far the sequence was, about once a second, and advance what the common rule frees."""
        config = self._config
        self._sequence = sequence
        if not self._samples or now - self._samples[-1][0] >= 1000:
            self._samples.append((now, sequence, self._keyed))
        self._settled_before = now - config.keep_committed_for
        while self._samples and self._samples[0][0] <= self._settled_before - config.late:
            _, reached, keyed = self._samples.popleft()
            self._range_end = max(self._range_end, reached)
            if not self._keyed_samples or keyed - self._keyed_samples[-1][1] >= max(1, config.keep_keyed // _KEYED_STEPS):
                self._keyed_samples.append((reached, keyed))
        self._range_end = min(self._range_end, max(0, sequence - config.keep_committed))
        while self._late and self._late[0][0] < self._settled_before:
            self._leave_late(self._late.popleft()[1])
        while self._keyed_samples and self._keyed - self._keyed_samples[0][1] >= config.keep_keyed:
            self._keyed_end = self._keyed_samples.popleft()[0]

    def _leave_late(self, text: str) -> None:
        """Old enough by now: unless a range, or a sweep of earlier epochs, is still to come for it, it leaves."""
        xid = Xid.parse(text)
        passed = xid.sequence <= self._cursor if xid.epoch == self._epoch else text < self._swept_below
        if passed:
            self._due.append(text)

    async def sweep(self, store: Store, now: int) -> None:
        """Look for rows whose own time is over, and for those that earlier epochs left behind."""
        if now < self._sweep_at or self._due:
            return
        self._sweep_at = now + self._config.sweep
        if self._older is None:
            self._older = await store.older(self._prefix, self._config.keep_committed)
        if self._quiet_from is None:
            self._quiet_from = now + self._config.keep_committed_for + self._config.late
        below = self._prefix if self._sequence >= self._config.keep_committed else self._older
        unswept = below if below != self._swept_below else ""
        found = await store.purgeable(now, now - self._config.keep_committed_for, unswept, _RANGE)
        self._due.extend(found)
        if len(found) < _RANGE and now >= self._quiet_from:
            self._swept_below = below
        if self._due:
            self._sweep_at = now  # there may be more

    def fill(self, write: GroupWrite) -> None:
        """Add to a group commit what may leave now."""
        most = self._room(write)
        if not most:
            return
        if self._cursor < self._range_end:
            last = min(self._range_end, self._cursor + most)
            write.purge_ranges.append(
                PurgeRange(mint(self._prefix, self._cursor + 1), mint(self._prefix, last), self._settled_before)
            )
            self._cursor = last
            self._mark(write, self._epoch, last)
        if self._keyed_cursor < self._keyed_end:
            last = min(self._keyed_end, self._keyed_cursor + most)
            first = mint(self._prefix, self._keyed_cursor + 1)
            write.purge_ranges.append(PurgeRange(first, mint(self._prefix, last), self._settled_before, keyed=True))
            self._keyed_cursor = last
            self._mark(write, self._epoch, last)
        while self._due and len(write.purge_xids) < most:
            xid = self._due.popleft()
            write.purge_xids.append(xid)
            parsed = Xid.parse(xid)
            self._mark(write, parsed.epoch, parsed.sequence)

    def _room(self, write: GroupWrite) -> int:
        """How many may leave with a group: many where nobody waits for it.

        Else twice what has come since some left, and they leave together: most small groups carry none and are as fast as ever.
        """
        if not write.waiting:
            return _RANGE
        self._credit += 2 * len(write.new_globals) + 1
        if self._credit < _PIECE:
            return 0
        room, self._credit = self._credit, 0
        return room

    def _mark(self, write: GroupWrite, epoch: int, sequence: int) -> None:
        if sequence > self._history.purged.get(epoch, 0):
            self._history.purged[epoch] = sequence
            write.purged[epoch] = sequence
