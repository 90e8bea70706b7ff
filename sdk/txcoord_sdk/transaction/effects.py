"""Logic that must run in synchronous and asynchronous code, written once.

It is a generator that yields what it needs from outside: a request to the session, a pause, or a call of the user's code. Two
small drivers do these things, one by blocking and one by awaiting; nothing else in the SDK blocks or awaits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Generator
from types import CoroutineType
from typing import Any, NamedTuple, TypeAlias, TypeVar

from txcoord_sdk.mailbox import Mailbox, end_burst
from txcoord_sdk.session.requests import Sink

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that a cancelled task goes on waiting for the end of its transaction: as long as a rollback is waited for."""


class Ask(NamedTuple):
    """A request: `start` hands it over and gives the answer to the sink that it is passed.

    Where `to_the_end` says so, a cancellation while it is awaited comes only after the answer, or after `PATIENCE`.
    """

    start: Callable[[Sink], None]
    to_the_end: bool = False


class Pause(NamedTuple):
    """Wait for some seconds."""

    seconds: float


class Invoke(NamedTuple):
    """Call the user's function; what it returns is awaited where that can be."""

    call: Callable[[], Any]


Effect: TypeAlias = Ask | Pause | Invoke
Steps: TypeAlias = Generator[Effect, Any, T]


def drive(steps: Steps[T]) -> T:
    """Run steps by blocking this thread."""
    value: Any = None
    failure: BaseException | None = None
    while True:
        try:
            effect = steps.send(value) if failure is None else steps.throw(failure)
        except StopIteration as end:
            result: T = end.value
            return result
        value = failure = None
        try:
            value = perform(effect)
        except BaseException as error:
            failure = error


def perform(effect: Effect) -> Any:
    """Do what one step needs, by blocking this thread."""
    match effect:
        case Ask(start):
            blocked = Blocked()
            start(blocked.sink)
            if (here := asyncio._get_running_loop()) is not None:
                end_burst(here)  # which is about to be blocked
            return blocked.answer()
        case Pause(seconds):
            return time.sleep(seconds)
        case Invoke(call):
            return call()


class Blocked:
    """A thread that waits for an answer: a lock that whoever answers gives back, since futures cost as much as all else here."""

    __slots__ = ("_answered", "_error", "_value")

    def __init__(self) -> None:
        self._answered = threading.Lock()
        self._answered.acquire()
        self._value: object = None
        self._error: BaseException | None = None

    def sink(self, value: object, error: BaseException | None) -> None:
        """Take the answer, once; from any thread."""
        self._value, self._error = value, error
        self._answered.release()

    def answer(self) -> object:
        """Wait for it, once; raises what was answered instead."""
        self._answered.acquire()
        if self._error is not None:
            raise self._error
        return self._value


async def adrive(steps: Steps[T]) -> T:
    """Run steps by awaiting; a cancellation is thrown into them like any error, or comes after them (`Ask.to_the_end`)."""
    value: Any = None
    failure: BaseException | None = None
    late: asyncio.CancelledError | None = None
    while True:
        try:
            effect = steps.send(value) if failure is None else steps.throw(failure)
        except StopIteration as end:
            if late is not None:
                raise late from None
            result: T = end.value
            return result
        except BaseException as error:
            if late is not None:
                raise late from error
            raise
        value = failure = None
        try:
            if type(effect) is Invoke:
                value = effect.call()
                if type(value) is CoroutineType or hasattr(value, "__await__"):
                    value = await value
            elif type(effect) is Ask:
                waiting = Waiting(asyncio.get_running_loop())
                effect.start(waiting.sink)
                late = await waiting.done(effect.to_the_end) or late
                value, failure = waiting.answer or (None, late)
            else:
                await _pause(effect, late)
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:
            failure = error


async def _pause(effect: Effect, late: BaseException | None) -> None:
    assert isinstance(effect, Pause)
    if late is not None:
        raise late  # nothing is tried again for a task that is cancelled
    await asyncio.sleep(effect.seconds)


_mailboxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}


def mailbox_of(loop: asyncio.AbstractEventLoop) -> Mailbox:
    """The way into `loop`, one per loop, so that answers of one burst wake it once."""
    mailbox = _mailboxes.get(loop)
    if mailbox is None:
        for closed in [known for known in list(_mailboxes) if known.is_closed()]:
            _mailboxes.pop(closed, None)
        mailbox = _mailboxes[loop] = Mailbox(loop)
    return mailbox


class Waiting:
    """A task that waits for an answer.

    Args:
        loop: In which it runs.
    """

    __slots__ = ("_future", "_loop", "_mailbox", "answer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._mailbox = mailbox_of(loop)
        self._future: asyncio.Future[None] = loop.create_future()
        self.answer: tuple[object, BaseException | None] | None = None

    def sink(self, value: object, error: BaseException | None) -> None:
        """Take the answer; from any thread."""
        if asyncio._get_running_loop() is self._loop:
            self._take(value, error)
        else:
            self._mailbox.post(self._take, value, error)

    def _take(self, value: object, error: BaseException | None) -> None:
        self.answer = (value, error)
        if not self._future.done():
            self._future.set_result(None)

    async def done(self, to_the_end: bool) -> asyncio.CancelledError | None:
        """Wait for the answer; returns the cancellation that it has outlasted.

        Args:
            to_the_end: Wait on for `PATIENCE` although the task is cancelled, maybe again and again.
        """
        try:
            await self._future
        except asyncio.CancelledError as error:
            if not to_the_end:
                raise
            until = self._loop.time() + PATIENCE
            self._future = self._loop.create_future()
            while self.answer is None and (left := until - self._loop.time()) > 0:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([self._future], timeout=left)
            return error
        return None
