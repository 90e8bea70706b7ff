"""A driver's connection beside an enrolled engine: its statements meet the same hook as the engine's own.

The hook knows connections of SQLAlchemy, so there is one here, around the driver's. It runs none of the application's
statements; with it the engine's dialect finds the local transaction, and tells branches how that ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any, ClassVar

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DBAPIError
from txcoord_proto.errors import ConfigurationError
from txcoord_sdk import schema
from txcoord_sdk.context import current
from txcoord_sdk.dialects import dialect_of
from txcoord_sdk.local_state import LocalState
from txcoord_sdk.local_transaction import open_state
from txcoord_sdk.tcc.branch import current_branch

from txcoord_rm.at.branch import LocalBranch
from txcoord_rm.at.cursor import Cursor
from txcoord_rm.at.hook import capturing, resource_of_engine
from txcoord_rm.sql.unsupported import refuse

_IDENTITY = str(select(schema.database.c.id))


class Attached:
    """See the module. Everything here looks synchronous; asynchronous drivers are awaited within SQLAlchemy's greenlet.

    Args:
        raw: The connection as the engine's dialect has it.
        engine: Enrolled.
    """

    def __init__(self, raw: Any, engine: Engine) -> None:
        self.raw = raw
        self.dialect: Any = engine.dialect
        self.resource = resource_of_engine(engine)
        self.held: Any = _Held(raw)
        self.connection = _Connection(self, engine)
        self._blocks: list[str] = []
        self._is_checked = False
        """Whether it is known to be connected to the engine's database."""
        self._autocommit = False
        """Whether the driver commits each statement outside of the block that is open."""
        if (left := open_state(self.connection)) is not None:  # wrapped before
            self._give_up(left)

    @property
    def driver(self) -> Any:
        """The driver's own connection."""
        return getattr(self.raw, "driver_connection", self.raw)

    def is_open(self) -> bool:
        """Whether a local transaction is open."""
        return dialect_of(self.dialect.name).is_open(self.raw)

    def takes_part(self) -> bool:
        """Whether a statement would be one of a global transaction."""
        return current() is not None and current_branch() is None

    def refuse_inside(self, what: str, reason: str, remedy: str) -> None:
        """Refuse what the hook cannot see.

        Raises:
            UnsupportedSqlError: The running code is in a global transaction.
        """
        if self.takes_part():
            raise refuse(what, reason, remedy)

    def run(self, driver: Any, plain: Callable[[], Any], method: str, query: Any, parameters: Any) -> Cursor | None:
        """Run a statement; returns the cursor that has its results if it is captured.

        Args:
            driver: Cursor of the driver with `execute` and `executemany`.
            plain: Makes another one, whose rows are tuples.
            method: One of these two.
            query: As the application wrote it.
            parameters: Of it.

        Raises:
            ConfigurationError: The local transaction is one of mode XA, or was ended otherwise.
        """
        self._check_not_ended()
        if not self.is_open():  # who has the driver's connection may have ended what was seen
            self.dialect._txcoord_seen.pop(id(self.raw), None)
        transaction = current()
        if transaction is not None and self.dialect._txcoord_takes_xa(self.connection, transaction):
            raise ConfigurationError(
                "a wrapped connection takes part in mode 'at' only: run statements of mode 'xa' through the engine"
            )
        text = self._text(query)
        context = _Context(self, text)
        local = capturing(context)
        if local is not None and not self._is_checked:
            self._check_database(plain)
        used = driver if local is None else Cursor(driver, self.resource, local, plain)  # type: ignore[arg-type]

        def execute(cursor: Any, statement: str, given: Any, context: Any) -> None:
            getattr(cursor, method)(query if local is None else statement, given)

        with _told(self):
            self.dialect._txcoord_execute(execute, used, text, parameters, context)
        return used if local is not None and used.captured else None

    def _check_database(self, plain: Callable[[], Any]) -> None:
        """Refuse another database than the engine's, where undo records would be looked for in vain.

        Raises:
            ConfigurationError: It is connected to one.
        """
        assert self.resource is not None
        expected, was_open, cursor = self.resource.ready().database.id, self.is_open(), plain()
        try:
            cursor.execute(_IDENTITY)
            found = cursor.fetchone()
        except self.dialect.loaded_dbapi.ProgrammingError:  # there is no such table
            found = None
        finally:
            cursor.close()
            if not was_open:
                self.raw.rollback()  # the statement shall be the first of its local transaction
        if found is None or found[0] != expected:
            raise ConfigurationError(
                f"the wrapped connection is not connected to the database of {self.connection.engine.url!r}, or does not find "
                "its tables: connect both alike, with the same search path"
            )
        self._is_checked = True

    def _text(self, query: Any) -> str:
        if isinstance(query, bytes):
            return query.decode()
        if (compose := getattr(query, "as_string", None)) is not None:
            return str(compose(self.driver))
        if not isinstance(query, str):
            self.refuse_inside(repr(query), "it is no text that can be read", "write it as text with parameters")
        return str(query)

    # ------------------------------------------------------------ the local transaction

    def _check_not_ended(self) -> None:
        """Refuse to go on with a local transaction that was ended otherwise, so that nobody knows how.

        Raises:
            ConfigurationError: It was.
        """
        state = open_state(self.connection)
        if state is None or self.is_open():
            return
        if any(isinstance(enlisted, LocalBranch) and enlisted.begun for enlisted in state.enlistments):
            raise self._give_up(state)

    def _give_up(self, state: LocalState) -> ConfigurationError:
        error = ConfigurationError(
            "the local transaction was not ended through its wrapped connection, so its global transaction is rolled back: "
            "commit and roll back there only"
        )
        self.dialect._txcoord_pop(self.raw)
        state.end(lambda enlisted: enlisted.unknown(error))
        return error

    def commit(self) -> None:
        """Commit it, and tell."""
        self._check_no_block("commit")
        self._check_not_ended()
        with _told(self):
            self.dialect.do_commit(self.held)

    def rollback(self) -> None:
        """Roll it back, and tell."""
        self._check_no_block("rollback")
        self._check_not_ended()
        self.dialect.do_rollback(self.held)

    def close(self) -> None:
        """Close the connection; the database rolls back what was open."""
        self.dialect.do_close(self.raw)

    def enter(self, name: str | None) -> None:
        """Begin a block: a local transaction, or a savepoint in the one that is open."""
        if self.is_open() or self._blocks:
            name = name or f"_txc_{len(self._blocks) + 1}"
            self._execute(self.dialect.do_savepoint, name)
            self._blocks.append(name)
        else:
            self._autocommit = bool(self.driver.autocommit)
            if self._autocommit:
                self._set_autocommit(False)
            self._blocks.append("")

    def leave(self, keeps: bool) -> None:
        """End the innermost block.

        Args:
            keeps: Whether what it did stays.
        """
        name = self._blocks.pop()
        if name:
            if not keeps:
                self._execute(self.dialect.do_rollback_to_savepoint, name)
            self._execute(self.dialect.do_release_savepoint, name)
            return
        try:
            if keeps:
                self.commit()
            else:
                self.rollback()
        finally:
            if self._autocommit and not self.driver.closed:
                self._set_autocommit(True)

    def asks_for_rollback(self, error: BaseException) -> bool:
        """Whether an error does nothing but leave the innermost block without what it did."""
        return type(error) is self.dialect.loaded_dbapi.Rollback and getattr(error, "transaction", None) is None

    def set_autocommit(self, value: bool) -> None:
        """See the driver."""
        self._check_no_block("autocommit")
        self._set_autocommit(value)

    def _set_autocommit(self, value: bool) -> None:
        if self.dialect.is_async:
            self.raw.set_autocommit(value)
        else:
            self.raw.autocommit = value

    def _check_no_block(self, what: str) -> None:
        if self._blocks:
            raise self.dialect.loaded_dbapi.ProgrammingError(f"{what} within a block of transaction(): leave the block first")

    def _execute(self, work: Callable[[Connection, str], None], name: str) -> None:
        with _told(self):
            work(self.connection, name)


