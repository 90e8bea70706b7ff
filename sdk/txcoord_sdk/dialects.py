"""What differs between business databases: one small class each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from sqlalchemy import BigInteger, Insert, Table, literal_column
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError
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
    def transient(self, error: DBAPIError) -> bool:
        """Whether the same local transaction may succeed when it is run again: deadlock, serialisation failure, lock time-out."""


class Sqlite(Dialect):
    """SQLite."""

    now = literal_column("CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)", BigInteger)

    def insert_if_absent(self, table: Table) -> Insert:
        """See `Dialect.insert_if_absent`."""
        return sqlite.insert(table).on_conflict_do_nothing()

    def transient(self, error: DBAPIError) -> bool:
        """See `Dialect.transient`."""
        return "database is locked" in str(error.orig) or "database table is locked" in str(error.orig)


class Postgresql(Dialect):
    """PostgreSQL and what is compatible with it."""

    now = literal_column("CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)", BigInteger)

    def insert_if_absent(self, table: Table) -> Insert:
        """See `Dialect.insert_if_absent`."""
        return postgresql.insert(table).on_conflict_do_nothing()

    def transient(self, error: DBAPIError) -> bool:
        """See `Dialect.transient`."""
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
        return state in ("40001", "40P01", "55P03")


class Mysql(Dialect):
    """MariaDB and MySQL."""

    now = literal_column("CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000 AS SIGNED)", BigInteger)

    def insert_if_absent(self, table: Table) -> Insert:
        """See `Dialect.insert_if_absent`."""
        return mysql.insert(table).prefix_with("IGNORE")

    def transient(self, error: DBAPIError) -> bool:
        """See `Dialect.transient`."""
        code: Any = error.orig.args[0] if error.orig is not None and error.orig.args else None
        return code in (1205, 1213)


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
