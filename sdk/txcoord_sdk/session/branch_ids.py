"""Branch ids from the block that the coordinator granted to this process.

They are unique over all epochs, so an id that was taken stays good when the stream breaks. After a fork the child has no block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Need:
    """Somebody who waits for an id.

    Args:
        act: Called when there is one to take.
        fail: Called with the error when that lasts too long.
        expires: When that is, by the session's clock.
    """

    act: Callable[[], None]
    fail: Callable[[BaseException], None]
    expires: float


class BranchIds:
    """See the module.

    Args:
        ask: Asks the coordinator for `size` more ids, if it can be asked now.
    """

    size = 8192

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._next = 0
        self._end = 0
        self._half = 0
        self._needs: deque[Need] = deque()

    def granted(self, first: int, count: int) -> None:
        """Take a new block; what is left of the last one is dropped."""
        self._next, self._end, self._half = first, first + count, first + count // 2
        while self._needs and self._next < self._end:
            self._needs.popleft().act()

    @property
    def available(self) -> bool:
        """Whether there is one to take, and nobody who came earlier."""
        return self._next < self._end and not self._needs

    def when_available(self, need: Need) -> None:
        """Have `need` act when there is an id; it takes exactly one."""
        self._needs.append(need)
        self._ask()

    def take(self) -> int:
        """The next id; the next block is asked for when half of this one is used."""
        taken = self._next
        self._next += 1
        if self._next >= self._half:
            self._ask()
        return taken

    def fail(self, error: Callable[[], BaseException], now: float | None = None) -> None:
        """Fail those who have waited too long; with `now` None: all."""
        failed = [need for need in self._needs if now is None or need.expires <= now]
        self._needs = deque(need for need in self._needs if need not in failed)
        for need in failed:
            need.fail(error())
