"""asyncpg's PreparedStatement, wrapped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from txcoord_rm.wrapped.asyncpg.attached import AttachedAsyncpg
from txcoord_rm.wrapped.asyncpg.cursor import WrappedCursorFactory
from txcoord_rm.wrapped.asyncpg.running import Outcome, Request, run

EACH = "fetchmany() has a result for each row of arguments", "fetch for each, within transaction()"


class WrappedStatement:
    """See asyncpg. A captured statement is prepared anew in its other form, by the connection's cache of statements.

    Args:
        attached: The connection.
        native: The driver's.
        record_class: Of its rows; None: the connection's.
    """

    def __init__(self, attached: AttachedAsyncpg, native: Any, record_class: type | None) -> None:
        self._attached = attached
        self._native = native
        self._record_class = record_class
        self._status: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def get_statusmsg(self) -> Any:
        """See asyncpg."""
        return self._native.get_statusmsg() if self._status is None else self._status

    async def fetch(self, *args: Any, timeout: float | None = None) -> Any:
        """See asyncpg. Raises like `WrappedConnection.execute`."""
        return await self._run(args, timeout, self._native.fetch, lambda outcome: outcome.rows)

    async def fetchval(self, *args: Any, column: int | str = 0, timeout: float | None = None) -> Any:
        """See asyncpg. Raises like `WrappedConnection.execute`."""

        def plain(*args: Any, timeout: float | None) -> Any:
            return self._native.fetchval(*args, column=column, timeout=timeout)

        return await self._run(args, timeout, plain, lambda outcome: outcome.value(column))

    async def fetchrow(self, *args: Any, timeout: float | None = None) -> Any:
        """See asyncpg. Raises like `WrappedConnection.execute`."""
        return await self._run(args, timeout, self._native.fetchrow, lambda outcome: outcome.row)

    async def _run(self, args: tuple[Any, ...], timeout: float | None, plain: Any, seen: Any) -> Any:
        self._status = None

        def noted(outcome: Outcome) -> Any:
            self._status = outcome.status
            return seen(outcome)

        request = Request(self._native.get_query(), args, timeout=timeout, record_class=self._record_class)
        return await run(self._attached, request, lambda: plain(*args, timeout=timeout), noted)

    async def fetchmany(self, args: Iterable[Any], *, timeout: float | None = None) -> Any:
        """See asyncpg. Raises like `WrappedConnection.fetchmany`."""
        rows = list(args)
        request = Request(self._native.get_query(), rows, many=True, timeout=timeout, not_captured=EACH)
        return await run(
            self._attached, request, lambda: self._native.fetchmany(rows, timeout=timeout), lambda outcome: outcome.rows
        )

    async def executemany(self, args: Iterable[Any], *, timeout: float | None = None) -> None:
        """See asyncpg. Raises like `WrappedConnection.execute`."""
        rows = list(args) if self._attached.takes_part() else args
        request = Request(self._native.get_query(), rows, many=True, timeout=timeout)
        await run(self._attached, request, lambda: self._native.executemany(rows, timeout=timeout), lambda outcome: None)

    def cursor(self, *args: Any, prefetch: int | None = None, timeout: float | None = None) -> WrappedCursorFactory:
        """See asyncpg; see `WrappedConnection.cursor`."""
        request = Request(self._native.get_query(), args, timeout=timeout, record_class=self._record_class)
        return WrappedCursorFactory(self._attached, request, prefetch, self._native.cursor)

    async def explain(self, *args: Any, analyze: bool = False) -> Any:
        """See asyncpg.

        Raises:
            UnsupportedSqlError: `analyze` inside a global transaction.
        """
        query = self._native.get_query()
        if analyze:
            self._attached.refuse_inside(query, "explain(analyze=True) runs what it explains", "leave `analyze` out")
        with self._attached.alone(), self._attached.told():
            return await self._native.explain(*args, analyze=analyze)
