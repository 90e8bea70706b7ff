"""Runs the second phases that the coordinator asks for, never in the thread that talks to it.

What is synchronous runs in threads: each database has as many as it lends connections, and a resource without a database has its
own, since those of one that is stuck are all waiting soon. What is asynchronous runs in the event loop that started the client
while that runs, else in one loop of the client's own. One command that fails holds no other up.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

from tenacity import AsyncRetrying, RetryCallState, RetryError, Retrying, stop_when_event_set, wait_random_exponential
from txcoord_proto.errors import TxcoordError
from txcoord_proto.status import CommandResult

from txcoord_sdk.batches import Batches
from txcoord_sdk.context import enter
from txcoord_sdk.mailbox import Mailbox
from txcoord_sdk.participant import BatchParticipant, Bounded, BranchCommand, Command, ParkError, Participant, UnavailableError
from txcoord_sdk.transaction.effects import Invoke, Pause, Steps, adrive, drive

log = logging.getLogger(__name__)

_CANCELLED_SECONDS = 2.0
_ENDINGS = (asyncio.CancelledError, GeneratorExit)
"""Of the task in which second phases run, or of its loop."""


class Answers(Protocol):
    """Where results go; called from any thread."""

    def done(self, xid: str, branch_id: int) -> None:
        """The second phase is done."""

    def failed(self, xid: str, branch_id: int, result: CommandResult, code: str, error: str) -> None:
        """It did not succeed."""


async def _nothing() -> None:
    pass


class Runner:
    """Second phases of this process.

    Args:
        answers: Where results go.
        threads: For the synchronous second phases of a resource without a database.
        at_end: Run in the runner's own loop when that ends, for what lives in it.
    """

    def __init__(self, answers: Answers, threads: int, at_end: Callable[[], Coroutine[Any, Any, None]] = _nothing) -> None:
        self._answers = answers
        self._threads = threads
        self._at_end = at_end
        self._participants: dict[str, Participant] = {}
        self._batch_participants: dict[str, BatchParticipant] = {}
        self._batches: dict[tuple[str, float], Batches] = {}
        """By resource and how long they gather: what somebody waits for does not wait with what nobody does."""
        self._running: dict[tuple[str, int], Mailbox | None] = {}
        """What is being worked on, and the loop in which, if it is one."""
        self._stopped = threading.Event()
        self._pools: dict[Bounded | str, ThreadPoolExecutor] = {}
        """By database, or by resource where there is none."""
        self._home: Mailbox | None = None
        self._own: Mailbox | None = None
        self._own_thread: threading.Thread | None = None
        self._context = contextvars.Context()
        """Of second phases in event loops: whoever wakes a loop is in some transaction, perhaps, and they are in none."""
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def busy(self) -> bool:
        """Whether second phases are under way."""
        return bool(self._running)

    def serve(self, resource: str, participant: Participant | BatchParticipant) -> None:
        """Have `participant` do the second phases of `resource`."""
        if isinstance(participant, BatchParticipant):  # asked here, since that takes longer than all else in `take`
            self._batch_participants[resource] = participant
        else:
            self._participants[resource] = participant

    def adopt_loop(self) -> None:
        """Run asynchronous participants in the running event loop, for as long as it runs."""
        self._home = Mailbox(asyncio.get_running_loop())
        self._context = contextvars.copy_context()
        self._context.run(enter, None)

    def take(self, command: Command) -> None:
        """Start a command; returns at once. Only the thread that talks to the coordinator calls this."""
        each = self._participants.get(command.resource)
        whole = self._batch_participants.get(command.resource)
        if self._stopped.is_set():
            return  # it comes again, to this process or another
        # A command comes again over a new stream: what is being worked on is not begun twice.
        branches = tuple(branch for branch in command.branches if not self._runs((command.xid, branch.branch_id)))
        if not branches:
            return
        if len(branches) < len(command.branches):
            command = replace(command, branches=branches)
        if each is not None:
            self._begin(command, each, self._one_by_one(command, each))
        elif whole is None:
            for branch in branches:
                error = f"{command.resource} is not served here"
                self._answers.failed(command.xid, branch.branch_id, CommandResult.UNAVAILABLE, "NOT_SERVED", error)
        elif command.commit:
            self._queue(command, whole)
        else:
            self._begin(command, whole, self._rollback(command, whole))

    def _begin(self, command: Command, participant: Participant | BatchParticipant, steps: Steps[None]) -> None:
        loop = self._loop() if participant.is_async(command) else None
        self._mark(command, loop)
        self._start(steps, loop, lambda: self._pool(participant, command.resource))

    def _queue(self, command: Command, participant: BatchParticipant) -> None:
        gathers = participant.gathers(command)
        batches = self._batches.get((command.resource, gathers))
        if batches is None or batches.abandoned:
            batches = Batches(self._loop() if participant.is_async(command) else None, gathers)
            self._batches[command.resource, gathers] = batches
        self._mark(command, batches.loop)
        if batches.add(command):  # else one is under way, and this comes with the next one
            self._start_batch(batches, participant, command.resource)

    def _mark(self, command: Command, loop: Mailbox | None) -> None:
        """Remember what is about to be begun: it may end at once."""
        for branch in command.branches:
            self._running[command.xid, branch.branch_id] = loop

    def _runs(self, key: tuple[str, int]) -> bool:
        if key not in self._running:
            return False
        loop = self._running.get(key)
        return loop is None or loop.loop.is_running()  # one that has ended may have left it undone

    def in_background(self, work: Callable[[], Any]) -> None:
        """Run a plain or coroutine function as second phases run, again and again until it succeeds or the client is closed."""
        if inspect.iscoroutinefunction(work):
            self._loop().post(self._start_background, work)
        else:
            # No thread of the pool: Python waits for those at the end of the process, and this may never succeed.
            threading.Thread(target=self._keep_trying, args=(work,), name="txcoord-background", daemon=True).start()

    def _keep_trying(self, work: Callable[[], Any]) -> None:
        try:
            Retrying(sleep=self._pause, **self._persistence())(work)
        except RetryError as error:  # the client was closed, and nobody waits for this
            log.debug("given up: %s", error)

    def _pause(self, seconds: float) -> None:
        self._stopped.wait(seconds)

    def _start_background(self, work: Callable[[], Any]) -> None:
        retrying = AsyncRetrying(**self._persistence())
        self._keep(asyncio.get_running_loop().create_task(retrying(work), context=self._context.copy()))

    def _persistence(self) -> dict[str, Any]:
        return {
            "wait": wait_random_exponential(multiplier=0.2, max=5.0),
            "stop": stop_when_event_set(self._stopped),
            "before_sleep": _say,
        }

    # ------------------------------------------------------------ life

    def forked(self) -> None:
        """In the child of a fork: its parent's threads and loops are not here."""
        self._running.clear()
        self._batches.clear()
        self._tasks.clear()
        self._pools.clear()
        self._home = self._own = self._own_thread = None
        self._stopped = threading.Event()

    def restart(self) -> None:
        """Take commands again after `stop`."""
        self._stopped.clear()

    def stop(self) -> None:
        """Take no more commands; those under way go on."""
        self._stopped.set()

    async def cancel_here(self) -> None:
        """After `stop`: cancel what is still under way in the running loop, and wait until its local transactions have ended.

        The end of the loop would cancel as well, but also those tasks that are giving connections back.
        """
        here = asyncio.get_running_loop()
        unfinished = [task for task in self._tasks if task.get_loop() is here and task is not asyncio.current_task()]
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished, timeout=_CANCELLED_SECONDS)

    def close(self) -> None:
        """After `stop`: end the threads; what is still under way in them is not waited for."""
        for batches in self._batches.values():
            batches.clear()
        self._batches.clear()
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        own, self._own = self._own, None
        if own is not None:
            own.loop.call_soon_threadsafe(own.loop.stop)
        self._home = None
        self._running.clear()

    def join(self) -> None:
        """After `close`: wait until the runner's own loop has ended, for a short while (blocks)."""
        thread, self._own_thread = self._own_thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CANCELLED_SECONDS)

    def runs_here(self) -> bool:
        """Whether asynchronous second phases run in the loop of this very thread, so that it must not be blocked."""
        return self._home is not None and self._home.loop is asyncio._get_running_loop()

    # ------------------------------------------------------------ inside

    def _one_by_one(self, command: Command, participant: Participant) -> Steps[None]:
        for place, branch in enumerate(command.branches):
            try:
                yield Invoke(lambda: participant.settle(command, branch))  # noqa: B023 - called at once
            except _ENDINGS as error:
                self._failed(command, command.branches[place:], error)
                raise
            except BaseException as error:
                self._failed(command, (branch,), error)
            else:
                self._done(command, (branch,))

    def _rollback(self, command: Command, participant: BatchParticipant) -> Steps[None]:
        try:
            yield Invoke(lambda: participant.rollback(command))
        except BaseException as error:
            self._failed(command, command.branches, error)
            if isinstance(error, _ENDINGS):
                raise
        else:
            self._done(command, command.branches)

    def _batch(self, batches: Batches, participant: BatchParticipant, resource: str) -> Steps[None]:
        """One batch; the next one is started, not done, so that a rollback that waits for a connection comes in between."""
        batch: list[Command] = []
        try:
            if batches.gathers and not batches.parted and not self._stopped.is_set():
                yield Pause(batches.gathers) if batches.loop is not None else Invoke(lambda: self._pause(batches.gathers))
            batch = batches.take()
            if batch:  # else the client was closed meanwhile
                yield Invoke(lambda: participant.commit(batch))
        except BaseException as error:
            if isinstance(error, (*_ENDINGS, UnavailableError)):
                batch += batches.clear()  # each would find that out for itself, one after the other
            if isinstance(error, (*_ENDINGS, UnavailableError)) or len(batch) == 1:
                for command in batch:
                    self._failed(command, command.branches, error)
            else:
                log.info("%d commits on %s failed together (%s), each is tried by itself", len(batch), resource, error)
                batches.part(batch)
            if isinstance(error, _ENDINGS):
                raise
        else:
            for command in batch:
                self._done(command, command.branches)
        finally:
            if batches.ended():
                self._start_batch(batches, participant, resource)

    def _start_batch(self, batches: Batches, participant: BatchParticipant, resource: str) -> None:
        self._start(
            self._batch(batches, participant, resource), batches.loop, lambda: self._batch_pool(resource, batches.gathers)
        )

    def _start(self, steps: Steps[None], loop: Mailbox | None, pool: Callable[[], ThreadPoolExecutor]) -> None:
        if loop is not None:
            loop.post(self._start_steps, steps)
        else:
            pool().submit(drive, steps)

    def _start_steps(self, steps: Steps[None]) -> None:
        self._keep(asyncio.get_running_loop().create_task(adrive(steps), context=self._context.copy()))

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _done(self, command: Command, branches: Iterable[BranchCommand]) -> None:
        for branch in branches:
            self._running.pop((command.xid, branch.branch_id), None)
            self._answers.done(command.xid, branch.branch_id)

    def _failed(self, command: Command, branches: Sequence[BranchCommand], error: BaseException) -> None:
        match error:
            case ParkError():
                result = CommandResult.PARK
            case UnavailableError():
                result = CommandResult.UNAVAILABLE
            case _:
                result = CommandResult.RETRY
        code = error.code if isinstance(error, TxcoordError) else type(error).__name__
        unforeseen = result is CommandResult.RETRY and isinstance(error, Exception) and not isinstance(error, TxcoordError)
        log.warning(
            "%s: %s of branch %s on %s failed, %s: %s",
            command.xid,
            "commit" if command.commit else "rollback",
            ", ".join(str(branch.branch_id) for branch in branches),
            command.resource,
            result,
            error,
            exc_info=error if unforeseen else None,
            extra={"xid": command.xid},
        )
        for branch in branches:
            self._running.pop((command.xid, branch.branch_id), None)
            self._answers.failed(command.xid, branch.branch_id, result, code, str(error))

    def _pool(self, participant: Participant | BatchParticipant, resource: str) -> ThreadPoolExecutor:
        database = participant.database
        key = resource if database is None else database
        pool = self._pools.get(key)
        if pool is None:
            threads, name = (self._threads, resource) if database is None else (database.connections, database.name)
            pool = self._pools[key] = ThreadPoolExecutor(threads, f"txcoord-second-phase-{name}")
        return pool

    def _batch_pool(self, resource: str, gathers: float) -> ThreadPoolExecutor:
        """One thread of its own, which waits most of the time."""
        key = f"{resource} commits within {gathers:g} s"
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = ThreadPoolExecutor(1, f"txcoord-commits-{resource}")
        return pool

    def _loop(self) -> Mailbox:
        if self._home is not None and self._home.loop.is_running():
            return self._home
        if self._own is None:
            self._own = Mailbox(asyncio.new_event_loop())
            self._own_thread = threading.Thread(
                target=_run_loop, args=(self._own.loop, self._at_end), name="txcoord-worker", daemon=True
            )
            self._own_thread.start()
        return self._own


def _say(attempt: RetryCallState) -> None:
    if attempt.outcome is not None:
        log.warning("this process does not serve its actions yet, it tries again: %s", attempt.outcome.exception())


def _run_loop(loop: asyncio.AbstractEventLoop, at_end: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        unfinished = asyncio.all_tasks(loop)
        for task in unfinished:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*unfinished, return_exceptions=True))
        loop.run_until_complete(at_end())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
