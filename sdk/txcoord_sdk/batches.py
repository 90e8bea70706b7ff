"""Commit commands of one resource that wait while a batch of them is under way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from txcoord_sdk.mailbox import Mailbox
from txcoord_sdk.participant import Command

MOST = 1_000
"""Commands of one batch: it holds a connection for some milliseconds, in which a rollback may want one."""


class Batches:
    """The queue of one resource. One thread adds, another takes.

    Args:
        loop: In which its batches run; None: in threads.
        gathers: Seconds for which a batch gathers before it begins.
    """

    def __init__(self, loop: Mailbox | None, gathers: float) -> None:
        self.loop = loop
        self.gathers = gathers
        self._waiting: list[Command] = []
        self._alone: deque[Command] = deque()
        """Of a batch that failed."""
        self._under_way = False
        self._lock = threading.Lock()

    @property
    def abandoned(self) -> bool:
        """Whether its loop has ended, so that nothing of it will be done."""
        return self.loop is not None and not self.loop.loop.is_running()

    @property
    def parted(self) -> bool:
        """Whether commands of a batch that failed wait, each to be done by itself."""
        return bool(self._alone)

    def add(self, command: Command) -> bool:
        """Queue a command; whether no batch is under way, so that the caller has to start one."""
        with self._lock:
            self._waiting.append(command)
            idle, self._under_way = not self._under_way, True
            return idle

    def take(self) -> list[Command]:
        """The next batch, empty where there is none any more."""
        with self._lock:
            if self._alone:
                return [self._alone.popleft()]
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            return batch

    def part(self, batch: Sequence[Command]) -> None:
        """Have each command of a batch that failed come by itself, so that one cannot hold up the others."""
        with self._lock:
            self._alone.extend(batch)

    def ended(self) -> bool:
        """A batch has ended; whether the caller has to start another."""
        with self._lock:
            self._under_way = bool(self._alone or self._waiting)
            return self._under_way

    def clear(self) -> list[Command]:
        """Forget what waits; returns it."""
        with self._lock:
            left = [*self._alone, *self._waiting]
            self._alone.clear()
            self._waiting.clear()
            return left
