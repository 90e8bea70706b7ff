"""Failpoints: named places at which a process kills itself, for tests that prove what survives.

Every operation that makes something durable is decorated with `durable` and its name. While the environment variable
TXCOORD_FAILPOINTS is not set, decorating gives back the function itself, so a failpoint costs nothing. Set, it says where and how
to fail: `store.commit=before:kill@3, tcc.confirm=unknown:error`, or `@PATH` of a file that holds such a text and is read at every
passing, so that a running process can be told. Four moments of an operation can be named:

    before   nothing has been done yet
    in       its statements have run, its COMMIT has not been sent (MariaDB's store: all is sent and the first answer is there)
    unknown  it is done, and its caller is told by an error that nobody knows: `error` leaves it at that, `kill` has the process
             die at the next operation that it begins
    after    it is done, and its caller is not told

A boundary within another is part of it, so that each commit has one name: the one that says what it is for.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from txcoord_proto.errors import ConfigurationError

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

VARIABLE = "TXCOORD_FAILPOINTS"
BOUNDARIES: dict[str, list[str]] = {}
"""Every failpoint of the modules imported so far, with the functions that it stands for."""

_ON = bool(os.environ.get(VARIABLE))
_FORM = re.compile(r"([a-z_.]+)=(before|in|unknown|after):(kill|error)(?:@([1-9][0-9]*))?")


class Mode(StrEnum):
    """A moment of an operation; see the module."""

    BEFORE = "before"
    IN = "in"
    UNKNOWN = "unknown"
    AFTER = "after"


class _Order(NamedTuple):
    """One failure: at the `nth` passing of a point in a mode."""

    point: str
    mode: Mode
    kills: bool
    nth: int


def _parse(text: str) -> list[_Order]:
    """Read the variable's text.

    Raises:
        ConfigurationError: It is not one, or names a point that is not in this process.
    """
    orders = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        found = _FORM.fullmatch(part)
        if found is None or (found[3] == "error" and found[2] != Mode.UNKNOWN):
            raise ConfigurationError(
                f"{VARIABLE}: {part!r} is no failpoint; write point=mode:action@n with mode before, in, unknown or after and "
                "action kill (or error, with unknown only), such as store.commit=before:kill@3"
            )
        if found[1] not in BOUNDARIES:
            raise ConfigurationError(f"{VARIABLE}: there is no point {found[1]!r} in this process, only {sorted(BOUNDARIES)}")
        orders.append(_Order(found[1], Mode(found[2]), found[3] == "kill", int(found[4] or 1)))
    return orders


class _Plan:
    """What is to fail in this process, and how often each point has been passed."""

    def __init__(self) -> None:
        self._text = ""
        self._orders: list[_Order] = []
        self._passed: Counter[tuple[str, Mode]] = Counter()
        self._doomed = False
        self._lock = threading.Lock()

    def read(self) -> None:
        text = os.environ[VARIABLE]
        if text.startswith("@"):
            text = Path(text[1:]).read_text()
        if text != self._text:
            self._orders, self._text = _parse(text), text
            self._passed.clear()

    def reach(self, point: str, mode: Mode, unknown: Callable[[str], BaseException] = ConnectionError) -> None:
        with self._lock:
            self.read()
            self._passed[point, mode] += 1
            due = [o for o in self._orders if o[:2] == (point, mode) and o.nth == self._passed[point, mode]]
            doomed = self._doomed and mode is Mode.BEFORE
            if mode is Mode.UNKNOWN and any(order.kills for order in due):
                self._doomed = True
        if not due and not doomed:
            return
        log.warning("failpoint %s, %s", point, mode)
        if mode is Mode.UNKNOWN:
            raise unknown(f"failpoint {point}: it is done, and its outcome is not told")
        os.kill(os.getpid(), signal.SIGKILL)


_plan = _Plan()
_inside: ContextVar[str] = ContextVar("txcoord_failpoint", default="")


def announce() -> None:
    """To be called where a process starts: warns while failpoints are on.

    Raises:
        ConfigurationError: The variable's text cannot be read.
    """
    if _ON:
        _plan.read()
        log.warning("FAILPOINTS ARE ON, this process will kill itself: %s=%s", VARIABLE, os.environ[VARIABLE])


def durable(point: str, unknown: Callable[[str], BaseException] | None = None) -> Callable[[F], F]:
    """Decorate an operation that makes something durable: a plain or coroutine function, or steps (a generator).

    Args:
        point: Its name; several functions may do the same for different databases or worlds.
        unknown: Makes the error by which it says that its outcome is not known; None: a step within says so (`passes`).
    """

    def decorate(function: F) -> F:
        BOUNDARIES.setdefault(point, []).append(f"{function.__module__}.{function.__qualname__}")
        return _wrapped(function, point, unknown) if _ON else function

    return decorate


def passes(mode: Mode, unknown: Callable[[str], BaseException] = ConnectionError) -> Callable[[F], F]:
    """Decorate a step of a durable operation, a plain or coroutine function: the operation is in `mode` when it returns.

    Args:
        mode: `in` or `unknown`.
        unknown: Makes the error that is then raised.
    """

    def decorate(function: F) -> F:
        if not _ON:
            return function

        def passed() -> None:
            if point := _inside.get():
                _plan.reach(point, mode, unknown)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def coroutine(*args: Any, **kwargs: Any) -> Any:
                result = await function(*args, **kwargs)
                passed()
                return result

            return cast(F, coroutine)

        @functools.wraps(function)
        def step(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            passed()
            return result

        return cast(F, step)

    return decorate


@contextmanager
def _passing(point: str, unknown: Callable[[str], BaseException] | None) -> Iterator[None]:
    if _inside.get():
        yield
        return
    _plan.reach(point, Mode.BEFORE)
    _inside.set(point)
    try:
        yield
    finally:
        _inside.set("")
    if unknown is not None:
        _plan.reach(point, Mode.UNKNOWN, unknown)
    _plan.reach(point, Mode.AFTER)


def _wrapped(function: F, point: str, unknown: Callable[[str], BaseException] | None) -> F:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            with _passing(point, unknown):
                return await function(*args, **kwargs)

        return cast(F, coroutine)
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def steps(*args: Any, **kwargs: Any) -> Any:
            with _passing(point, unknown):
                return (yield from function(*args, **kwargs))

        return cast(F, steps)

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with _passing(point, unknown):
            return function(*args, **kwargs)

    return cast(F, plain)
