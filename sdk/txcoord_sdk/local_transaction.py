"""Learning how a local transaction ends: committed, rolled back, or unknown.

SQLAlchemy's `commit` event fires before COMMIT and cannot say that it succeeded, so the engine's dialect is given a subclass of
its own class whose commit and rollback tell those who enlisted with the connection. Outside a global transaction that costs a
look at an empty dictionary per statement and per end. The same seam serves every driver, synchronous or not, and AT extends it.

Two databases end a transaction without saying so at COMMIT: PostgreSQL answers the COMMIT of a failed transaction with a silent
ROLLBACK, and MariaDB rolls back at a deadlock and begins anew. So once a statement has failed, enlistments are in doubt and have
to look whether their own row is still there before COMMIT is sent.

Nor does one outlive its deadline: the database is told how long it may be idle or wait, later statements are refused, and where
there is no database server a thread of this process rolls back.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import Dialect, TwoPhaseTransaction
from txcoord_proto.errors import ConfigurationError
from txcoord_proto.failpoints import Mode, durable, passes

from txcoord_sdk.dialects import dialect_of
from txcoord_sdk.local_state import Enlistment, LocalState, reaper

OWN = {"txcoord_own": True}
"""Execution options of statements of ours, which nobody captures."""


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
    if commits_by_itself(connection):
        raise ConfigurationError("a connection with isolation_level='AUTOCOMMIT' has no local transaction: use another level")


def commits_by_itself(connection: Connection) -> bool:
    """Whether each statement of the connection is committed by itself."""
    default = getattr(connection.dialect, "_on_connect_isolation_level", None)
    return bool(connection.get_execution_options().get("isolation_level", default) == "AUTOCOMMIT")


def enlist(connection: Connection, enlistment: Enlistment) -> None:
    """Have `enlistment` hear how the connection's local transaction, or the savepoint that is open in it, ends.

    Raises:
        ConfigurationError: See `check_can_enlist`.
    """
    check_can_enlist(connection)
    _state(connection).enlistments.append(enlistment)


def limit(connection: Connection, deadline: float) -> None:
    """See to it that the connection's local transaction does not go on after `deadline`, by `time.monotonic`.

    Statements that come later are refused, and so are those that would end it unseen. The database ends it where it stands still;
    before PostgreSQL 17 and on MariaDB it counts from the last statement, so that this may be after up to twice the time.
    """
    if milliseconds := start_limit(connection, deadline):
        connection.exec_driver_sql(_state(connection).dialect.limit_transaction(milliseconds), execution_options=OWN)


def start_limit(connection: Connection, deadline: float) -> int:
    """Do what `limit` does in this process; returns the milliseconds of which the database is still to be told, 0: of none."""
    state = _state(connection)
    if deadline >= state.limited:
        return 0
    state.limited = state.deadline = deadline
    milliseconds = max(1, math.ceil((deadline - time.monotonic()) * 1000))
    if state.dialect.limit_transaction(milliseconds):
        return milliseconds
    reaper.watch(state, deadline)
    return 0


def open_state(connection: Connection) -> LocalState | None:
    """What is known of the connection's local transaction; None: nobody has enlisted with it."""
    assert isinstance(connection.dialect, WatchedDialect)
    return connection.dialect._txcoord_open.get(id(connection.connection.dbapi_connection))


def limits_lost(connection: Connection) -> None:
    """What the database was told of the connection's local transaction is undone; it has to be told again."""
    _state(connection).limited = math.inf


def _state(connection: Connection) -> LocalState:
    assert isinstance(connection.dialect, WatchedDialect)
    return connection.dialect._txcoord_state(connection, make=True)


def check_holds_together(connection: Connection) -> None:
    """Refuse a connection, on which something was written just now, whose driver commits each statement by itself.

    Raises:
        ConfigurationError: It does.
    """
    if not dialect_of(connection.dialect.name).holds_together(connection.connection.dbapi_connection):
        raise _commits_each(connection)


def check_will_hold_together(connection: Connection) -> None:
    """Do what `check_holds_together` does before anything is written, where the driver can tell.

    Raises:
        ConfigurationError: It commits each statement by itself.
    """
    if dialect_of(connection.dialect.name).commits_each(connection.connection.dbapi_connection):
        raise _commits_each(connection)


def _commits_each(connection: Connection) -> ConfigurationError:
    return ConfigurationError(
        f"the driver of {connection.engine.url!r} commits each statement by itself (autocommit in connect_args or in an "
        "event?), so a fence or an undo record could not stand or fall with its effects: let SQLAlchemy begin its transactions, "
        "or tell it so with isolation_level='AUTOCOMMIT'"
    )


