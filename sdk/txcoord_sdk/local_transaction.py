"""Learning how a local transaction ends: committed, rolled back, or unknown.

SQLAlchemy's `commit` event fires before COMMIT and cannot say that it succeeded, so the engine's dialect is given a subclass of
its own class whose commit and rollback tell those who enlisted with the connection. Outside a global transaction that costs a
look at an empty dictionary per local transaction and nothing per statement. The same seam serves every driver, synchronous or
not, and AT extends it.

Two databases end a transaction without saying so at COMMIT: PostgreSQL answers the COMMIT of a failed transaction with a silent
ROLLBACK, and MariaDB rolls back at a deadlock and begins anew. So once a statement has failed, enlistments are in doubt and have
to look whether their own row is still there before COMMIT is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import Dialect, TwoPhaseTransaction
from txcoord_proto.errors import ConfigurationError
from txcoord_proto.failpoints import Mode, durable, passes

from txcoord_sdk.dialects import dialect_of


class Enlistment(Protocol):
    """Somebody who has to know how a local transaction ends. Exactly one of the last three is called, once."""

    def before_commit(self, in_doubt: bool) -> None:
        """COMMIT is about to be sent; raising rolls back instead.

        Args:
            in_doubt: A statement has failed since: what was done before it may be gone although the connection is open.
        """

    def committed(self) -> None:
        """COMMIT returned."""

    def rolled_back(self) -> None:
        """It is certain that nothing of it stays."""

    def unknown(self, error: BaseException) -> None:
        """COMMIT was sent and not answered."""


class LocalState:
    """Of one connection with a local transaction open.

    Args:
        dbapi_connection: Kept, so that no other connection gets its identity meanwhile.
    """

    __slots__ = ("dbapi_connection", "enlistments", "in_doubt", "savepoints")

    def __init__(self, dbapi_connection: object) -> None:
        self.dbapi_connection = dbapi_connection
        self.enlistments: list[Enlistment] = []
        self.savepoints: list[tuple[str, int]] = []
        self.in_doubt = False

    @passes(Mode.IN)
    def before_commit(self) -> None:
        """Ask the enlistments."""
        for enlistment in self.enlistments:
            enlistment.before_commit(self.in_doubt)

    def end(self, tell: Callable[[Enlistment], None], first: int = 0) -> None:
        """Tell the enlistments from `first` on, and forget them."""
        ended, self.enlistments = self.enlistments[first:], self.enlistments[:first]
        for enlistment in ended:
            tell(enlistment)

    def leave_savepoint(self, name: str) -> int | None:
        """Forget a savepoint and those inside it; returns how many had enlisted before it."""
        for place, (known, before) in enumerate(self.savepoints):
            if known == name:
                del self.savepoints[place:]
                return before
        return None


def watch(engine: Engine) -> None:
    """Have local transactions of `engine` tell their ends; does nothing the second time."""
    dialect = engine.dialect
    kind = type(dialect)
    if not issubclass(kind, WatchedDialect):
        # Before the class is swapped, since the next commit of another thread uses it.
        dialect._txcoord_open = {}  # type: ignore[attr-defined]
        # SQLAlchemy asks each class for itself whether its statements may be cached.
        own = {name: vars(kind)[name] for name in ("supports_statement_cache",) if name in vars(kind)}
        dialect.__class__ = type(f"Watched{kind.__name__}", (WatchedDialect, kind), own)


def check_can_enlist(connection: Connection) -> None:
    """Refuse a connection that cannot tell how its local transaction ends.

    Raises:
        ConfigurationError: Its engine is not watched, or commits by itself, or in two phases.
    """
    dialect = connection.dialect
    if not isinstance(dialect, WatchedDialect):
        raise ConfigurationError(f"the engine of {connection.engine.url!r} is not known here: call client.bind(engine) first")
    if isinstance(connection.get_transaction(), TwoPhaseTransaction):
        raise ConfigurationError("a two-phase transaction of the session (twophase=True) cannot take part: use a plain one")
    level = connection.get_execution_options().get("isolation_level", getattr(dialect, "_on_connect_isolation_level", None))
    if level == "AUTOCOMMIT":
        raise ConfigurationError("a connection with isolation_level='AUTOCOMMIT' has no local transaction: use another level")


def enlist(connection: Connection, enlistment: Enlistment) -> None:
    """Have `enlistment` hear how the connection's local transaction, or the savepoint that is open in it, ends.

    Raises:
        ConfigurationError: See `check_can_enlist`.
    """
    check_can_enlist(connection)
    dialect = connection.dialect
    assert isinstance(dialect, WatchedDialect)
    dialect._txcoord_state(connection, make=True).enlistments.append(enlistment)


class WatchedDialect(Dialect):
    """Mixed in before a dialect's own class by `watch`."""

    _txcoord_open: dict[int, LocalState]

    def _txcoord_state(self, connection: Connection, make: bool = False) -> LocalState:
        raw = connection.connection.dbapi_connection
        state = self._txcoord_open.get(id(raw))
        if state is None:
            state = LocalState(raw)
            if make:
                self._txcoord_open[id(raw)] = state
        return state

    def _txcoord_pop(self, raw: object) -> LocalState | None:
        return self._txcoord_open.pop(id(raw), None)

    def do_commit(self, dbapi_connection: Any) -> None:
        """COMMIT, then tell; what may not or cannot be committed is rolled back."""
        state = self._txcoord_open.get(id(dbapi_connection.dbapi_connection)) if self._txcoord_open else None
        if state is None:
            super().do_commit(dbapi_connection)
        else:
            self._txcoord_commit(dbapi_connection, state)

    @durable("local.commit")
    def _txcoord_commit(self, dbapi_connection: Any, state: LocalState) -> None:
        sent = False
        try:
            state.before_commit()
            sent = True
            self._txcoord_send_commit(dbapi_connection)
        except BaseException as error:
            if sent and not self._txcoord_refused(error, dbapi_connection):
                self._txcoord_pop(state.dbapi_connection)
                lost = error
                state.end(lambda e: e.unknown(lost))
            else:
                # SQLAlchemy takes the transaction as ended and would hand the connection on with its work undecided.
                self.do_rollback(dbapi_connection)
            raise
        self._txcoord_pop(state.dbapi_connection)
        state.end(lambda e: e.committed())

    @passes(Mode.UNKNOWN)
    def _txcoord_send_commit(self, dbapi_connection: Any) -> None:
        super().do_commit(dbapi_connection)

    def _txcoord_refused(self, error: BaseException, dbapi_connection: Any) -> bool:
        """Whether the database itself answered that it does not commit."""
        if not isinstance(error, self.loaded_dbapi.Error):
            return False
        lost = self.is_disconnect(error, dbapi_connection, None)
        return not lost and dialect_of(self.name).refused(error)

    def do_rollback(self, dbapi_connection: Any) -> None:
        """ROLLBACK, then tell; a lost connection is rolled back by the database."""
        state = self._txcoord_pop(dbapi_connection.dbapi_connection) if self._txcoord_open else None
        try:
            super().do_rollback(dbapi_connection)
        finally:
            if state is not None:
                state.end(lambda e: e.rolled_back())

    def do_close(self, dbapi_connection: Any) -> None:
        """Close; the database rolls back what was open."""
        try:
            super().do_close(dbapi_connection)
        finally:
            self._txcoord_closed(dbapi_connection)

    def do_terminate(self, dbapi_connection: Any) -> None:
        """Close at once; the database rolls back what was open."""
        try:
            super().do_terminate(dbapi_connection)
        finally:
            self._txcoord_closed(dbapi_connection)

    def _txcoord_closed(self, raw: object) -> None:
        state = self._txcoord_pop(raw)
        if state is not None:
            state.end(lambda e: e.rolled_back())

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        """SQLAlchemy asks this of every error of the driver: from now on the open transaction is in doubt."""
        state = self._txcoord_open.get(id(getattr(connection, "dbapi_connection", None))) if self._txcoord_open else None
        if state is not None:
            state.in_doubt = True
        return bool(super().is_disconnect(e, connection, cursor))

    def do_savepoint(self, connection: Connection, name: str) -> None:
        """SAVEPOINT; what enlists after it ends with it where it is rolled back."""
        super().do_savepoint(connection, name)
        state = self._txcoord_state(connection, make=True)
        state.savepoints.append((name, len(state.enlistments)))

    def do_rollback_to_savepoint(self, connection: Connection, name: str) -> None:
        """ROLLBACK TO, then tell those who enlisted since."""
        super().do_rollback_to_savepoint(connection, name)
        state = self._txcoord_state(connection)
        before = state.leave_savepoint(name)
        if before is not None:
            state.end(lambda e: e.rolled_back(), before)

    def do_release_savepoint(self, connection: Connection, name: str) -> None:
        """RELEASE: what enlisted since goes on with the savepoint around it."""
        super().do_release_savepoint(connection, name)
        self._txcoord_state(connection).leave_savepoint(name)
