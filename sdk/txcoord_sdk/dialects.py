"""What differs between business databases: one small class each."""

from __future__ import annotations

from abc import ABC, abstractmethod

from sqlalchemy import BigInteger, Insert, Table, literal_column
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement
from txcoord_proto.errors import ConfigurationError


class Dialect(ABC):
    """SQL and error codes of one kind of database."""

    now: ColumnElement[int]
    """The database's clock, milliseconds since 1970."""

    @abstractmethod
    def insert_if_absent(self, table: Table) -> Insert:
        """An INSERT that does nothing where the primary key exists, and waits where another transaction is inserting it."""

    @abstractmethod
    def transient(self, error: BaseException) -> bool:
        """Whether the same local transaction may succeed when it is run again: deadlock, serialisation failure, lock time-out.

        Args:
            error: As the driver raised it.
        """

    @abstractmethod
    def refused(self, error: BaseException) -> bool:
        """Whether the driver's error at COMMIT says that the database has not committed, for certain."""

    @abstractmethod
    def limit_lock_wait(self, seconds: int) -> tuple[str, ...]:
        """Statements after which a connection waits no longer for a lock."""


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
        """See `Dialect.refused`: a failed COMMIT leaves the transaction open."""
        return True

    def limit_lock_wait(self, seconds: int) -> tuple[str, ...]:
        """See `Dialect.limit_lock_wait`."""
        return (f"PRAGMA busy_timeout = {seconds * 1000}",)


class Postgresql(Dialect):
    """PostgreSQL and what is compatible with it."""

    now = literal_column("CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)", BigInteger)

    def insert_if_absent(self, table: Table) -> Insert:
        """See `Dialect.insert_if_absent`."""
        return postgresql.insert(table).on_conflict_do_nothing()

    def transient(self, error: BaseException) -> bool:
        """See `Dialect.transient`."""
        return _sqlstate(error) in ("40001", "40P01", "55P03")

    def refused(self, error: BaseException) -> bool:
        """See `Dialect.refused`: constraints and serialisation are checked at COMMIT; other errors may come after it."""
        return _sqlstate(error)[:2] in ("23", "25", "40", "44")

    def limit_lock_wait(self, seconds: int) -> tuple[str, ...]:
        """See `Dialect.limit_lock_wait`."""
        return (f"SET lock_timeout = '{seconds}s'",)


class Mysql(Dialect):
    """MariaDB and MySQL."""

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
