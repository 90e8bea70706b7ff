"""One statement for many rows of parameters, and all that it returns: each driver has its own way that does not wait for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_cursor
from sqlalchemy.dialects.postgresql.psycopg import AsyncAdapt_psycopg_cursor
from sqlalchemy.util import await_only

T = TypeVar("T")


def execute_many(cursor: Any, sql: str, rows: Sequence[Any]) -> list[Any]:
    """What all executions return, in order.

    Args:
        cursor: Of SQLAlchemy's dialects psycopg, asyncpg or psycopg2.
        sql: It.
        rows: Parameters of each execution.
    """
    found: list[Any] = []
    if isinstance(cursor, AsyncAdapt_asyncpg_cursor) and hasattr(cursor._connection, "fetchmany"):  # from 0.30 on
        found = list(await_only(_by_asyncpg(cursor, lambda driver: driver.fetchmany(sql, rows))))
    elif isinstance(cursor, AsyncAdapt_psycopg_cursor):
        found = await_only(_pipelined(cursor._cursor, sql, rows))
    elif hasattr(cursor, "pgresult"):  # psycopg 3
        cursor.executemany(sql, rows, returning=True)
        found = cursor.fetchall()
        while cursor.nextset():
            found += cursor.fetchall()
    else:
        for row in rows:
            cursor.execute(sql, row)
            found += cursor.fetchall()
    return found


def execute_both(cursor: Any, first: str, second: str) -> None:
    """Two statements without parameters and without results, in one round trip where the driver can do that.

    Args:
        cursor: See `execute_many`.
        first: It runs first.
        second: It runs then.
    """
    both = f"{first}; {second}"
    if isinstance(cursor, AsyncAdapt_asyncpg_cursor):
        await_only(_by_asyncpg(cursor, lambda driver: driver.execute(both)))
    elif isinstance(cursor, AsyncAdapt_psycopg_cursor):
        inner: Any = cursor._cursor
        await_only(inner.execute(both, prepare=False))  # what is prepared is one statement
    elif hasattr(cursor, "pgresult"):
        cursor.execute(both, prepare=False)
    else:
        cursor.execute(first)
        cursor.execute(second)


async def _by_asyncpg(cursor: Any, work: Callable[[Any], Awaitable[T]]) -> T:
    """What `work` does with the driver's connection, as the adapter itself would do it."""
    adapted = cursor._adapt_connection
    async with adapted._execute_mutex:
        if adapted._transaction is None:
            await adapted._start_transaction()
        try:
            return await work(cursor._connection)
        except Exception as error:
            adapted._handle_exception(error)
            raise


async def _pipelined(cursor: Any, sql: str, rows: Sequence[Any]) -> list[Any]:
    await cursor.executemany(sql, rows, returning=True)
    found = list(await cursor.fetchall())
    while cursor.nextset():
        found += await cursor.fetchall()
    return found
