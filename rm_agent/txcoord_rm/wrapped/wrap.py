"""The one line with which a connection of psycopg or asyncpg takes part in global transactions, without SQLAlchemy."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn
from txcoord_proto.errors import ConfigurationError

from txcoord_rm.at.hook import resource_of_engine
from txcoord_rm.wrapped.asyncpg.attached import AttachedAsyncpg
from txcoord_rm.wrapped.asyncpg.connection import WrappedConnection as AsyncpgConnection
from txcoord_rm.wrapped.beside import beside
from txcoord_rm.wrapped.psycopg.asynchronous import AsyncWrappedConnection
from txcoord_rm.wrapped.psycopg.attached import AttachedPsycopg
from txcoord_rm.wrapped.psycopg.sync import WrappedConnection

_ASYNCPG = "postgresql+asyncpg"


def wrap(connection: Any, engine: Engine | AsyncEngine) -> Any:
    """Have statements of a driver's connection inside global transactions captured, as those of the engine are.

    Outside global transactions nothing changes. What is returned looks like the connection; from now on run statements and end
    local transactions through it alone.

    Args:
        connection: psycopg's Connection or AsyncConnection, or asyncpg's Connection, be it lent by a Pool; to the engine's
            database, with no transaction open.
        engine: Enrolled; it says which database and client it is, and its own connections do the second phases. For
            `psycopg.Connection` it is an Engine, else an AsyncEngine, with the dialect `postgresql+psycopg`; for asyncpg an
            AsyncEngine with `postgresql+asyncpg` or `postgresql+psycopg`.

    Returns:
        A wrapped connection.

    Raises:
        ConfigurationError: The engine is not enrolled, or does not fit the connection.
    """
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if resource_of_engine(sync_engine) is None:
        raise ConfigurationError(f"{sync_engine.url!r} is not enrolled: call enroll(engine, client) before wrap")
    dialect: Any = sync_engine.dialect
    if dialect.driver not in ("psycopg", "psycopg_async", "asyncpg"):
        raise ConfigurationError(
            f"wrap serves psycopg and asyncpg, not {dialect.driver}: run these statements through the engine"
        )
    if dialect.is_async and _is_asyncpg(connection):
        _check_closed(connection.is_in_transaction())
        fitting = sync_engine if dialect.driver == "asyncpg" else beside(sync_engine, _ASYNCPG)
        return AsyncpgConnection(AttachedAsyncpg(_adapted(connection, fitting), fitting))
    if dialect.driver == "asyncpg" or not isinstance(
        connection, dialect.loaded_dbapi.AsyncConnection if dialect.is_async else dialect.loaded_dbapi.Connection
    ):
        raise ConfigurationError(
            f"a {type(connection).__module__}.{type(connection).__name__} does not fit {sync_engine.url!r}: psycopg.Connection "
            "needs an Engine and psycopg.AsyncConnection an AsyncEngine, both with postgresql+psycopg; asyncpg.Connection needs "
            "an AsyncEngine with either driver"
        )
    _check_closed(connection.info.transaction_status)
    if not dialect.is_async:
        return WrappedConnection(AttachedPsycopg(connection, sync_engine))
    return AsyncWrappedConnection(AttachedPsycopg(_adapted(connection, sync_engine), sync_engine))


def _is_asyncpg(connection: Any) -> bool:
    """Whether it is asyncpg's, or stands for one that a pool has lent."""
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(connection).__mro__}
    return not kinds.isdisjoint({"asyncpg.connection.Connection", "asyncpg.pool.PoolConnectionProxy"})


def _check_closed(is_open: Any) -> None:
    if is_open:
        raise ConfigurationError("a local transaction is open on the connection: end it before wrap")


def _adapted(connection: Any, engine: Engine) -> Any:
    """The connection as the engine's dialect makes one of its own."""

    async def given(*_: object, **__: object) -> Any:
        return connection

    try:
        greenlet_spawn(engine.dialect.connect, async_creator_fn=given).send(None)  # nothing waits: the connection is there
    except StopIteration as done:
        return done.value
    raise AssertionError("connecting to what is connected waited")
