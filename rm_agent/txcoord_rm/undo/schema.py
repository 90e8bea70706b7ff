"""The table of undo records. Guards stand in it, too; impossible rows are forbidden by CHECK."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.mysql import LONGBLOB
from sqlalchemy.dialects.postgresql import ARRAY

_MYSQL: dict[str, Any] = {
    f"{kind}_{option}": value
    for kind in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}
_IMAGES = ARRAY(Text).with_variant(LONGBLOB, "mysql", "mariadb").with_variant(LargeBinary, "sqlite")
# On PostgreSQL an array of the texts of rows; elsewhere see `images`.
metadata = MetaData()
undo_log = Table(
    "txcoord_undo_log",
    metadata,
    Column("branch_id", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("state", String(8), nullable=False),
    Column("xid", String(128), nullable=False),
    Column("format", SmallInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("table_schema", Text),
    Column("table_name", Text),
    Column("columns", ARRAY(Text).with_variant(JSON(none_as_null=True), "mysql", "mariadb", "sqlite")),
    Column("befores", _IMAGES),
    Column("afters", _IMAGES),
    CheckConstraint("state IN ('IMAGE', 'GUARD', 'UNDONE')", name="txcoord_undo_log_state"),
    CheckConstraint("(state = 'IMAGE') = (table_name IS NOT NULL)", name="txcoord_undo_log_image"),
    CheckConstraint("seq >= 1", name="txcoord_undo_log_seq"),
    sqlite_with_rowid=False,  # so that last_insert_rowid() stays the application's
    **_MYSQL,
)
