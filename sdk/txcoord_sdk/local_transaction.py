"""Learning how a local transaction ends: committed, rolled back, or unknown.

SQLAlchemy's `commit` event fires before COMMIT and cannot say that it succeeded, so the engine's dialect is given a subclass of its
own class whose commit and rollback tell those who enlisted with the connection. It costs a dictionary look-up per local transaction
and nothing per statement. The same seam serves every driver, synchronous or not, and AT extends it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection

_KEY = "txcoord"


class Enlistment(Protocol):
    """Somebody who has to know how a local transaction ends. Exactly one of the last three is called, once."""

    def before_commit(self) -> None:
        """COMMIT is about to be sent; raising keeps it from being sent."""

    def committed(self) -> None:
        """COMMIT returned."""

    def rolled_back(self) -> None:
        """It is certain that nothing of it stays."""

    def unknown(self, error: BaseException) -> None:
        """The connection was lost while COMMIT was under way."""


class LocalState:
    """Of one connection with a local transaction open."""

    __slots__ = ("enlistments", "savepoints")

    def __init__(self) -> None:
        self.enlistments: list[Enlistment] = []
        self.savepoints: list[tuple[str, int]] = []

    def end(self, tell: Callable[[Enlistment], None], first: int = 0) -> None:
        """Tell the enlistments from `first` on, and forget them."""
        ended, self.enlistments = self.enlistments[first:], self.enlistments[:first]
        for enlistment in ended:
            tell(enlistment)


def watch(engine: Engine) -> None:
    """Have local transactions of `engine` tell their ends; does nothing the second time."""
    dialect = engine.dialect
    kind = type(dialect)
    if issubclass(kind, WatchedDialect):
        return
    caches = {"supports_statement_cache": kind.supports_statement_cache}
    dialect.__class__ = type(f"Watched{kind.__name__}", (WatchedDialect, kind), caches)
    event.listen(engine, "close", _closed)


def is_watched(connection: Connection) -> bool:
    """Whether the connection's engine tells the ends of local transactions."""
    return isinstance(connection.dialect, WatchedDialect)


def enlist(connection: Connection, enlistment: Enlistment) -> None:
    """Have `enlistment` hear how the connection's local transaction, or the savepoint that is open in it, ends."""
    info = connection.info
    state = info.get(_KEY)
    if state is None:
        state = info[_KEY] = LocalState()
    state.enlistments.append(enlistment)


class WatchedDialect(Dialect):
    """Mixed in before a dialect's own class by `watch`."""

    def do_commit(self, dbapi_connection: Any) -> None:
        """COMMIT, then tell."""
        state = _state(dbapi_connection)
        if state is None:
            super().do_commit(dbapi_connection)
            return
        sent = False
        try:
            for enlistment in state.enlistments:
                enlistment.before_commit()
            sent = True
            super().do_commit(dbapi_connection)
        except BaseException as error:
            if sent and not self._refused(error, dbapi_connection):
                dbapi_connection.info.pop(_KEY, None)
                lost = error
                state.end(lambda e: e.unknown(lost))
            else:
                # SQLAlchemy takes the transaction as ended and would hand the connection on with its work undecided.
                self.do_rollback(dbapi_connection)
            raise
        dbapi_connection.info.pop(_KEY, None)
        state.end(lambda e: e.committed())

    def _refused(self, error: BaseException, dbapi_connection: Any) -> bool:
        """Whether the database itself answered that it does not commit."""
        known = isinstance(error, self.loaded_dbapi.Error)
        return known and not self.is_disconnect(error, dbapi_connection, None)  # type: ignore[arg-type]

    def do_rollback(self, dbapi_connection: Any) -> None:
        """ROLLBACK, then tell; a lost connection is rolled back by the database."""
        state = _state(dbapi_connection)
        try:
            super().do_rollback(dbapi_connection)
        finally:
            if state is not None:
                dbapi_connection.info.pop(_KEY, None)
                state.end(lambda e: e.rolled_back())

    def do_savepoint(self, connection: Connection, name: str) -> None:
        """SAVEPOINT; what enlists after it ends with it where it is rolled back."""
        super().do_savepoint(connection, name)
        state = connection.info.setdefault(_KEY, LocalState())
        state.savepoints.append((name, len(state.enlistments)))

    def do_rollback_to_savepoint(self, connection: Connection, name: str) -> None:
        """ROLLBACK TO, then tell those who enlisted since."""
        super().do_rollback_to_savepoint(connection, name)
        state = connection.info.get(_KEY)
        if state is not None:
            place = next(i for i, (known, _) in enumerate(state.savepoints) if known == name)
            first = state.savepoints[place][1]
            del state.savepoints[place:]
            state.end(lambda e: e.rolled_back(), first)

    def do_release_savepoint(self, connection: Connection, name: str) -> None:
        """RELEASE: what enlisted since goes on with the savepoint around it."""
        super().do_release_savepoint(connection, name)
        state = connection.info.get(_KEY)
        if state is not None:
            place = next(i for i, (known, _) in enumerate(state.savepoints) if known == name)
            del state.savepoints[place:]


def _state(dbapi_connection: Any) -> LocalState | None:
    try:
        state = dbapi_connection.info.get(_KEY)
    except (AttributeError, NotImplementedError):
        return None  # the connection with which SQLAlchemy gets to know the database
    return state if isinstance(state, LocalState) else None


def _closed(raw: DBAPIConnection, record: Any) -> None:
    """A connection that is closed with a local transaction open: the database rolls it back."""
    state = record.info.pop(_KEY, None)
    if state is not None:
        state.end(lambda e: e.rolled_back())
