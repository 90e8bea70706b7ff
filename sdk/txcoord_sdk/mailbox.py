"""Calls handed to an event loop from other threads, with one wake-up per burst instead of one per call.

A burst is what one thread hands over before it pauses: code in an event loop hands over everything that one turn of its loop
brings forth. Waking another thread for each call would make the two take turns, and every turn waits for the interpreter's lock.
"""

from __future__ import annotations

import asyncio
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
        """Run `call(*args)` in the loop soon; from any thread. It is dropped where the loop has been closed."""
        self._calls.append((call, args))
        if self._woken:
            return
        here = asyncio._get_running_loop()
        if here is None:
            self.wake()
        elif (burst := _bursts.get(here)) is not None:
            burst[self] = None
        else:
            _bursts[here] = {self: None}
            here.call_soon(end_burst, here)

    def leave(self, call: Callable[..., object], *args: Any) -> None:
        """Run `call(*args)` in the loop before the next call that is posted, or when the loop looks; from any thread."""
        self._calls.append((call, args))

    def wake(self) -> None:
        """See to it that the calls run."""
        if self._calls and not self._woken:
            self._woken = True
            try:
                self.loop.call_soon_threadsafe(self.empty)
            except RuntimeError:  # closed
                log.debug("%d calls for an event loop that is closed", len(self._calls))

    def empty(self) -> None:
        """Run the calls that are there."""
        # The flag falls before the queue is read: a call that is added now either is seen below, or wakes the loop again.
        self._woken = False
        calls = self._calls
        while calls:
            call, args = calls.popleft()
            try:
                call(*args)
            except Exception:
                log.exception("a call handed to the event loop failed")


_bursts: dict[asyncio.AbstractEventLoop, dict[Mailbox, None]] = {}
"""Per running loop: what it has posted to in this turn. Only the loop's own thread uses its entry."""


def end_burst(here: asyncio.AbstractEventLoop) -> None:
    """Wake those to whom the loop `here` has posted; code that is going to block it calls this first."""
    for mailbox in _bursts.pop(here, ()):
        mailbox.wake()
