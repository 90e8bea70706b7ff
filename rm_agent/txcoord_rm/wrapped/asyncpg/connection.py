"""asyncpg's Connection, wrapped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy.util import greenlet_spawn

from txcoord_rm.sql.quoting import quoted
from txcoord_rm.wrapped.asyncpg.attached import AttachedAsyncpg
from txcoord_rm.wrapped.asyncpg.cursor import WrappedCursorFactory
from txcoord_rm.wrapped.asyncpg.running import Request, run
from txcoord_rm.wrapped.asyncpg.statement import EACH, WrappedStatement
from txcoord_rm.wrapped.asyncpg.transaction import WrappedTransaction

_COPY = "COPY shows nobody its rows", "use executemany, or copy outside of the global transaction"
_COPIED = "COPY takes no global locks and leaves no undo record", "copy what a plain SELECT reads, or fetch it"


class WrappedConnection:
    """See asyncpg's Connection. What is not here is the driver's own.

    Args:
        attached: The driver's.
    """

    def __init__(self, attached: AttachedAsyncpg) -> None:
        self._attached = attached

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attached.driver, name)

    # ------------------------------------------------------------ statements

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """See asyncpg; inside a global transaction it is one statement.

        Raises:
            UnsupportedSqlError: It could not be undone for certain, and has not run.
            LockConflictError: Another global transaction holds a row.
        """
        status: str = await run(
            self._attached,
            Request(query, args, timeout=timeout),
            lambda: self._attached.driver.execute(query, *args, timeout=timeout),
            lambda outcome: outcome.status,
        )
        return status

    async def executemany(self, command: str, args: Iterable[Any], *, timeout: float | None = None) -> None:
        """See asyncpg. Raises like `execute`."""
        rows = list(args) if self._attached.takes_part() else args
        await run(
            self._attached,
            Request(command, rows, many=True, timeout=timeout),
            lambda: self._attached.driver.executemany(command, rows, timeout=timeout),
            lambda outcome: None,
        )

    async def fetch(self, query: str, *args: Any, timeout: float | None = None, record_class: type | None = None) -> list[Any]:
        """See asyncpg. Raises like `execute`."""
        rows: list[Any] = await run(
            self._attached,
            Request(query, args, timeout=timeout, record_class=record_class),
            lambda: self._attached.driver.fetch(query, *args, timeout=timeout, record_class=record_class),
            lambda outcome: outcome.rows,
        )
        return rows

    async def fetchval(self, query: str, *args: Any, column: int | str = 0, timeout: float | None = None) -> Any:
        """See asyncpg. Raises like `execute`."""
        return await run(
            self._attached,
            Request(query, args, timeout=timeout),
            lambda: self._attached.driver.fetchval(query, *args, column=column, timeout=timeout),
            lambda outcome: outcome.value(column),
        )

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None, record_class: type | None = None) -> Any:
        """See asyncpg. Raises like `execute`."""
        return await run(
            self._attached,
            Request(query, args, timeout=timeout, record_class=record_class),
            lambda: self._attached.driver.fetchrow(query, *args, timeout=timeout, record_class=record_class),
            lambda outcome: outcome.row,
        )

    async def fetchmany(
        self, query: str, args: Iterable[Any], *, timeout: float | None = None, record_class: type | None = None
    ) -> list[Any]:
        """See asyncpg.

        Raises:
            UnsupportedSqlError: It changes or locks rows inside a global transaction.
        """
        each = list(args)
        rows: list[Any] = await run(
            self._attached,
            Request(query, each, many=True, timeout=timeout, record_class=record_class, not_captured=EACH),
            lambda: self._attached.driver.fetchmany(query, each, timeout=timeout, record_class=record_class),
            lambda outcome: outcome.rows,
        )
        return rows

    def cursor(
        self,
        query: str,
        *args: Any,
        prefetch: int | None = None,
        timeout: float | None = None,
        record_class: type | None = None,
    ) -> WrappedCursorFactory:
        """See asyncpg; rows of what changes or locks rows inside a global transaction are read at once.

        What it returns raises like `execute`.
        """

        def native(*args: Any, timeout: float | None) -> Any:
            return self._attached.driver.cursor(query, *args, timeout=timeout, record_class=record_class)

        request = Request(query, args, timeout=timeout, record_class=record_class)
        return WrappedCursorFactory(self._attached, request, prefetch, native)

    async def prepare(
        self, query: str, *, timeout: float | None = None, record_class: type | None = None, **options: Any
    ) -> WrappedStatement:
        """See asyncpg."""
        with self._attached.alone(), self._attached.told():
            native = await self._attached.driver.prepare(query, timeout=timeout, record_class=record_class, **options)
        return WrappedStatement(self._attached, native, record_class)

    # ------------------------------------------------------------ COPY

    async def copy_from_query(self, query: str, *args: Any, **options: Any) -> str:
        """See asyncpg.

        Raises:
            UnsupportedSqlError: Inside a global transaction it is no plain read.
        """
        return await self._copy(query, args, _COPIED, lambda: self._attached.driver.copy_from_query(query, *args, **options))

    async def copy_from_table(self, table_name: str, *, schema_name: str | None = None, **options: Any) -> str:
        """See asyncpg. Raises like `copy_from_query`."""
        return await self._copy(
            f"SELECT * FROM {_name(table_name, schema_name)}",
            (),
            _COPIED,
            lambda: self._attached.driver.copy_from_table(table_name, schema_name=schema_name, **options),
        )

    async def copy_to_table(self, table_name: str, *, schema_name: str | None = None, **options: Any) -> str:
        """See asyncpg.

        Raises:
            UnsupportedSqlError: Inside a global transaction.
        """
        return await self._copy_in("copy_to_table", table_name, schema_name, options)

    async def copy_records_to_table(self, table_name: str, *, schema_name: str | None = None, **options: Any) -> str:
        """See asyncpg. Raises like `copy_to_table`."""
        return await self._copy_in("copy_records_to_table", table_name, schema_name, options)

    async def _copy_in(self, method: str, table_name: str, schema_name: str | None, options: dict[str, Any]) -> str:
        text = f"COPY {_name(table_name, schema_name)} FROM STDIN"
        self._attached.refuse_inside(text, *_COPY)
        copy = getattr(self._attached.driver, method)
        return await self._copy(text, (), _COPY, lambda: copy(table_name, schema_name=schema_name, **options))

    async def _copy(self, query: str, args: tuple[Any, ...], refusal: tuple[str, str], plain: Callable[[], Any]) -> str:
        status: str = await run(self._attached, Request(query, args, not_captured=refusal), plain, lambda outcome: "")
        return status

    # ------------------------------------------------------------ the connection

    def transaction(
        self, *, isolation: str | None = None, readonly: bool = False, deferrable: bool = False
    ) -> WrappedTransaction:
        """See asyncpg: a local transaction, or a savepoint in the one that is open."""
        return WrappedTransaction(self._attached, isolation, readonly, deferrable)

    async def set_type_codec(self, typename: str, **options: Any) -> None:
        """See asyncpg."""
        await self._codec("set_type_codec", typename, options)

    async def reset_type_codec(self, typename: str, **options: Any) -> None:
        """See asyncpg."""
        await self._codec("reset_type_codec", typename, options)

    async def set_builtin_type_codec(self, typename: str, **options: Any) -> None:
        """See asyncpg."""
        await self._codec("set_builtin_type_codec", typename, options)

    async def _codec(self, method: str, typename: str, options: dict[str, Any]) -> None:
        self._attached.unchecked()
        with self._attached.alone(), self._attached.told():
            await getattr(self._attached.driver, method)(typename, **options)

    async def reset(self, *, timeout: float | None = None) -> None:
        """See asyncpg: what is open is rolled back."""
        with self._attached.alone():
            async with asyncio.timeout(timeout):
                await greenlet_spawn(self._attached.abandon)
                await self._attached.driver.reset()

    async def close(self, *, timeout: float | None = None) -> None:
        """See asyncpg: what is open is rolled back."""
        async with asyncio.timeout(timeout):
            await greenlet_spawn(self._attached.close)

    def terminate(self) -> None:
        """See asyncpg: what is open is rolled back."""
        self._attached.terminate()


def _name(table_name: str, schema_name: str | None) -> str:
    return f"{quoted(schema_name)}.{quoted(table_name)}" if schema_name else quoted(table_name)
