"""The one line with which a connection of psycopg takes part in global transactions, without SQLAlchemy."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from txcoord_proto.errors import ConfigurationError

from txcoord_rm.at.hook import resource_of_engine
from txcoord_rm.wrapped.asynchronous import AsyncWrappedConnection, attach
from txcoord_rm.wrapped.attached import Attached
from txcoord_rm.wrapped.sync import WrappedConnection


def wrap(connection: Any, engine: Engine | AsyncEngine) -> Any:
    """Have statements of a driver's connection inside global transactions captured, as those of the engine are.

    Outside global transactions nothing changes. What is returned looks like the connection; from now on run statements and end
    local transactions through it alone.

    Args:
        connection: psycopg's Connection or AsyncConnection, to the engine's database, with no transaction open.
        engine: Enrolled, with the dialect `postgresql+psycopg`, an AsyncEngine for an AsyncConnection; it says which database and
            client it is, and its own connections do the second phases.

    Returns:
        A `WrappedConnection` or an `AsyncWrappedConnection`.

    Raises:
        ConfigurationError: The engine is not enrolled, or does not fit the connection.
    """
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if resource_of_engine(sync_engine) is None:
        raise ConfigurationError(f"{sync_engine.url!r} is not enrolled: call enroll(engine, client) before wrap")
    dialect: Any = sync_engine.dialect
    if dialect.driver not in ("psycopg", "psycopg_async"):
        raise ConfigurationError(f"wrap serves psycopg, not {dialect.driver}: run these statements through the engine")
    fits = dialect.loaded_dbapi.AsyncConnection if dialect.is_async else dialect.loaded_dbapi.Connection
    if not isinstance(connection, fits):
        raise ConfigurationError(
            f"a {type(connection).__module__}.{type(connection).__name__} does not fit {sync_engine.url!r}: psycopg.Connection "
            "needs an Engine, psycopg.AsyncConnection an AsyncEngine, both with postgresql+psycopg"
        )
    if connection.info.transaction_status:
        raise ConfigurationError("a local transaction is open on the connection: end it before wrap")
    if not dialect.is_async:
        return WrappedConnection(Attached(connection, sync_engine))
    try:
        attach(connection, sync_engine).send(None)  # nothing in it waits: the connection is there
    except StopIteration as done:
        return AsyncWrappedConnection(done.value)
    raise AssertionError("connecting to what is connected waited")
