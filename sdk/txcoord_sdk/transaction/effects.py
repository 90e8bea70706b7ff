"""Logic that must run in synchronous and asynchronous code, written once.

It is a generator that yields what it needs from outside: a request to the session, a pause, or a call of the user's code. Two
small drivers do these things, one by blocking and one by awaiting; nothing else in the SDK blocks or awaits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from txcoord_sdk.mailbox import Mailbox
from txcoord_sdk.session.requests import Sink

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: `start` hands it over and gives the answer to the sink it is passed."""

    start: Callable[[Sink], None]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Invoke:
    """Call the user's function; what it returns is awaited where that can be."""

    call: Callable[[], Any]


Effect: TypeAlias = Ask | Pause | Invoke
Steps: TypeAlias = Generator[Effect, Any, T]


def drive(steps: Steps[T]) -> T:
    """Run steps by blocking this thread."""
    send: Callable[[], Effect] = lambda: next(steps)  # noqa: E731 - one of three ways to go on
    while True:
        try:
            effect = send()
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            value = _perform(effect)
        except BaseException as error:
            failure = error
            send = lambda: steps.throw(failure)  # noqa: B023, E731
        else:
            send = lambda: steps.send(value)  # noqa: B023, E731


def _perform(effect: Effect) -> Any:
    match effect:
        case Ask(start):
            future: concurrent.futures.Future[object] = concurrent.futures.Future()
            start(lambda value, error: future.set_exception(error) if error is not None else future.set_result(value))
            return future.result()
        case Pause(seconds):
            return time.sleep(seconds)
        case Invoke(call):
            return call()


async def adrive(steps: Steps[T]) -> T:
    """Run steps by awaiting; a cancellation is thrown into them like any error."""
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
            match effect:
                case Ask(start):
                    value = await _ask(start)
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case Invoke(call):
                    value = call()
                    if inspect.isawaitable(value):
                        value = await value
        except BaseException as error:
            failure = error


_mailboxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}


def mailbox_of(loop: asyncio.AbstractEventLoop) -> Mailbox:
    """The way into `loop`, one per loop, so that answers of one burst wake it once."""
    mailbox = _mailboxes.get(loop)
    if mailbox is None:
        for closed in [known for known in _mailboxes if known.is_closed()]:
            del _mailboxes[closed]
        mailbox = _mailboxes[loop] = Mailbox(loop)
    return mailbox


async def _ask(start: Callable[[Sink], None]) -> object:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[object] = loop.create_future()
    mailbox = mailbox_of(loop)

    def answered(value: object, error: BaseException | None) -> None:
        if not future.done():
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    def sink(value: object, error: BaseException | None) -> None:
        if not loop.is_closed():
            mailbox.post(answered, value, error)

    start(sink)
    return await future
