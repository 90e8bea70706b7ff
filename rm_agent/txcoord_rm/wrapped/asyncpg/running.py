"""Running one statement of a wrapped connection: by the driver as it was asked, or captured with the same result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.util import await_only, greenlet_spawn

from txcoord_rm.sql.statement import Verb
from txcoord_rm.wrapped.asyncpg.attached import AttachedAsyncpg
from txcoord_rm.wrapped.asyncpg.capturing import CapturingCursor

_TAGS = {Verb.INSERT: "INSERT 0", Verb.LOCKING_READ: "SELECT", Verb.READ: "SELECT"}


@dataclass(frozen=True, slots=True)
class Request:
    """A statement.

    Args:
        query: Its text.
        args: Its arguments, or those of each execution.
        many: Whether it is these.
        timeout: Seconds; None: no limit.
        record_class: Of its rows; None: the connection's.
        not_captured: See `Attached.run`.
    """

    query: str
    args: Any
    many: bool = False
    timeout: float | None = None
    record_class: type | None = None
    not_captured: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the application is to see of a captured statement.

    Args:
        rows: Records.
        status: As the database would have said.
    """

    rows: list[Any]
    status: str

    @property
    def row(self) -> Any:
        """The first one; None: there is none."""
        return self.rows[0] if self.rows else None

    def value(self, column: int | str) -> Any:
        """Of the first row; None: there is none."""
        return self.rows[0][column] if self.rows else None


async def run(
    attached: AttachedAsyncpg, request: Request, plain: Callable[[], Awaitable[Any]], seen: Callable[[Outcome], Any]
) -> Any:
    """What the application gets.

    Args:
        attached: The connection.
        request: The statement.
        plain: Has the driver run it.
        seen: Makes of the outcome of a captured statement what the driver would have returned.

    Raises:
        UnsupportedSqlError: It could not be undone for certain, and has not run.
        LockConflictError: Another global transaction holds a row.
    """
    with attached.alone():
        if attached.passes(request.query):
            with attached.told():
                return await plain()
        async with asyncio.timeout(request.timeout if attached.takes_part() else None):
            outcome, result = await greenlet_spawn(_run, attached, request, plain)
    return result if outcome is None else seen(outcome)


def _run(attached: AttachedAsyncpg, request: Request, plain: Callable[[], Awaitable[Any]]) -> tuple[Outcome | None, Any]:
    call, args = _Call(plain), request.args
    captured = attached.run(
        call,
        lambda: CapturingCursor(attached.raw, request.record_class or attached.record_class),
        "executemany" if request.many else "execute",
        request.query,
        args,
        request.not_captured,
    )
    if captured is None:
        return None, call.result
    assert attached.resource is not None
    verb = attached.resource.recognise(request.query, args).verb
    rows = [shown.made() for shown in captured.fetchall()]
    return Outcome(rows, f"{_TAGS.get(verb, verb.value)} {captured.rowcount}"), None


class _Call:
    """The driver's own way to run a statement, as the cursor that capturing hands on to."""

    def __init__(self, plain: Callable[[], Awaitable[Any]]) -> None:
        self._plain = plain
        self.result: Any = None

    def execute(self, query: object, args: object = None) -> None:
        """See DB-API."""
        self.result = await_only(self._plain())

    executemany = execute
