"""All our tables in a business database that AT works in: those of the SDK, and the undo log."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Dialect, Table, inspect
from sqlalchemy.schema import CreateTable
from txcoord_sdk import schema as sdk

from txcoord_rm.undo import schema as undo

TABLES: tuple[Table, ...] = (*sdk.metadata.sorted_tables, *undo.metadata.sorted_tables)
"""In the order in which they are made."""


def ddl(dialect: Dialect) -> Iterator[str]:
    """Statements that make them, for those who run such things by hand."""
    for table in TABLES:
        yield str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)).strip()


def faults(connection: Connection, table: Table) -> str:
    """What is wrong with a table of ours as it is there; empty: nothing."""
    inspector = inspect(connection)
    if not inspector.has_table(table.name):
        return "it is not there"
    there = {column["name"] for column in inspector.get_columns(table.name)}
    wanted = {column.name for column in table.columns}
    key = inspector.get_pk_constraint(table.name)["constrained_columns"]
    if missing := sorted(wanted - there):
        return f"it is of another version, without {', '.join(missing)}"
    if strange := sorted(there - wanted):
        return f"it is of another version, with {', '.join(strange)}"
    if key != [column.name for column in table.primary_key]:
        return f"its primary key is ({', '.join(key)}), not ({', '.join(column.name for column in table.primary_key)})"
    return ""
