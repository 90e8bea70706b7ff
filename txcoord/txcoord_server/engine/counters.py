"""Plain integers that the hot path counts; the metrics endpoint reads them from another thread."""

from __future__ import annotations

from txcoord_server.domain.session import Transaction
from txcoord_server.engine.storage import GroupWrite

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)


class Histogram:
    """Counts by upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.total += value
        for place, bound in enumerate(self.bounds):
            if value <= bound:
                self.counts[place] += 1
                return
        self.counts[-1] += 1


class Counters:
    """Everything that only grows, over all epochs of this process."""

    def __init__(self) -> None:
        self.decisions: dict[tuple[str, ...], int] = {}
        """By decision and reason."""
        self.begun = 0
        self.branches = 0
        self.retries = 0
        """Tries of second phases that were not the first."""
        self.commits = 0
        self.commit_seconds = Histogram(SECONDS)
        self.commit_rows = Histogram(tuple(float(s) for s in SIZES))
        self.purged = 0
        """XIDs whose outcome retention has given up."""
        self.store_failures = 0
        self.fenced = 0
        self.unknown_commits = 0
        self.takeovers = 0
        self.defects = 0

    def committed(self, write: GroupWrite, seconds: float) -> None:
        """A group commit returned."""
        self.commits += 1
        self.branches += len(write.new_branches)
        self.purged += len(write.purge_xids)
        self.purged += sum(map(len, write.purge_ranges))
        self.commit_seconds.add(seconds)
        self.commit_rows.add(
            len(write.new_globals) + len(write.new_branches) + len(write.changed_globals) + len(write.changed_branches)
        )

    def decided(self, transaction: Transaction) -> None:
        """A decision is durable."""
        key = (str(transaction.decision), str(transaction.reason))
        self.decisions[key] = self.decisions.get(key, 0) + 1
