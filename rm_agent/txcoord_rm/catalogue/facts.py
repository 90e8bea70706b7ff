"""What the catalogue of the database behind a connection says, whatever its family."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from sqlalchemy import Connection, inspect, text
from txcoord_proto.errors import ConfigurationError

from txcoord_rm.catalogue import postgresql
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.quoting import quoted

Facts: TypeAlias = Callable[[tuple[str, str]], Table | None]
"""What the catalogue says of a table, by schema and name; None: there is no such table."""


OURS = "txcoord_"
"""With this begin the names of our own tables."""


def facts_on(connection: Connection) -> Facts:
    """Facts of tables as they are now; each is asked for once.

    Raises:
        ConfigurationError: The database is of a kind whose catalogue is not read.
    """
    read = _READERS.get(connection.dialect.name)
    if read is None:
        raise ConfigurationError(f"AT mode does not know {connection.dialect.name}: use {', '.join(sorted(_READERS))}")
    known: dict[tuple[str, str], Table | None] = {}

    def facts(name: tuple[str, str]) -> Table | None:
        if name not in known:
            known[name] = read(connection, name)
        return known[name]

    return facts


def tables_on(connection: Connection) -> list[tuple[str, str]]:
    """Schema and name of every table of users, ours excepted."""
    inspector = inspect(connection)
    schemas = [inspector.default_schema_name or ""]
    if connection.dialect.name == "postgresql":
        schemas = [s for s in inspector.get_schema_names() if s != "information_schema" and not s.startswith("pg_")]
    every = ((schema, name) for schema in schemas for name in inspector.get_table_names(schema or None))
    return sorted(name for name in every if not name[1].startswith(OURS))


def _postgresql(connection: Connection, name: tuple[str, str]) -> Table | None:
    asked = postgresql.query(".".join(map(quoted, name)))
    found = connection.scalar(text(asked.replace(":", "\\:")))  # no colon in it is a parameter
    return None if found is None else postgresql.table(found)


_READERS: dict[str, Callable[[Connection, tuple[str, str]], Table | None]] = {"postgresql": _postgresql}
