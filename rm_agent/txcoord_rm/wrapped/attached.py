"""A driver's connection beside an enrolled engine: its statements meet the same hook as the engine's own.

The hook knows connections of SQLAlchemy, so there is one here, around the driver's. It runs none of the application's
statements; with it the engine's dialect finds the local transaction, and tells branches how that ends.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
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
from txcoord_rm.at.cursor import Cursor, Local
from txcoord_rm.at.hook import capturing, resource_of_engine
from txcoord_rm.sql.unsupported import refuse

_IDENTITY = str(select(schema.database.c.id))


class Attached(ABC):
    """See the module. Everything here looks synchronous; asynchronous drivers are awaited within SQLAlchemy's greenlet.

    Args:
        raw: The connection as the engine's dialect has it.
        engine: Enrolled.
    """

    _identity = _IDENTITY
    """Asks for the identity of the database, in the first column."""
    _identity_parameters: tuple[Any, ...] | None = None

    def __init__(self, raw: Any, engine: Engine) -> None:
        self.raw = raw
        self.dialect: Any = engine.dialect
        self.resource = resource_of_engine(engine)
        self.held: Any = _Held(self)
        self.connection = _Connection(self, engine)
        self._blocks: list[str] = []
        """Blocks that are open: names of savepoints; empty: the local transaction."""
        self._is_checked = False
        """Whether it is known to be connected to the engine's database."""
        if (left := open_state(self.connection)) is not None:  # wrapped before
            self._give_up(left)

    @property
    def driver(self) -> Any:
        """The driver's own connection."""
        return getattr(self.raw, "driver_connection", self.raw)

    @abstractmethod
    def commits_each(self) -> bool:
        """Whether the driver would commit the next statement by itself."""

    @abstractmethod
    def is_closed(self) -> bool:
        """Whether the driver's connection is closed."""

    @abstractmethod
    def drop(self) -> None:
        """Close the driver's connection, on which something has gone wrong."""

    @abstractmethod
    def _end(self, keeps: bool) -> None:
        """End the outermost block, and with it the local transaction."""

    def own_error(self, error: BaseException) -> BaseException:
        """The driver's, where SQLAlchemy has raised another one in its place."""
        return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error

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

    def run(
        self,
        driver: Any,
        plain: Callable[[], Any],
        method: str,
        query: Any,
        parameters: Any,
        not_captured: tuple[str, str] | None = None,
    ) -> Cursor | None:
        """Run a statement; returns the cursor that has its results if it is captured.

        Args:
            driver: Cursor of the driver with `execute` and `executemany`.
            plain: Makes another one, whose rows are tuples.
            method: One of these two.
            query: As the application wrote it.
            parameters: Of it.
            not_captured: Why it must not be captured, and what to do instead; None: it may be.

        Raises:
            UnsupportedSqlError: It would be captured and must not be, or could not be undone for certain; it has not run.
            ConfigurationError: The local transaction is one of mode XA, or was ended otherwise.
        """
        context, local = self._met(query)
        text = context.unicode_statement
        if local is not None and not self._is_checked:
            with self.told():
                self._check_database(plain)
        used = driver if local is None else Cursor(driver, self.resource, local, plain)  # type: ignore[arg-type]
        if local is not None and not_captured is not None:
            used.refuse_captured(text, parameters, *not_captured)

        def execute(cursor: Any, statement: str, given: Any, context: Any) -> None:
            getattr(cursor, method)(query if local is None else statement, given)

        with self.told():
            self.dialect._txcoord_execute(execute, used, text, parameters, context)
        return used if local is not None and used.captured else None

    def passes(self, query: Any) -> bool:
        """Whether a statement concerns nobody but the driver, which may run it without `run`; it is remembered that it did."""
        _, local = self._met(query)
        return local is None and open_state(self.connection) is None

    def hand_over(self, query: Any, reason: str, remedy: str) -> None:
        """Remember a statement that the driver is about to run by itself.

        Raises:
            UnsupportedSqlError: It would have to be captured.
        """
        context, local = self._met(query)
        if local is not None:
            raise refuse(context.unicode_statement, reason, remedy)

    def _met(self, query: Any) -> tuple[_Context, Local | None]:
        """The statement as the hook sees it, and the local transaction in which it is to be captured; None: it is not."""
        self._check()
        if not self.is_open():  # who has the driver's connection may have ended what was seen
            self.dialect._txcoord_seen.pop(id(self.raw), None)
        transaction = current()
        if transaction is not None and self.dialect._txcoord_takes_xa(self.connection, transaction):
            raise ConfigurationError(
                "a wrapped connection takes part in mode 'at' only: run statements of mode 'xa' through the engine"
            )
        context = _Context(self, self._text(query))
        return context, capturing(context)

    def _check_database(self, plain: Callable[[], Any]) -> None:
        """Refuse another database than the engine's, where undo records would be looked for in vain.

        Raises:
            ConfigurationError: It is connected to one.
        """
        assert self.resource is not None
        expected, was_open, cursor = self.resource.ready().database.id, self.is_open(), plain()
        try:
            cursor.execute(self._identity, self._identity_parameters)
            found = cursor.fetchone()
        except self.dialect.loaded_dbapi.ProgrammingError:  # there is no such table
            found = None
        finally:
            cursor.close()
            if not was_open:
                self.raw.rollback()  # the statement shall be the first of its local transaction
        if found is None or self._identity_in(found) != expected:
            raise ConfigurationError(
                f"the wrapped connection is not connected to the database of {self.connection.engine.url!r}, or does not find "
                "its tables: connect both alike, with the same search path"
            )
        self._is_checked = True

    def _identity_in(self, found: Any) -> Any:
        """The identity in a row of `_identity`.

        Raises:
            ConfigurationError: The connection does not hand over values as they are.
        """
        return found[0]

    def _text(self, query: Any) -> str:
        if isinstance(query, bytes):
            return query.decode()
        if (compose := getattr(query, "as_string", None)) is not None:
            return str(compose(self.driver))
        if not isinstance(query, str):
            self.refuse_inside(repr(query), "it is no text that can be read", "write it as text with parameters")
        return str(query)

    # ------------------------------------------------------------ the local transaction

    def _check(self) -> None:
        """Refuse a statement in a local transaction that was begun or ended otherwise.

        Raises:
            ConfigurationError: It was.
        """
        self._check_not_ended()

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
        with self.told():
            self.dialect.do_commit(self.held)

    def rollback(self) -> None:
        """Roll it back, and tell."""
        self._check_no_block("rollback")
        self._check_not_ended()
        with self.told():
            self.dialect.do_rollback(self.held)

    def close(self) -> None:
        """Close the connection; the database rolls back what was open."""
        with self.told():
            self.dialect.do_close(self.raw)

    def leave(self, keeps: bool, block: int = -1) -> None:
        """End a block, and those inside it.

        Args:
            keeps: Whether what it did stays.
            block: Which of those that are open; the innermost.
        """
        name = self._blocks[block]
        del self._blocks[block:]
        if not name:
            self._end(keeps)
            return
        if not keeps:
            self._execute(self.dialect.do_rollback_to_savepoint, name)
        self._execute(self.dialect.do_release_savepoint, name)

    def _save(self, name: str | None) -> None:
        """Begin a block inside what is open."""
        name = name or f"_txc_{len(self._blocks) + 1}"
        self._execute(self.dialect.do_savepoint, name)
        self._blocks.append(name)

    def _check_no_block(self, what: str) -> None:
        if self._blocks:
            raise self.dialect.loaded_dbapi.ProgrammingError(f"{what} within a block of transaction(): leave the block first")

    def _execute(self, work: Callable[[Connection, str], None], name: str) -> None:
        with self.told():
            work(self.connection, name)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """The dialect is told of what was cut short, as SQLAlchemy tells it; errors are the driver's."""
        try:
            yield
        except BaseException as error:  # a cancelled statement, too, has failed its transaction
            found = self.own_error(error)
            self.dialect.is_disconnect(found, self.held, None)
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
        return {**options, "isolation_level": "AUTOCOMMIT"} if self._attached.commits_each() else options


class _Held:
    """The driver's connection as a pool of SQLAlchemy would give it (`PoolProxiedConnection`); it stays with the application."""

    def __init__(self, attached: Attached) -> None:
        self._attached = attached

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attached.raw, name)

    @property
    def dbapi_connection(self) -> Any:
        """See `ManagesConnection`."""
        return self._attached.raw

    @property
    def driver_connection(self) -> Any:
        """See `ManagesConnection`."""
        return self._attached.driver

    @property
    def is_valid(self) -> bool:
        """See `PoolProxiedConnection`."""
        return not self._attached.is_closed()

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        """See `ManagesConnection`: the application's next use of it is an error."""
        self._attached.drop()
