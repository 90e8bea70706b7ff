"""Our tables in a service's own database. Readable by a person; impossible rows are forbidden by CHECK."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, Connection, Integer, MetaData, String, Table, Text, inspect, select

from txcoord_sdk.dialects import dialect_of

metadata = MetaData()

_MYSQL: dict[str, Any] = {
    f"{kind}_{option}": value
    for kind in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}

database = Table(
    "txcoord_database",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("id", String(36), nullable=False, comment="identity of this database in resource names, wherever it is moved"),
    CheckConstraint("one = 1", name="ck_txcoord_database_one"),
    **_MYSQL,
)

fence = Table(
    "txcoord_fence",
    metadata,
    Column("xid", String(64), primary_key=True),
    Column("branch_id", BigInteger, primary_key=True, autoincrement=False),
    Column("resource", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("result", Text, comment="what the first call of the second phase returned, as JSON"),
    Column("created_at", BigInteger, nullable=False, comment="milliseconds since 1970 by the clock of this database"),
    Column("changed_at", BigInteger, nullable=False),
    CheckConstraint("state IN ('TRIED', 'CONFIRMED', 'CANCELLED', 'SUSPENDED')", name="ck_txcoord_fence_state"),
    CheckConstraint("result IS NULL OR state IN ('CONFIRMED', 'CANCELLED')", name="ck_txcoord_fence_result"),
    **_MYSQL,
)


def prepare(connection: Connection, tables: Iterable[MetaData] = (metadata,)) -> str:
    """Create our tables where they are missing; returns the database's identity.

    Two processes may do this at the same moment: the one that comes second fails and succeeds when it tries again.
    """
    have = set(inspect(connection).get_table_names())
    for table in (table for known in tables for table in known.sorted_tables):
        if table.name not in have:
            table.create(connection)
    return database_id(connection)


def database_id(connection: Connection) -> str:
    """The database's identity, a UUID made with its first row."""
    known = connection.scalar(select(database.c.id))
    if known is None:
        row = {"one": 1, "id": str(uuid.uuid4())}
        connection.execute(dialect_of(connection.dialect.name).insert_if_absent(database).values(row))
        # A locking read sees the row of a process that was faster, also under REPEATABLE READ.
        known = connection.scalar(select(database.c.id).with_for_update())
    return str(known)
