"""What differs between business databases: one small class each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Insert, Integer, Table, literal_column, select, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement
from txcoord_proto.errors import ConfigurationError


class Dialect(ABC):
    """SQL and error codes of one kind of database."""

    now: ColumnElement[int]
    """The database's clock, milliseconds since 1970."""
    commits_unseen: frozenset[str] = frozenset()
    """First words of statements that commit the transaction in which they run, besides COMMIT itself."""
    restore_limits = ""
    """Undoes `limit_transaction` where that outlives the transaction."""

    @abstractmethod
    def insert_if_absent(self, table: Table) -> Insert:
        """An INSERT that does nothing where the primary key exists, and waits where another transaction is inserting it."""

    def insert_within_limits(self, table: Table, values: Mapping[str, ColumnElement[Any]]) -> Insert | None:
        """An `insert_if_absent` that first does what `limit_transaction` does, in one statement; None: that takes two.

        Args:
            table: Where to.
            values: By column; it takes `milliseconds` as one more parameter.
        """
        return None

    @abstractmethod
    def transient(self, error: BaseException) -> bool:
        """Whether the same local transaction may succeed when it is run again: deadlock, serialisation failure, lock time-out.

        Args:
            error: As the driver raised it.
        """

    def has_ended(self, raw: Any) -> bool:
        """Whether the database has ended a transaction by itself that was open on the DB-API connection, as far as that tells."""
        return False

    @abstractmethod
    def refused(self, error: BaseException) -> bool:
        """Whether the driver's error at COMMIT says that the database has not committed, for certain."""

    @abstractmethod
    def limit_lock_wait(self, seconds: int) -> tuple[str, ...]:
        """Statements after which a connection waits no longer for a lock."""

    @abstractmethod
    def limit_transaction(self, milliseconds: int) -> str:
        """A statement after which the server ends the open transaction if it is idle, or waits, for longer.

        Lower limits that are set already stay. Empty: there is no server.
        """

    @abstractmethod
    def holds_together(self, raw: Any) -> bool:
        """Whether statements of the connection belong to one transaction; False: the driver commits each by itself.

        Args:
            raw: The DB-API connection; something was written on it just now.
        """

    @abstractmethod
    def commits_each(self, raw: Any) -> bool:
        """Whether the driver says of the DB-API connection that it commits each statement by itself."""

    @abstractmethod
    def is_open(self, raw: Any) -> bool:
        """Whether a transaction is open on the DB-API connection, as far as its driver knows."""


_BUSY = 5
_BEFORE_COMMIT = frozenset({1, 4, _BUSY, 6, 8, 9, 13, 19})
"""Of SQLite: error, abort, busy, locked, read-only, interrupt, full, constraint."""


class Sqlite(Dialect):
    """SQLite."""

    now = literal_column("CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)", BigInteger)

    def insert_if_absent(self, table: Table) -> Insert:
        """See `Dialect.insert_if_absent`."""
        return sqlite.insert(table).on_conflict_do_nothing()

    def transient(self, error: BaseException) -> bool:
        """See `Dialect.transient`."""
        return "database is locked" in str(error) or "database table is locked" in str(error)

    def refused(self, error: BaseException) -> bool:
        """See `Dialect.refused`: else the disk has failed, and what it has of the commit may be found when it is read anew.

        In WAL mode the commit is in the file before it is synchronised, and before the index of the file is enlarged.
        """
        return getattr(error, "sqlite_errorcode", _BUSY) & 0xFF in _BEFORE_COMMIT  # without a code SQLite was not asked

    def has_ended(self, raw: Any) -> bool:
        """See `Dialect.has_ended`: it rolls back at an interrupt, and where the disk fails."""
        return not self.is_open(raw)

    def limit_lock_wait(self, seconds: int) -> tuple[str, ...]:
        """See `Dialect.limit_lock_wait`."""
        return (f"PRAGMA busy_timeout = {seconds * 1000}",)

    def limit_transaction(self, milliseconds: int) -> str:
        """See `Dialect.limit_transaction`."""
        return ""

    def holds_together(self, raw: Any) -> bool:
        """See `Dialect.holds_together`."""
        return self.is_open(raw)

    def commits_each(self, raw: Any) -> bool:
        """See `Dialect.commits_each`: in this mode, from Python 3.12 on, its `commit` does nothing."""
        return getattr(sqlite_connection(raw), "autocommit", None) is True

    def is_open(self, raw: Any) -> bool:
        """See `Dialect.is_open`."""
        return bool(sqlite_connection(raw).in_transaction)


