"""The service's databases: their identity, our tables in them, and a small pool of our own.

Second phases never use the application's pool: its connections may all be held by transactions that wait for this very rollback.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from sqlalchemy import Connection, Engine, create_engine, insert, inspect, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from tenacity import AsyncRetrying, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from txcoord_proto.errors import ConfigurationError, TxcoordError

from txcoord_sdk import schema
from txcoord_sdk.dialects import Dialect, dialect_of
from txcoord_sdk.local_transaction import watch
from txcoord_sdk.participant import UnavailableError

T = TypeVar("T")

POOL_SIZE = 2
_PREPARE: dict[str, Any] = {
    "retry": retry_if_exception_type(DBAPIError),
    "stop": stop_after_attempt(4),
    "wait": wait_random_exponential(multiplier=0.05, max=1.0),
    "reraise": True,
}


class Database:
    """One database of the service.

    Args:
        engine: The application's Engine or AsyncEngine.
        name: For people, and for actions that name their database.
    """

    def __init__(self, engine: Engine | AsyncEngine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.is_async = isinstance(engine, AsyncEngine)
        self.sync_engine: Engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
        self.dialect: Dialect = dialect_of(self.sync_engine.dialect.name)
        self._id = ""
        self._lock = threading.Lock()
        self._own: Engine | None = None
        self._own_async: dict[asyncio.AbstractEventLoop, AsyncEngine] = {}
        watch(self.sync_engine)

    @property
    def id(self) -> str:
        """Its identity; empty until `prepare` or `aprepare` has run."""
        return self._id

    def prepare(self) -> str:
        """Create our tables where they are missing; returns the database's identity."""
        if not self._id:
            with _tables_missing(self.name):
                self._id = Retrying(**_PREPARE)(self.run, prepare)
        return self._id

    async def aprepare(self) -> str:
        """Create our tables where they are missing; returns the database's identity."""
        if not self._id:
            with _tables_missing(self.name):
                self._id = await AsyncRetrying(**_PREPARE)(self.arun, prepare)
        return self._id

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a local transaction on our own pool; waits and deadlocks are the caller's.

        Raises:
            UnavailableError: The database cannot be reached.
        """
        with self._unavailable(), self._pool().begin() as connection:
            return work(connection)

    async def arun(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a local transaction on our own pool. Raises like `run`."""
        with self._unavailable():
            async with self._async_pool().begin() as connection:
                return await connection.run_sync(work)

    async def arun_async(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Run the coroutine function `work` with an AsyncConnection, in a local transaction on our own pool."""
        with self._unavailable():
            async with self._async_pool().begin() as connection:
                return await work(connection)

    def close(self) -> None:
        """Close our own pools."""
        if self._own is not None:
            self._own.dispose()
        for loop, pool in self._own_async.items():
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(pool.dispose(), loop)
        self._own = None
        self._own_async.clear()

    async def aclose(self) -> None:
        """Close our own pool of the running loop."""
        pool = self._own_async.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.dispose()

    # ------------------------------------------------------------ inside

    def _unavailable(self) -> _Unavailable:
        return _Unavailable(self.name)

    def _pool_options(self) -> dict[str, Any]:
        source = self.sync_engine.pool
        options: dict[str, Any] = {"creator": lambda: source._invoke_creator(None)}  # type: ignore[arg-type]
        if self.sync_engine.dialect.name != "sqlite":
            options |= {"pool_size": POOL_SIZE, "max_overflow": 0, "pool_pre_ping": True}
        return options

    def _pool(self) -> Engine:
        with self._lock:
            if self._own is None:
                if self.is_async:
                    raise ConfigurationError(f"database {self.name!r} is asynchronous: give the action `async def` functions")
                self._own = create_engine(self.sync_engine.url, **self._pool_options())
            return self._own

    def _async_pool(self) -> AsyncEngine:
        if not self.is_async:
            raise ConfigurationError(f"database {self.name!r} is synchronous: give the action plain functions")
        loop = asyncio.get_running_loop()
        pool = self._own_async.get(loop)
        if pool is None:
            pool = self._own_async[loop] = create_async_engine(self.sync_engine.url, **self._pool_options())
        return pool


@contextmanager
def _tables_missing(name: str) -> Iterator[None]:
    """Says what to do where our tables cannot be made.

    Raises:
        ConfigurationError: They are missing and may not be created by this user.
    """
    try:
        yield
    except DBAPIError as error:
        raise ConfigurationError(
            f"our tables are missing in database {name!r} and cannot be created ({error.orig}): run `txcoord-agent init URL` once with "
            "a user that may"
        ) from error


class _Unavailable:
    """Turns lost and refused connections into `UnavailableError`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        lost = isinstance(error, DBAPIError) and (error.connection_invalidated or error.statement is None)
        if lost or isinstance(error, (ConnectionError, OSError)):
            raise UnavailableError(f"database {self._name!r} cannot be reached: {error}") from error


class Databases:
    """The databases that a client was bound to."""

    def __init__(self) -> None:
        self._known: dict[str, Database] = {}

    def bind(self, engine: Engine | AsyncEngine, name: str = "") -> Database:
        """Take a database in.

        Raises:
            ConfigurationError: The name is taken, or there are several and one has none.
        """
        if not isinstance(engine, (Engine, AsyncEngine)):
            raise ConfigurationError(f"bind(engine) takes an Engine or AsyncEngine of SQLAlchemy, not {type(engine).__name__}")
        if name in self._known:
            raise ConfigurationError(
                f"a database {name!r} is bound already: name each, bind(engine, name='orders'), and name them in @tcc(database=...)"
            )
        database = self._known[name] = Database(engine, name)
        return database

    def get(self, name: str = "") -> Database:
        """The database of that name, or the only one.

        Raises:
            ConfigurationError: There is none, or more than one and no name.
        """
        if name in self._known:
            return self._known[name]
        if not name and len(self._known) == 1:
            return next(iter(self._known.values()))
        if not self._known:
            raise ConfigurationError("the client knows no database: call client.bind(engine) before the first action")
        raise ConfigurationError(f"which database? {sorted(self._known)} are bound: say @tcc(..., database=NAME)")

    def close(self) -> None:
        """Close our own pools."""
        for database in self._known.values():
            database.close()

    async def aclose(self) -> None:
        """Close our own pools of the running loop."""
        for database in self._known.values():
            await database.aclose()


def prepare(connection: Connection) -> str:
    """Create our tables where they are missing; returns the database's identity.

    Two processes may do this at the same moment: the one that comes second fails and succeeds when it tries again.
    """
    have = set(inspect(connection).get_table_names())
    for table in schema.metadata.sorted_tables:
        if table.name not in have:
            table.create(connection)
    known = connection.scalar(select(schema.database.c.id))
    if known is None:
        try:
            with connection.begin_nested():
                connection.execute(insert(schema.database).values(one=1, id=str(uuid.uuid4())))
        except IntegrityError:
            pass  # another process was faster
        known = connection.scalar(select(schema.database.c.id))
    return str(known)


@click.command("init")
@click.argument("url")
def init_command(url: str) -> None:
    """Create txcoord's tables in the business database at URL (a synchronous SQLAlchemy URL)."""
    try:
        engine = create_engine(url)
        with engine.begin() as connection:
            click.echo(f"database {prepare(connection)} is ready")
    except (TxcoordError, DBAPIError, ImportError) as error:
        click.echo(f"cannot prepare the database: {error}", err=True)
        sys.exit(1)
