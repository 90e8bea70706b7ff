"""Deadlines in buckets: adding and removing one is a dictionary operation, so that a transaction costs no heap entry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_BUCKET_BITS = 6  # 64 ms


class Timers(Generic[T]):
    """A set of items, each due at a time; times are milliseconds and are kept to the next full bucket of 64 ms."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[T, None]] = {}
        self._next = 0

    def add(self, when: int, item: T) -> None:
        """Have `item` be due at `when`."""
        number = (when >> _BUCKET_BITS) + 1
        if number < self._next:
            number = self._next
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
        bucket[item] = None

    def remove(self, when: int, item: T) -> None:
        """Forget an item that was added for `when`; does nothing when it is not there."""
        bucket = self._buckets.get((when >> _BUCKET_BITS) + 1)
        if bucket is not None:
            bucket.pop(item, None)

    def due(self, now: int) -> Iterator[T]:
        """Take out everything that is due at `now`, the earliest buckets first."""
        last = now >> _BUCKET_BITS
        if last < self._next:
            return
        self._next = last + 1
        for number in sorted(n for n in self._buckets if n <= last):
            yield from self._buckets.pop(number)