@contextlib.contextmanager
def _told(attached: Attached) -> Iterator[None]:
    """The dialect is told of what was cut short, as SQLAlchemy tells it; errors are the driver's."""
    try:
        yield
    except BaseException as error:  # a cancelled statement, too, has failed its transaction
        found = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        attached.dialect.is_disconnect(found, attached.held, None)
        if found is error:
            raise
        raise found from None


class _Context:
    """What the hook asks SQLAlchemy's context of a statement."""

    execution_options: ClassVar[MappingProxyType[str, Any]] = MappingProxyType({})

    def __init__(self, attached: Attached, statement: str) -> None:
        self.root_connection = attached.connection
        self.dialect = attached.dialect
        self.unicode_statement = statement
        self._dbapi_connection = attached.held


class _Connection(Connection):
    """Knows by itself whether the driver commits each statement."""

    def __init__(self, attached: Attached, engine: Engine) -> None:
        self._attached = attached
        super().__init__(engine, attached.held)

    def get_execution_options(self) -> Any:
        """See `Connection`."""
        options = super().get_execution_options()
        attached = self._attached
        if attached.driver.autocommit and not attached.is_open():
            return {**options, "isolation_level": "AUTOCOMMIT"}
        return options


class _Held:
    """The driver's connection as a pool of SQLAlchemy would give it (`PoolProxiedConnection`); it stays with the application."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    @property
    def dbapi_connection(self) -> Any:
        """See `ManagesConnection`."""
        return self._raw

    @property
    def driver_connection(self) -> Any:
        """See `ManagesConnection`."""
        return getattr(self._raw, "driver_connection", self._raw)

    @property
    def is_valid(self) -> bool:
        """See `PoolProxiedConnection`."""
        return not self.driver_connection.closed

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        """See `ManagesConnection`: the application's next use of it is an error."""
        self._raw.close()
