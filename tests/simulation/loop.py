"""An event loop in which a seed decides everything: what runs next, how long things take, who dies.

One thread, virtual time. Every start of a process has a loop of its own, as in life; all of them share one clock and one queue of
callbacks. Killing a process freezes its callbacks for ever (no `finally` runs, as with SIGKILL), pausing it holds them back. What
could let the real world in (threads, sockets, subprocesses) is not there, so that using it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import heapq
import random
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_Loop: Any = asyncio.AbstractEventLoop


class StuckError(Exception):
    """Nothing is left to run, and the simulation has not ended."""


class VirtualLoop(_Loop):  # type: ignore[misc] # what lets the real world in is missing on purpose
    """What asyncio asks of a loop, on the simulation's clock.

    Args:
        simulation: Whose clock and queue; None: this is the simulation's own loop.
    """

    def __init__(self, simulation: SimLoop | None = None) -> None:
        self._sim: Any = self if simulation is None else simulation
        self._sim.loops.append(self)
        self.alive = True
        self.paused_until = 0.0

    def time(self) -> float:
        now: float = self._sim.now
        return now

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        self._sim.ready.append((handle, self))
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> events.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> events.TimerHandle:
        return self.call_at(self._sim.now + max(0.0, delay), callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> events.TimerHandle:
        handle = events.TimerHandle(when, callback, args, self, context)
        self._sim.at(when, handle, self)
        return handle

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        """A cancelled timer is passed over when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name or "task", context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self.alive

    def is_closed(self) -> bool:
        return not self.alive

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._sim.failed(error or RuntimeError(context.get("message")))

    def keep(self, task: asyncio.Future[Any]) -> None:
        """Hold on to a task, and let its failure be the simulation's: a frozen one that was collected would run its `finally`."""
        self._sim.frozen.append(task)
        task.add_done_callback(self._sim.ended)


class SimLoop(VirtualLoop):
    """The simulation's own loop: the world outside all processes, which never stands still.

    Args:
        seed: Decides everything.
    """

    def __init__(self, seed: int) -> None:
        self.loops: list[VirtualLoop] = []
        """Of the simulation and of every start of a process."""
        super().__init__()
        self.rng = random.Random(seed)
        self.steps = 0
        self.now = 1_000.0
        self.ready: list[tuple[events.Handle, VirtualLoop]] = []
        self.frozen: list[object] = []
        """What must not be collected before the end."""
        self._timers: list[tuple[float, int, events.Handle, VirtualLoop]] = []
        self._number = 0
        self._failure: BaseException | None = None
        self._trace = hashlib.blake2b(digest_size=8)

    def at(self, when: float, handle: events.Handle, loop: VirtualLoop) -> None:
        """Have a callback of `loop` run at a time."""
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, handle, loop))

    def failed(self, error: BaseException | None) -> None:
        """Something that the simulated program must not raise: the run ends with it."""
        self._failure = self._failure or error

    def ended(self, task: asyncio.Future[Any]) -> None:
        """A task that is kept has ended."""
        if not task.cancelled():
            self.failed(task.exception())

    def note(self, *what: object) -> None:
        """Add to the trace, by which two runs of a seed are compared."""
        self._trace.update(repr((round(self.now, 6), *what)).encode())

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
        end = self.now + until
        try:
            events._set_running_loop(self)
            main = self.create_task(work)
            while not main.done():
                self._step(end)
            result: T = main.result()
            return result
        finally:
            events._set_running_loop(before)

    def close(self) -> None:
        """Forget everything: greenlets that never ended cannot be collected, so they are unwound."""
        for loop in self.loops:
            loop.alive = False
            for task in asyncio.all_tasks(loop):
                for _ in range(3):  # a `finally` that awaits takes another one
                    with contextlib.suppress(BaseException):
                        task.get_coro().close()

    def _step(self, end: float) -> None:
        timers, ready = self._timers, self.ready
        while timers and timers[0][0] <= self.now:
            _, _, due, loop = heapq.heappop(timers)
            ready.append((due, loop))
        if not ready:
            if not timers:
                raise StuckError("nothing is left to run")
            self.now = timers[0][0]
            if self.now > end:
                raise StuckError(f"not finished after {end} virtual seconds")
            return
        last = len(ready) - 1
        if last:
            place = int(self.rng.random() * (last + 1))
            handle, loop = ready[place]
            ready[place] = ready[last]
            ready.pop()
        else:
            handle, loop = ready.pop()
        if handle._cancelled:
            return
        if not loop.alive:
            self.frozen.append(handle)
        elif loop.paused_until > self.now:
            self.at(loop.paused_until, handle, loop)
        else:
            self.steps += 1
            events._set_running_loop(loop)
            handle._run()
            if self._failure is not None:
                raise self._failure


class Process:
    """Something that can be started, killed and paused.

    Args:
        world: Where it runs.
        name: For the trace.
        main: What it does from each start on.
        on_kill: What the operating system does when it dies: close files, break connections.
    """

    def __init__(
        self, world: SimLoop, name: str, main: Callable[[], Coroutine[Any, Any, None]], on_kill: Callable[[], None]
    ) -> None:
        self.name = name
        self._world = world
        self._main = main
        self._on_kill = on_kill
        self.loop: VirtualLoop | None = None
        """Of its present start; None: it does not run."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.loop is not None

    def start(self) -> None:
        """Start it, anew."""
        assert self.loop is None
        self.loop = VirtualLoop(self._world)
        self._world.note("start", self.name)
        self.run(self._main())

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as part of it, in a context of its own."""
        assert self.loop is not None
        self._world.keep(self.loop.create_task(work, context=contextvars.Context()))

    def kill(self) -> None:
        """SIGKILL."""
        assert self.loop is not None
        self._world.note("kill", self.name)
        self.loop.alive = False
        self.loop = None
        self._on_kill()

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        if self.loop is not None:
            self._world.note("pause", self.name, round(seconds, 3))
            self.loop.paused_until = self._world.now + seconds
