"""asyncpg's cursors, wrapped: what reads stays at the server; rows of a captured statement are here at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

from txcoord_rm.wrapped.asyncpg.attached import AttachedAsyncpg
from txcoord_rm.wrapped.asyncpg.running import Outcome, Request, run

_PREFETCH = 50


class WrappedCursorFactory:
    """See asyncpg.

    Args:
        attached: The connection.
        request: The query.
        prefetch: How many rows an iteration fetches at once; None: as asyncpg does.
        native: Makes the driver's, of arguments of the query.
    """

    def __init__(self, attached: AttachedAsyncpg, request: Request, prefetch: int | None, native: Callable[..., Any]) -> None:
        self._attached = attached
        self._request = request
        self._prefetch = prefetch
        self._native = native

    async def __aiter__(self) -> AsyncIterator[Any]:
        count = _PREFETCH if self._prefetch is None else self._prefetch
        if count <= 0:
            raise self._attached.asyncpg.InterfaceError("prefetch argument must be greater than zero")
        cursor = await self._opened()
        while rows := await cursor.fetch(count, timeout=self._request.timeout):
            for row in rows:
                yield row

    def __await__(self) -> Generator[Any, None, WrappedCursor]:
        if self._prefetch is not None:
            raise self._attached.asyncpg.InterfaceError("prefetch argument can only be specified for iterable cursor")
        return self._opened().__await__()

    async def _opened(self) -> WrappedCursor:
        attached, request = self._attached, self._request
        if not attached.is_open():
            raise attached.asyncpg.NoActiveSQLTransactionError("cursor cannot be created outside of a transaction")
        found = await run(attached, request, lambda: self._native(*request.args, timeout=request.timeout), _Rows)
        return WrappedCursor(attached, found)


class WrappedCursor:
    """See asyncpg.

    Args:
        attached: The connection.
        rows: The driver's cursor, or rows of a captured statement.
    """

    def __init__(self, attached: AttachedAsyncpg, rows: Any) -> None:
        self._attached = attached
        self._rows = rows

    async def fetch(self, n: int, *, timeout: float | None = None) -> list[Any]:
        """See asyncpg."""
        if n <= 0:
            raise self._attached.asyncpg.InterfaceError("n must be greater than zero")
        with self._attached.alone(), self._attached.told():
            found: list[Any] = await self._rows.fetch(n, timeout=timeout)
            return found

    async def fetchrow(self, *, timeout: float | None = None) -> Any:
        """See asyncpg."""
        rows = await self.fetch(1, timeout=timeout)
        return rows[0] if rows else None

    async def forward(self, n: int, *, timeout: float | None = None) -> int:
        """See asyncpg."""
        with self._attached.alone(), self._attached.told():
            skipped: int = await self._rows.forward(n, timeout=timeout)
            return skipped


class _Rows:
    """Rows of a captured statement."""

    def __init__(self, outcome: Outcome) -> None:
        self._rows = outcome.rows

    async def fetch(self, n: int, *, timeout: float | None) -> list[Any]:
        """See asyncpg."""
        found, self._rows = self._rows[:n], self._rows[n:]
        return found

    async def forward(self, n: int, *, timeout: float | None) -> int:
        """See asyncpg."""
        return len(await self.fetch(n, timeout=timeout))
