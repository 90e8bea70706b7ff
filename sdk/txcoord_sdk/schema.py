"""Our tables in a service's own database. Readable by a person; impossible rows are forbidden by CHECK."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, MetaData, String, Table

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
    Column("created_at", BigInteger, nullable=False, comment="milliseconds since 1970 by the clock of this database"),
    Column("changed_at", BigInteger, nullable=False),
    CheckConstraint("state IN ('TRIED', 'CONFIRMED', 'CANCELLED', 'SUSPENDED')", name="ck_txcoord_fence_state"),
    **_MYSQL,
)
