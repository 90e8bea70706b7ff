"""psycopg's AsyncConnection and AsyncCursor, wrapped."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Self

from sqlalchemy.util import await_only, greenlet_spawn

from txcoord_rm.wrapped.psycopg.connection import WrappedBase
from txcoord_rm.wrapped.psycopg.cursor import Wrapped


class AsyncWrappedCursor(Wrapped):
    """See psycopg's AsyncCursor."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (row := await self.fetchone()) is not None:
            yield row

    async def close(self) -> None:
        """See DB-API."""
        await self._raw.close()

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """See psycopg.

        Raises:
            UnsupportedSqlError: It could not be undone for certain, and has not run.
            LockConflictError: Another global transaction holds a row.
        """
        await greenlet_spawn(self._run, "execute", query, params, options)
        return self

    async def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        """See psycopg. Raises like `execute`."""
        await greenlet_spawn(self._run, "executemany", query, params_seq, options)

    async def stream(self, query: Any, params: Any = None, **options: Any) -> AsyncIterator[Any]:
        """See psycopg; inside a global transaction the rows are read at once."""
        passes = self._attached.passes(query)
        async for row in self._raw.stream(query, params, **options) if passes else await self.execute(query, params):
            yield row

    async def fetchone(self) -> Any:
        """See DB-API."""
        return await self._raw.fetchone() if self._captured is None else self._row()

    async def fetchmany(self, size: int = 0) -> list[Any]:
        """See DB-API."""
        return await self._raw.fetchmany(size) if self._captured is None else self._rows(size or self.arraysize)

    async def fetchall(self) -> list[Any]:
        """See DB-API."""
        return await self._raw.fetchall() if self._captured is None else self._rows(None)


class AsyncWrappedConnection(WrappedBase):
    """See psycopg's AsyncConnection."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            if kind is None:
                await self.commit()
            else:
                await self.rollback()
        finally:
            await self.close()

    async def set_autocommit(self, value: bool) -> None:
        """See psycopg."""
        await greenlet_spawn(self._attached.set_autocommit, value)

    def cursor(self, *args: Any, **options: Any) -> AsyncWrappedCursor:
        """See psycopg."""
        return AsyncWrappedCursor(self._attached, self._attached.driver.cursor(*args, **options), await_only)

    async def execute(self, query: Any, params: Any = None, **options: Any) -> AsyncWrappedCursor:
        """See psycopg. Raises like `AsyncWrappedCursor.execute`."""
        return await self.cursor().execute(query, params, **options)

    async def commit(self) -> None:
        """See DB-API."""
        await greenlet_spawn(self._attached.commit)

    async def rollback(self) -> None:
        """See DB-API."""
        await greenlet_spawn(self._attached.rollback)

    async def close(self) -> None:
        """See DB-API."""
        await greenlet_spawn(self._attached.close)

    @contextlib.asynccontextmanager
    async def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> AsyncIterator[Self]:
        """See psycopg: a local transaction, or a savepoint in the one that is open."""
        await greenlet_spawn(self._attached.enter, savepoint_name)
        try:
            yield self
        except BaseException as error:
            await greenlet_spawn(self._attached.leave, False)
            if self._attached.asks_for_rollback(error):
                return
            raise
        await greenlet_spawn(self._attached.leave, not force_rollback)
