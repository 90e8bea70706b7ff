"""What the catalogue of the database behind a connection says, whatever its family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from sqlalchemy import Connection, inspect, text
from txcoord_proto.errors import ConfigurationError

from txcoord_rm.catalogue import postgresql, sqlite
from txcoord_rm.catalogue.mysql import MysqlCatalogue
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.quoting import quoted

Facts: TypeAlias = Callable[[tuple[str, str]], Table | None]
"""What the catalogue says of a table, by schema and name; None: there is no such table."""


OURS = "txcoord_"
"""With this begin the names of our own tables."""


def check_known(dialect: str) -> None:
    """Refuse a kind of database, by SQLAlchemy's name, in which AT cannot work.

    Raises:
        ConfigurationError: It is one.
    """
    if dialect not in _READERS:
        raise ConfigurationError(f"AT mode does not work on {dialect}: use {', '.join(sorted(_READERS))}")


def facts_on(connection: Connection) -> Facts:
    """Facts of tables as they are now; each is asked for once.

    Raises:
        ConfigurationError: The database is of a kind whose catalogue is not read.
    """
    check_known(connection.dialect.name)
    read = _READERS[connection.dialect.name]
    known: dict[tuple[str, str], Table | None] = {}

    def facts(name: tuple[str, str]) -> Table | None:
        if name not in known:
            known[name] = read(connection, name)
        return known[name]

    return facts


def log_on(connection: Connection) -> str:
    """The undo log's name, as it is written in SQL; on PostgreSQL only.

    Raises:
        ConfigurationError: There is none on the search path, or the database is of another kind.
    """
    if connection.dialect.name != "postgresql":
        raise ConfigurationError(f"triggers capture changes on PostgreSQL only, not on {connection.dialect.name}")
    schema = connection.execute(text(postgresql.SERVER)).one()[1]
    if schema is None:
        raise ConfigurationError("there is no table txcoord_undo_log on the search path: run `txcoord-agent init` first")
    return f"{quoted(schema)}.txcoord_undo_log"


def table_named(connection: Connection, name: str) -> Table:
    """What the catalogue says of a table by its name, as it is written in SQL; on PostgreSQL only.

    Raises:
        ConfigurationError: There is no such table.
    """
    found = _asked(connection, name)
    if found is None:
        raise ConfigurationError(f"there is no table {name}: check its name and the search path")
    return found


def tables_on(connection: Connection) -> list[tuple[str, str]]:
    """Schema and name of every table of users, ours excepted."""
    inspector = inspect(connection)
    schemas = [inspector.default_schema_name or ""]
    if connection.dialect.name == "postgresql":
        schemas = [s for s in inspector.get_schema_names() if s != "information_schema" and not s.startswith("pg_")]
    every = ((schema, name) for schema in schemas for name in inspector.get_table_names(schema or None))
    return sorted(name for name in every if not name[1].startswith(OURS))


def _postgresql(connection: Connection, name: tuple[str, str]) -> Table | None:
    return _asked(connection, ".".join(map(quoted, name)))


def _asked(connection: Connection, name: str) -> Table | None:
    asked = postgresql.query(name)
    found = connection.scalar(text(asked.replace(":", "\\:")))  # no colon in it is a parameter
    return None if found is None else postgresql.table(found)


def _sqlite(connection: Connection, name: tuple[str, str]) -> Table | None:
    def rows(sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        return [tuple(row) for row in connection.exec_driver_sql(sql, tuple(parameters))]

    return sqlite.table(rows, name)


def _mysql(connection: Connection, name: tuple[str, str]) -> Table | None:
    cursor = connection.connection.cursor()
    try:
        return MysqlCatalogue().table(cursor, *name)
    finally:
        cursor.close()


_READERS: dict[str, Callable[[Connection, tuple[str, str]], Table | None]] = {
    "postgresql": _postgresql,
    "mysql": _mysql,
    "mariadb": _mysql,
    "sqlite": _sqlite,
}
