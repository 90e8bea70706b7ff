"""An event loop in which a seed decides everything: what runs next, how long things take, who dies.

One thread, virtual time. A process is a context variable that every task it starts inherits; killing it freezes its callbacks for
ever (no `finally` runs, as with SIGKILL), pausing it holds them back. What could let the real world in (threads, sockets,
subprocesses) is not there, so that using it fails.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import heapq
import random
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_process: contextvars.ContextVar[Incarnation | None] = contextvars.ContextVar("process", default=None)


_Loop: Any = asyncio.AbstractEventLoop


class StuckError(Exception):
    """Nothing is left to run, and the simulation has not ended."""


class Incarnation:
    """One start of a process."""

    __slots__ = ("alive", "paused_until")

    def __init__(self) -> None:
        self.alive = True
        self.paused_until = 0.0


class Process:
    """Something that can be started, killed and paused.

    Args:
        loop: Where it runs.
        name: For the trace.
        main: What it does from each start on.
        on_kill: What the operating system does when it dies: close files, break connections.
    """

    def __init__(
        self, loop: SimLoop, name: str, main: Callable[[], Coroutine[Any, Any, None]], on_kill: Callable[[], None]
    ) -> None:
        self.name = name
        self._loop = loop
        self._main = main
        self._on_kill = on_kill
        self._incarnation = Incarnation()
        self._incarnation.alive = False

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._incarnation.alive

    def start(self) -> None:
        """Start it, anew."""
        assert not self.alive
        self._incarnation = Incarnation()
        self._loop.note("start", self.name)
        self.run(self._main())

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as part of it."""
        context = contextvars.copy_context()
        context.run(_process.set, self._incarnation)
        task = self._loop.create_task(work, context=context)
        self._loop.keep(task)

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function as part of it, soon."""
        context = contextvars.copy_context()
        context.run(_process.set, self._incarnation)
        self._loop.call_soon(function, *args, context=context)

    def kill(self) -> None:
        """SIGKILL."""
        self._loop.note("kill", self.name)
        self._incarnation.alive = False
        self._on_kill()

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        self._loop.note("pause", self.name, round(seconds, 3))
        self._incarnation.paused_until = self._loop.time() + seconds


def nobody() -> contextvars.Context:
    """A context outside every process: what is on the way does not die with its sender."""
    return contextvars.Context()


def _incarnation_of(context: contextvars.Context | None) -> Incarnation | None:
    return context.get(_process) if context is not None else _process.get()


class SimLoop(_Loop):  # type: ignore[misc] # what lets the real world in is missing on purpose
    """See the module.

    Args:
        seed: Decides everything.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.steps = 0
        self._now = 1_000.0
        self._ready: list[tuple[events.Handle, Incarnation | None]] = []
        self._timers: list[tuple[float, int, events.TimerHandle, Incarnation | None]] = []
        self._number = 0
        self._failure: BaseException | None = None
        self._frozen: list[object] = []
        self._trace = hashlib.blake2b(digest_size=8)

    # ------------------------------------------------------------ what asyncio asks of a loop

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        self._ready.append((handle, _incarnation_of(context)))
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> events.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> events.TimerHandle:
        return self.call_at(self._now + max(0.0, delay), callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> events.TimerHandle:
        handle = events.TimerHandle(when, callback, args, self, context)
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, handle, _incarnation_of(context)))
        return handle

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        """A cancelled timer is passed over when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None) -> asyncio.Task[Any]:
        self._number += 1
        return asyncio.Task(coro, loop=self, name=name or f"task-{self._number}", context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._failure = self._failure or error or RuntimeError(context.get("message"))

    # ------------------------------------------------------------ running

    def keep(self, task: asyncio.Future[Any]) -> None:
        """Hold on to a task, and let its failure be the simulation's: a frozen one that was collected would run its `finally`."""
        self._frozen.append(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()

    def note(self, *what: object) -> None:
        """Add to the trace, by which two runs of a seed are compared."""
        self._trace.update(repr((round(self._now, 6), *what)).encode())

    @property
    def trace(self) -> str:
        """What has happened, as a number."""
        return self._trace.hexdigest()

    def run(self, work: Coroutine[Any, Any, T], until: float) -> T:
        """Run until `work` is done.

        Args:
            work: The simulation.
            until: Virtual seconds that it may take.

        Raises:
            StuckError: It takes longer, or nothing is left to run.
        """
        before = events._get_running_loop()
        events._set_running_loop(self)
        end = self._now + until
        try:
            main = self.create_task(work)
            while not main.done():
                self._step(end)
            result: T = main.result()
            return result
        finally:
            events._set_running_loop(before)

    def _step(self, end: float) -> None:
        timers, ready = self._timers, self._ready
        while timers and timers[0][0] <= self._now:
            _, _, due, incarnation = heapq.heappop(timers)
            ready.append((due, incarnation))
        if not ready:
            if not timers:
                raise StuckError("nothing is left to run")
            self._now = max(self._now, timers[0][0])
            if self._now > end:
                raise StuckError(f"not finished after {end} virtual seconds")
            return
        place = self.rng.randrange(len(ready)) if len(ready) > 1 else 0
        handle, incarnation = ready.pop(place)
        if handle.cancelled():
            return
        if incarnation is not None and not incarnation.alive:
            self._frozen.append(handle)
            return
        if incarnation is not None and incarnation.paused_until > self._now:
            self._number += 1
            again: Any = handle
            heapq.heappush(timers, (incarnation.paused_until, self._number, again, incarnation))
            return
        self.steps += 1
        handle._run()
        if self._failure is not None:
            raise self._failure
