"""Calls handed to an event loop from other threads, with one wake-up per burst instead of one per call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


class Mailbox:
    """The way into one event loop.

    Args:
        loop: Where the calls run.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Run `call(*args)` in the loop soon; from any thread.

        Raises:
            RuntimeError: The loop is closed.
        """
        self._calls.append((call, args))
        if not self._woken:
            self._woken = True
            self.loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        # The flag falls before the queue is read: a call that is added now either is seen below, or wakes the loop again.
        self._woken = False
        with contextlib.suppress(IndexError):
            while True:
                call, args = self._calls.popleft()
                try:
                    call(*args)
                except Exception:
                    log.exception("a call handed to the event loop failed")
