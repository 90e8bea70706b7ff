"""Which thread writes the group commits of an embedded database.

They are mostly computing under the interpreter's one lock: a thread of its own adds hand-overs and gains nothing, unless the disk
lets it wait. So they are written in the engine's thread for as long as the disk is quick. (Measured with SQLite and an fsync of
0.2 ms, 256 transactions in flight: a sixth more of them a second.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, thread_time

SMALL = 8
"""So few answers are always written in the engine's thread: there is not much else to do meanwhile."""
QUICK = 0.002
"""Seconds that a commit may wait for the disk."""
_NEWEST = 1 / 8
"""Weight of the newest commit in the mean."""
_FORGET = 0.99
"""What a commit in the other thread, which cannot tell the disk from the lock, leaves of the mean."""


class Disk:
    """How long commits have waited for the disk lately."""

    def __init__(self) -> None:
        self.wait = 0.0
        """Seconds, a running mean."""

    def suits(self, waiting: int) -> bool:
        """Whether a group for which so many answers wait is better written in the engine's thread."""
        if waiting < SMALL or self.wait < QUICK:
            return True
        self.wait *= _FORGET
        return False

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around a commit in the engine's thread: what it does not compute, it waits."""
        idle = perf_counter() - thread_time()
        try:
            yield
        finally:
            self.wait += (perf_counter() - thread_time() - idle - self.wait) * _NEWEST
