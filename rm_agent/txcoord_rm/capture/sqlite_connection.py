"""A connection of sqlite3, or of aiosqlite as SQLAlchemy adapts it, below what the application makes of rows and texts on it."""

from __future__ import annotations

import marshal
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy.util import await_only
from txcoord_proto.errors import LockConflictError
from txcoord_sdk.dialects import sqlite_connection

T = TypeVar("T")

SEEN, TAKE = "txcoord_seen", "txcoord_take"
"""Functions of SQL: the first remembers its arguments, the second gives them away, all in one list."""
_PROBE = "txcoord_probe"
_HOLD_LOCK = "DELETE FROM main.txcoord_undo_log WHERE 0"


def _nothing() -> None:
    pass


def below(cursor: Any, work: Callable[[Any], T]) -> T:
    """Do something with a cursor of the standard library: the application's, or one of the connection that is adapted to it.

    All of it is done in one visit to the thread that has the connection.
    """
    if hasattr(cursor, "connection"):
        return work(cursor)
    driver = cursor._adapt_connection.driver_connection
    done: T = await_only(driver._execute(lambda: work(sqlite_connection(driver).cursor())))
    return done


class Below:
    """The connection of a cursor of the standard library, in its thread.

    Args:
        cursor: The application's, which is left as it is.
    """

    def __init__(self, cursor: Any) -> None:
        self._connection = cursor.connection
        self._cursor = self._connection.cursor()
        self._cursor.row_factory = None

    @property
    def in_transaction(self) -> bool:
        """Whether a local transaction is open, be it that it has neither read nor written."""
        return bool(self._connection.in_transaction)

    @property
    def is_idle(self) -> bool:
        """Whether no transaction is open, and no query is under way.

        Nothing tells of such a query; but a function cannot be made another one as long as there is one.
        """
        if self.in_transaction:
            return False
        try:
            self._connection.create_function(_PROBE, 0, _nothing)  # it may be the first time
            self._connection.create_function(_PROBE, 0, _nothing)
        except sqlite3.OperationalError:
            return False
        return True

    def open(self) -> None:
        """See to it that a local transaction is open."""
        if not self.in_transaction:
            self.execute("BEGIN")

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """Run what gives no rows."""
        self._cursor.execute(sql, parameters)

    def rows(self, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """Run a query."""
        factory = self._connection.text_factory
        self._connection.text_factory = str
        try:
            self._cursor.execute(sql, parameters)
            return list(self._cursor.fetchall())
        finally:
            self._connection.text_factory = factory

    def has_own(self, functions: Iterable[str]) -> bool:
        """Whether one of these functions may be made by the application: it might do something, and would do it twice."""
        names = sorted(set(functions) - {"in", "values"})  # which stand before brackets most often
        asked = f"SELECT 1 FROM pragma_function_list WHERE NOT builtin AND lower(name) IN ({', '.join('?' * len(names))}) LIMIT 1"
        return bool(names and self.rows(asked, names))

    def begin(self) -> bool:
        """Hold the lock of the one who writes; whether the local transaction begins with this.

        In one that is open, a statement that finds nothing to write takes the lock, and waits for it if nothing was read before;
        if we read first, the lock of one who reads might not become that of one who writes.

        Raises:
            LockConflictError: It has read, and another connection has written since, or is about to.
        """
        if not self.in_transaction:
            self.execute("BEGIN IMMEDIATE")
            return True
        try:
            self.execute(_HOLD_LOCK)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            raise LockConflictError(
                "this local transaction has read from the file, and another connection writes to it or has written since: roll "
                "the transaction back and run it again; it can wait for the others if it begins with BEGIN IMMEDIATE"
            ) from error
        return False

    def take(self) -> tuple[int, list[Any]]:
        """How many rows the connection has changed so far, and the arguments of all calls of `SEEN` since the last time."""
        try:
            ((changes, taken),) = self.rows(f"SELECT total_changes(), {TAKE}()")
        except Exception as error:
            if f"no such function: {TAKE}" not in str(error):
                raise
            seen = _Seen()
            self._connection.create_function(SEEN, -1, seen.remember)
            self._connection.create_function(TAKE, 0, seen.take)
            return self.take()
        return int(changes), marshal.loads(taken)  # noqa: S302 - made by `_Seen` in this process just now


class _Seen:
    """What is remembered for one connection. It is called in the thread in which that runs."""

    def __init__(self) -> None:
        self._values: list[Any] = []

    def remember(self, *values: Any) -> None:
        self._values.extend(values)

    def take(self) -> bytes:
        values, self._values = self._values, []
        return marshal.dumps(values)
