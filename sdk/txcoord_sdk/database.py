"""The service's databases: their identity, and a small pool of our own.

Second phases never use the application's pool: its connections may all be held by transactions that wait for this very rollback.
Our pool is made anew from the application's, with its creator, listeners and dialect, so connections are the same in every
respect; a gate keeps it small.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, MetaData, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import AsyncRetrying, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from txcoord_proto.errors import ConfigurationError
from txcoord_proto.failpoints import durable

from txcoord_sdk import schema
from txcoord_sdk.context import entered
from txcoord_sdk.dialects import Dialect, dialect_of
from txcoord_sdk.local_transaction import OWN, watch
from txcoord_sdk.participant import UnavailableError
from txcoord_sdk.sealed_transaction import AsyncSealedTransaction, SealedTransaction

T = TypeVar("T")

POOL_SIZE = 2
FENCE_RETENTION = 7 * 24 * 3600.0
LOCK_WAIT_SECONDS = 10
_PREPARE: dict[str, Any] = {
    "retry": retry_if_exception_type(DBAPIError),
    "stop": stop_after_attempt(4),
    "wait": wait_random_exponential(multiplier=0.05, max=1.0),
    "reraise": True,
}


class _AsyncPool(NamedTuple):
    """Our own pool of one event loop."""

    engine: AsyncEngine
    gate: asyncio.Semaphore
    preparing: asyncio.Lock


class Database:
    """One database of the service.

    Args:
        engine: The application's Engine or AsyncEngine.
        name: For people, and for actions that name their database.
        connections: How many second phases have one at a time, in each process and event loop.

    Raises:
        ConfigurationError: It is of no supported kind, lives in memory, or commits by itself.
    """

    def __init__(self, engine: Engine | AsyncEngine, name: str, connections: int = POOL_SIZE) -> None:
        self.engine = engine
        self.name = name
        self.is_async = isinstance(engine, AsyncEngine)
        self.sync_engine: Engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
        self.dialect: Dialect = dialect_of(self.sync_engine.dialect.name)
        self.fence_retention = FENCE_RETENTION
        """Seconds that fence rows stay at least; half of it is how old a phase one may become."""
        self._id = ""
        self._tables = [schema.metadata]
        self._on_close: list[Callable[[], None]] = []
        self.connections = connections
        self.forked()
        self._refuse_unfit()
        watch(self.sync_engine)

    def add_tables(self, tables: MetaData) -> None:
        """Have `prepare` create further tables of ours, too."""
        if tables not in self._tables:
            self._tables.append(tables)
            self._id = ""

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Have `callback` called whenever our pools are closed, to let go of what is kept beside them."""
        self._on_close.append(callback)

    @property
    def id(self) -> str:
        """Its identity; empty until `prepare` or `aprepare` has run."""
        return self._id

    def prepare(self) -> str:
        """Create our tables where they are missing; returns the database's identity.

        Raises:
            ConfigurationError: They are missing and may not be created by this user.
            UnavailableError: The database cannot be reached.
        """
        with self._preparing:
            if not self._id:
                with self._tables_missing():
                    self._id = Retrying(**_PREPARE)(self._prepare)
        return self._id

    async def aprepare(self) -> str:
        """Create our tables where they are missing; returns the database's identity. Raises like `prepare`."""
        async with self._own_async_pool().preparing:
            if not self._id:
                with self._tables_missing():
                    self._id = await AsyncRetrying(**_PREPARE)(self._aprepare)
        return self._id

    def forked(self) -> None:
        """In the child of a fork: the connections, and the locks that somebody may hold, are the parent's."""
        self._lock, self._preparing = threading.Lock(), threading.Lock()
        self._gate = threading.Semaphore(self.connections)
        self._own: Engine | None = None
        self._own_async: dict[asyncio.AbstractEventLoop, _AsyncPool] = {}

    def own_transaction(self) -> SealedTransaction:
        """A local transaction on our own pool."""
        return SealedTransaction(self._own_engine(), self._gate)

    def own_async_transaction(self) -> AsyncSealedTransaction:
        """A local transaction on our own pool of the running event loop."""
        own = self._own_async_pool()
        return AsyncSealedTransaction(own.engine, own.gate)

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a local transaction on our own pool, outside any global one.

        Raises:
            UnavailableError: The database cannot be reached.
        """
        local = self.own_transaction()
        with self.reaching(), entered(None):
            try:
                result = local.start(work)
                local.commit()
            finally:
                local.close()
        return result

    async def arun(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a local transaction on our own pool. Raises like `run`."""
        local = self.own_async_transaction()
        with self.reaching(), entered(None):
            try:
                result = await local.start(work)
                await local.commit()
            finally:
                await local.close()
        return result

    def run_alone(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a connection of our own pool on which each statement is committed by itself.

        Raises:
            UnavailableError: The database cannot be reached.
        """
        with self.reaching(), self._gate, self._own_engine().connect() as connection:
            return work(_alone(connection))

    async def arun_alone(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a connection of our own pool on which each statement is committed by itself. Raises like `run_alone`."""
        own = self._own_async_pool()
        with self.reaching():
            async with own.gate, own.engine.connect() as connection:
                return await connection.run_sync(lambda c: work(_alone(c)))

    @contextmanager
    def reaching(self, is_lost: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """A block in which lost and refused connections become `UnavailableError`.

        Args:
            is_lost: Whether an error that looks so is one of our connection; user code has others, too.
        """
        try:
            yield
        except (DBAPIError, OSError, PoolTimeoutError) as error:
            if not is_lost():
                raise
            # SQLAlchemy names no statement in what it met while connecting.
            connecting = isinstance(error, (OperationalError, InterfaceError)) and error.statement is None
            if isinstance(error, DBAPIError) and not (connecting or error.connection_invalidated):
                raise
            raise UnavailableError(f"database {self.name!r} cannot be reached: {error}") from error

    def close(self) -> None:
        """Close our own pools, and what is still lent once it comes back."""
        for callback in self._on_close:
            callback()
        if self._own is not None:
            event.listen(self._own, "checkin", _close)
            self._own.dispose()
        for loop, own in self._own_async.items():
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(own.engine.dispose(), loop)
        self._own = None
        self._own_async.clear()

    async def aclose(self) -> None:
        """Close our own pool of the running loop."""
        own = self._own_async.pop(asyncio.get_running_loop(), None)
        if own is not None:
            await own.engine.dispose()

    # ------------------------------------------------------------ inside

    @durable("database.prepare")
    def _prepare(self) -> str:
        return self.run(self._create)

    @durable("database.prepare")
    async def _aprepare(self) -> str:
        return await self.arun(self._create)

    def _create(self, connection: Connection) -> str:
        return schema.prepare(connection, self._tables)

    @contextmanager
    def _tables_missing(self) -> Iterator[None]:
        """Says what to do where our tables are not there and cannot be created."""
        try:
            yield
        except DBAPIError as error:
            names = ", ".join(name for tables in self._tables for name in tables.tables)
            raise ConfigurationError(
                f"our tables in database {self.name!r} ({names}) cannot be created or read ({error.orig}): run `txcoord-agent "
                "init URL` once as a user that may create tables, and grant SELECT, INSERT, UPDATE and DELETE on them"
            ) from error

    def _refuse_unfit(self) -> None:
        engine = self.sync_engine
        level = engine.get_execution_options().get(
            "isolation_level", getattr(engine.dialect, "_on_connect_isolation_level", None)
        )
        if level == "AUTOCOMMIT":
            raise ConfigurationError(
                f"{engine.url!r} commits each statement by itself (isolation_level='AUTOCOMMIT'), so a fence could not stand "
                "or fall with its effects: bind an engine with another isolation level"
            )
        if engine.dialect.name == "sqlite" and engine.url.database in (None, "", ":memory:"):
            raise ConfigurationError(
                "an SQLite database in memory belongs to one connection and ends with the process, before its second phases: "
                "use a file, create_engine('sqlite:///service.db')"
            )

    def _make_own(self) -> Engine:
        source = self.sync_engine
        pool = source.pool.recreate()
        statements = self.dialect.limit_lock_wait(LOCK_WAIT_SECONDS)

        @event.listens_for(pool, "connect")
        def set_up(dbapi_connection: Any, record: object) -> None:
            cursor = dbapi_connection.cursor()
            try:
                for statement in statements:  # one branch that waits must not hold up the others
                    cursor.execute(statement)
                if self._id:
                    cursor.execute("SELECT id FROM txcoord_database")
                    self._check_identity(cursor.fetchone())
            finally:
                cursor.close()
            dbapi_connection.commit()

        return Engine(pool, source.dialect, source.url, execution_options={**source.get_execution_options(), **OWN})

    def _check_identity(self, row: Any) -> None:
        """A guard written into another database would be taken for a cancel."""
        if row is None or row[0] != self._id:
            raise UnavailableError(
                f"database {self.name!r} was {self._id} and is {row and row[0]} now: connect to the right one, or restart the "
                "process"
            )

    def _own_engine(self) -> Engine:
        if self.is_async:
            raise ConfigurationError(f"database {self.name!r} is asynchronous: give the action `async def` functions")
        with self._lock:
            if self._own is None:
                self._own = self._make_own()
            return self._own

    def _own_async_pool(self) -> _AsyncPool:
        if not self.is_async:
            raise ConfigurationError(f"database {self.name!r} is synchronous: give the action plain functions")
        loop = asyncio.get_running_loop()
        with self._lock:
            own = self._own_async.get(loop)
            if own is None:
                for ended in [known for known in self._own_async if known.is_closed()]:
                    del self._own_async[ended]
                gate = asyncio.Semaphore(self.connections)
                own = self._own_async[loop] = _AsyncPool(AsyncEngine(self._make_own()), gate, asyncio.Lock())
            return own


def initialize(connection: Connection) -> bool:
    """See to it that SQLAlchemy knows what it asks of a database once; whether it was asked on this connection.

    Our pools share the dialect of the application's. Who connects second does not wait for the first, who has begun to ask.
    """
    if hasattr(connection.dialect, "default_isolation_level"):
        return False
    with entered(None):
        connection.dialect.initialize(connection)
    return True


def _alone(connection: Connection) -> Connection:
    """The connection, with each statement committed by itself."""
    if initialize(connection):
        connection.rollback()
    return connection.execution_options(isolation_level="AUTOCOMMIT")


def _close(dbapi_connection: Any, record: Any) -> None:
    """Close a connection that comes back to a pool which nobody uses any more."""
    record.invalidate()


class Databases:
    """The databases that a client was bound to."""

    def __init__(self) -> None:
        self._known: dict[str, Database] = {}

    def bind(self, engine: Engine | AsyncEngine, name: str = "", connections: int = POOL_SIZE) -> Database:
        """Take a database in.

        Raises:
            ConfigurationError: The name is taken, there are several and one has none, or the engine does not fit.
        """
        if connections < 1:
            raise ConfigurationError(f"connections={connections}: second phases need 1 at least")
        if not isinstance(engine, (Engine, AsyncEngine)):
            raise ConfigurationError(f"bind(engine) takes an Engine or AsyncEngine of SQLAlchemy, not {type(engine).__name__}")
        if name in self._known:
            raise ConfigurationError(
                f"a database {name!r} is bound already: name each, bind(engine, name='orders'), and name them in "
                "@tcc(database=...)"
            )
        database = self._known[name] = Database(engine, name, connections)
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

    def of(self, engine: Engine) -> Database | None:
        """The database of an engine that was bound."""
        return next((known for known in self._known.values() if known.sync_engine is engine), None)

    def forked(self) -> None:
        """In the child of a fork."""
        for database in self._known.values():
            database.forked()

    def close(self) -> None:
        """Close our own pools."""
        for database in self._known.values():
            database.close()

    async def aclose(self) -> None:
        """Close our own pools of the running loop."""
        for database in self._known.values():
            await database.aclose()