class WatchedDialect(Dialect):
    """Mixed in before a dialect's own class by `watch`."""

    _txcoord_open: dict[int, LocalState]

    def _txcoord_state(self, connection: Connection, make: bool = False) -> LocalState:
        raw = connection.connection.dbapi_connection
        state = self._txcoord_open.get(id(raw))
        if state is None:
            state = LocalState(raw, dialect_of(self.name))
            if make:
                self._txcoord_open[id(raw)] = state
        return state

    def _txcoord_pop(self, raw: object) -> LocalState | None:
        state = self._txcoord_open.pop(id(raw), None)
        if state is not None:
            state.closed()
        return state

    def _txcoord_restore(self, state: LocalState, raw: Any) -> None:
        """Take back what the database was told about the transaction that has ended."""
        if state.deadline < math.inf and (statement := state.dialect.restore_limits):
            with contextlib.suppress(Exception):  # the connection is lost: whoever uses it next will see
                cursor = raw.cursor()
                cursor.execute(statement)
                cursor.close()

    def _txcoord_execute(self, execute: Callable[..., None], cursor: Any, statement: str, *rest: Any) -> None:
        """Execute what may be executed now; the last of `rest` is SQLAlchemy's context, where it has one."""
        context = rest[-1]
        state = None
        if self._txcoord_open and context is not None:
            state = self._txcoord_open.get(id(context.root_connection.connection.dbapi_connection))
        if state is not None and state.deadline < math.inf:
            state.check(statement)
        try:
            execute(cursor, statement, *rest)
        finally:
            if self._txcoord_open and context is not None:  # it may have enlisted just now
                self._txcoord_idle(context.root_connection.connection.dbapi_connection)

    def _txcoord_idle(self, raw: object) -> None:
        if (state := self._txcoord_open.get(id(raw))) is not None:
            state.busy = False

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        """A statement with one row of parameters."""
        self._txcoord_execute(super().do_execute, cursor, statement, parameters, context)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        """A statement with several rows of parameters."""
        self._txcoord_execute(super().do_executemany, cursor, statement, parameters, context)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        """A statement as it is written."""
        self._txcoord_execute(super().do_execute_no_params, cursor, statement, context)

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
            with state.lock:
                state.check_alive()
                sent = True
                self._txcoord_send_commit(dbapi_connection)
        except BaseException as error:
            if sent and not self._txcoord_refused(error, dbapi_connection):
                self._txcoord_pop(state.dbapi_connection)
                if self._txcoord_answered(error, dbapi_connection):
                    with contextlib.suppress(Exception):  # somebody may use it again, and nothing of this may be in it
                        super().do_rollback(dbapi_connection)
                lost = error
                state.end(lambda e: e.unknown(lost))
            else:
                # SQLAlchemy takes the transaction as ended and would hand the connection on with its work undecided.
                self.do_rollback(dbapi_connection)
            raise
        self._txcoord_pop(state.dbapi_connection)
        state.end(lambda e: e.committed())
        self._txcoord_restore(state, dbapi_connection)

    @passes(Mode.UNKNOWN)
    def _txcoord_send_commit(self, dbapi_connection: Any) -> None:
        super().do_commit(dbapi_connection)

    def _txcoord_refused(self, error: BaseException, dbapi_connection: Any) -> bool:
        """Whether the database itself answered that it does not commit."""
        return self._txcoord_answered(error, dbapi_connection) and dialect_of(self.name).refused(error)

    def _txcoord_answered(self, error: BaseException, dbapi_connection: Any) -> bool:
        """Whether an error is the database's answer, and no lost connection."""
        return isinstance(error, self.loaded_dbapi.Error) and not self.is_disconnect(error, dbapi_connection, None)

    def do_rollback(self, dbapi_connection: Any) -> None:
        """ROLLBACK, then tell; a lost connection is rolled back by the database."""
        state = self._txcoord_pop(dbapi_connection.dbapi_connection) if self._txcoord_open else None
        try:
            super().do_rollback(dbapi_connection)
        except Exception as error:
            if state is None or not self._txcoord_ended_by_server(state, error, dbapi_connection):
                raise
            dbapi_connection.invalidate(error)
        finally:
            if state is not None:
                state.end(lambda e: e.rolled_back())
        if state is not None and dbapi_connection.is_valid:
            if state.contended:
                dbapi_connection.invalidate()
            else:
                self._txcoord_restore(state, dbapi_connection)

    def _txcoord_ended_by_server(self, state: LocalState, error: Exception, dbapi_connection: Any) -> bool:
        """Whether the connection is lost because the database did at the deadline as it was told."""
        if time.monotonic() < state.deadline or not isinstance(error, self.loaded_dbapi.Error):
            return False
        return self.is_disconnect(error, dbapi_connection, None)

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
            state.in_doubt, state.busy = True, False
        return bool(super().is_disconnect(e, connection, cursor))

    def do_savepoint(self, connection: Connection, name: str) -> None:
        """SAVEPOINT; what enlists after it ends with it where it is rolled back."""
        super().do_savepoint(connection, name)
        state = self._txcoord_state(connection, make=True)
        state.savepoints.append((name, len(state.enlistments)))

    def do_rollback_to_savepoint(self, connection: Connection, name: str) -> None:
        """ROLLBACK TO, then tell those who enlisted since."""
        state = self._txcoord_state(connection)
        in_doubt = state.in_doubt
        super().do_rollback_to_savepoint(connection, name)
        state.in_doubt = in_doubt  # this one is told
        state.limited = math.inf  # PostgreSQL has taken its limits back
        before = state.leave_savepoint(name)
        if before is not None:
            state.end(lambda e: e.rolled_back(), before)

    def do_release_savepoint(self, connection: Connection, name: str) -> None:
        """RELEASE: what enlisted since goes on with the savepoint around it."""
        super().do_release_savepoint(connection, name)
        self._txcoord_state(connection).leave_savepoint(name)
