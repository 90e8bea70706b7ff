"""Runs the second phases that the coordinator asks for, never in the thread that talks to it.

Synchronous participants run in a bounded pool of threads; asynchronous ones in the event loop that started the client while that
runs, else in one loop of the client's own. One command that fails holds no other up.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from tenacity import AsyncRetrying, RetryCallState, Retrying, stop_when_event_set, wait_random_exponential
from txcoord_proto.errors import TxcoordError
from txcoord_proto.status import CommandResult

from txcoord_sdk.mailbox import Mailbox
from txcoord_sdk.participant import BranchCommand, Command, ParkError, Participant, UnavailableError

log = logging.getLogger(__name__)

_MAX_ERROR = 500


class Answers(Protocol):
    """Where results go; called from any thread."""

    def done(self, xid: str, branch_id: int) -> None:
        """The second phase is done."""

    def failed(self, xid: str, branch_id: int, result: CommandResult, code: str, error: str) -> None:
        """It did not succeed."""


class Runner:
    """Second phases of this process.

    Args:
        answers: Where results go.
        threads: For synchronous participants.
    """

    def __init__(self, answers: Answers, threads: int) -> None:
        self._answers = answers
        self._threads = threads
        self._participants: dict[str, Participant] = {}
        self._running: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._pool: ThreadPoolExecutor | None = None
        self._home: Mailbox | None = None
        self._own: Mailbox | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def serve(self, resource: str, participant: Participant) -> None:
        """Have `participant` do the second phases of `resource`."""
        self._participants[resource] = participant

    def adopt_loop(self) -> None:
        """Run asynchronous participants in the running event loop, for as long as it runs."""
        self._home = Mailbox(asyncio.get_running_loop())

    def take(self, command: Command) -> None:
        """Start a command; returns at once."""
        participant = self._participants.get(command.resource)
        if participant is None:
            for branch in command.branches:
                self._answers.failed(
                    command.xid,
                    branch.branch_id,
                    CommandResult.UNAVAILABLE,
                    "NOT_SERVED",
                    f"{command.resource} is not served here",
                )
        elif participant.is_async:
            self._loop().post(self._start, command, participant)
        else:
            self._threads_pool().submit(self._run, command, participant)

    def in_background(self, work: Callable[[], Any]) -> None:
        """Run a plain or coroutine function as second phases run, again and again until it succeeds or the client is closed."""
        if inspect.iscoroutinefunction(work):
            self._loop().post(self._start_background, work)
        else:
            self._threads_pool().submit(self._keep_trying, work)

    def _keep_trying(self, work: Callable[[], Any]) -> None:
        Retrying(sleep=self._pause, **self._persistence())(work)

    def _pause(self, seconds: float) -> None:
        self._closed.wait(seconds)

    def _start_background(self, work: Callable[[], Any]) -> None:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(AsyncRetrying(**self._persistence())(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _persistence(self) -> dict[str, Any]:
        return {
            "wait": wait_random_exponential(multiplier=0.2, max=5.0),
            "stop": stop_when_event_set(self._closed),
            "before_sleep": _say,
        }

    def forked(self) -> None:
        """In the child of a fork: its parent's threads and loops are not here."""
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._running.clear()
        self._pool = self._home = self._own = None

    def close(self) -> None:
        """Wait for what runs in threads and end them."""
        self._closed.set()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        if self._own is not None:
            self._own.loop.call_soon_threadsafe(self._own.loop.stop)
            self._own = None

    # ------------------------------------------------------------ inside

    def _run(self, command: Command, participant: Participant) -> None:
        for branch in command.branches:
            if not self._enter(command, branch):
                continue
            try:
                participant.settle(command, branch)
                self._answers.done(command.xid, branch.branch_id)
            except BaseException as error:
                self._failed(command, branch, error)
            finally:
                self._running.discard((command.xid, branch.branch_id))

    def _start(self, command: Command, participant: Participant) -> None:
        task = asyncio.get_running_loop().create_task(self._arun(command, participant))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _arun(self, command: Command, participant: Participant) -> None:
        for branch in command.branches:
            if not self._enter(command, branch):
                continue
            try:
                working = participant.settle(command, branch)
                if working is not None:
                    await working
                self._answers.done(command.xid, branch.branch_id)
            except BaseException as error:
                self._failed(command, branch, error)
                if isinstance(error, asyncio.CancelledError):
                    raise
            finally:
                self._running.discard((command.xid, branch.branch_id))

    def _enter(self, command: Command, branch: BranchCommand) -> bool:
        """False when this very branch is being worked on: the command came again over a new stream."""
        key = (command.xid, branch.branch_id)
        with self._lock:
            if key in self._running:
                return False
            self._running.add(key)
            return True

    def _failed(self, command: Command, branch: BranchCommand, error: BaseException) -> None:
        match error:
            case ParkError():
                result = CommandResult.PARK
            case UnavailableError():
                result = CommandResult.UNAVAILABLE
            case _:
                result = CommandResult.RETRY
        code = error.code if isinstance(error, TxcoordError) else type(error).__name__
        text = str(error)[:_MAX_ERROR]
        log.warning(
            "%s: %s of branch %d on %s failed, %s: %s",
            command.xid,
            "commit" if command.commit else "rollback",
            branch.branch_id,
            command.resource,
            result,
            text,
            exc_info=error if result is CommandResult.RETRY else None,
            extra={"xid": command.xid},
        )
        self._answers.failed(command.xid, branch.branch_id, result, code, text)

    def _threads_pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "txcoord-second-phase")
        return self._pool

    def _loop(self) -> Mailbox:
        if self._home is not None and self._home.loop.is_running():
            return self._home
        if self._own is None:
            self._own = Mailbox(asyncio.new_event_loop())
            threading.Thread(target=_run_loop, args=(self._own.loop,), name="txcoord-worker", daemon=True).start()
        return self._own


def _say(attempt: RetryCallState) -> None:
    if attempt.outcome is not None:
        log.warning("this process does not serve its actions yet, it tries again: %s", attempt.outcome.exception())


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