class Postgresql(Dialect):
    """PostgreSQL and what is compatible with it."""

    now = literal_column("CAST(extract(epoch FROM statement_timestamp()) * 1000 AS bigint)", BigInteger)
    _LIMIT = (  # current_setting of what does not exist is NULL; pg_settings would cost half a millisecond
        "SELECT count(set_config(name, CAST({0} AS text), true)) AS changed "
        "FROM (VALUES ('idle_in_transaction_session_timeout'), ('statement_timeout'), ('transaction_timeout'), ('lock_timeout')) "
        "AS names (name) WHERE current_setting(name, true) = '0' "
        "OR CAST(current_setting(name, true) AS interval) > {0} * interval '1 millisecond'"
    )

    def insert_if_absent(self, table: Table) -> Insert:
        """See `Dialect.insert_if_absent`."""
        return postgresql.insert(table).on_conflict_do_nothing()

    def insert_within_limits(self, table: Table, values: Mapping[str, ColumnElement[Any]]) -> Insert:
        """See `Dialect.insert_within_limits`.

        The limit of statements does not hold for the one that sets it; that of locks does, and the INSERT waits for nothing else.
        """
        limits = text(self._LIMIT.format("CAST(:milliseconds AS integer)")).columns(changed=Integer).subquery()
        row = select(*values.values()).where(limits.c.changed.is_not(None))  # used, or the database might leave it out
        return self.insert_if_absent(table).from_select(list(values), row)

    def transient(self, error: BaseException) -> bool:
        """See `Dialect.transient`."""
        return _sqlstate(error) in ("40001", "40P01", "55P03")

    def refused(self, error: BaseException) -> bool:
        """See `Dialect.refused`: constraints and serialisation are checked at COMMIT; other errors may come after it."""
        return _sqlstate(error)[:2] in ("23", "25", "40", "44")

    def limit_lock_wait(self, seconds: int) -> tuple[str, ...]:
        """See `Dialect.limit_lock_wait`."""
        return (f"SET lock_timeout = '{seconds}s'",)

    def limit_transaction(self, milliseconds: int) -> str:
        """See `Dialect.limit_transaction`: until the transaction's end; `transaction_timeout`, from 17 on, is exact."""
        return self._LIMIT.format(milliseconds)

    def holds_together(self, raw: Any) -> bool:
        """See `Dialect.holds_together`."""
        return not self.commits_each(raw)

    def commits_each(self, raw: Any) -> bool:
        """See `Dialect.commits_each`."""
        return bool(getattr(raw, "autocommit", False))

    def is_open(self, raw: Any) -> bool:
        """See `Dialect.is_open`."""
        driver = getattr(raw, "driver_connection", raw)
        if (ask := getattr(driver, "is_in_transaction", None)) is not None:
            return bool(ask())
        return bool(driver.info.transaction_status)


class Mysql(Dialect):
    """MariaDB and MySQL."""

    # https://mariadb.com/kb/en/sql-statements-that-cause-an-implicit-commit/
    commits_unseen = frozenset(
        {"ALTER", "ANALYZE", "CREATE", "DROP", "FLUSH", "GRANT", "LOCK", "OPTIMIZE", "RENAME", "REPAIR", "REVOKE", "TRUNCATE"}
        | {"UNLOCK"}
    )
    restore_limits = (
        "SET SESSION wait_timeout = @txcoord_wait, SESSION innodb_lock_wait_timeout = @txcoord_lock_wait, "
        "@txcoord_wait = NULL, @txcoord_lock_wait = NULL"
    )
    now = literal_column("CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000 AS SIGNED)", BigInteger)

    def insert_if_absent(self, table: Table) -> Insert:
        """See `Dialect.insert_if_absent`."""
        return mysql.insert(table).prefix_with("IGNORE")

    def transient(self, error: BaseException) -> bool:
        """See `Dialect.transient`: lock time-out, deadlock, a row changed since the snapshot (MariaDB 11)."""
        return _errno(error) in (1205, 1213, 1020)

    def refused(self, error: BaseException) -> bool:
        """See `Dialect.refused`: certification of a cluster, before the commit."""
        return _errno(error) in (1205, 1213)

    def limit_lock_wait(self, seconds: int) -> tuple[str, ...]:
        """See `Dialect.limit_lock_wait`."""
        return (f"SET innodb_lock_wait_timeout = {seconds}",)

    def limit_transaction(self, milliseconds: int) -> str:
        """See `Dialect.limit_transaction`: of the session, in whole seconds, so they are restored at the transaction's end."""
        seconds = -(-milliseconds // 1000)
        wait, lock_wait = "@@SESSION.wait_timeout", "@@SESSION.innodb_lock_wait_timeout"
        return (
            f"SET @txcoord_wait = CAST(COALESCE(@txcoord_wait, {wait}) AS SIGNED), "
            f"@txcoord_lock_wait = CAST(COALESCE(@txcoord_lock_wait, {lock_wait}) AS SIGNED), "
            f"SESSION wait_timeout = LEAST({wait}, {seconds}), SESSION innodb_lock_wait_timeout = LEAST({lock_wait}, {seconds})"
        )

    def holds_together(self, raw: Any) -> bool:
        """See `Dialect.holds_together`."""
        return not self.commits_each(raw)

    def commits_each(self, raw: Any) -> bool:
        """See `Dialect.commits_each`."""
        ask = getattr(getattr(raw, "driver_connection", raw), "get_autocommit", None)
        return ask is not None and bool(ask())

    def is_open(self, raw: Any) -> bool:
        """See `Dialect.is_open`: the server tells with each answer."""
        return bool((getattr(getattr(raw, "driver_connection", raw), "server_status", 0) or 0) & _IN_TRANSACTION)


_IN_TRANSACTION = 1  # SERVER_STATUS_IN_TRANS


def sqlite_connection(raw: Any) -> Any:
    """The standard library's connection inside an adapted one."""
    driver = getattr(raw, "driver_connection", raw)
    return getattr(driver, "_conn", driver)


def _sqlstate(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def _errno(error: BaseException) -> object:
    return error.args[0] if error.args else None


_BY_NAME: dict[str, Dialect] = {"sqlite": Sqlite(), "postgresql": Postgresql(), "mysql": Mysql(), "mariadb": Mysql()}


def dialect_of(name: str) -> Dialect:
    """The dialect of an engine's `dialect.name`.

    Raises:
        ConfigurationError: It is of no supported kind.
    """
    dialect = _BY_NAME.get(name)
    if dialect is None:
        raise ConfigurationError(f"{name} is not supported: use PostgreSQL, MariaDB, MySQL or SQLite")
    return dialect
