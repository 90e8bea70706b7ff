"""The undo log, and the second phase of a rollback over it: all branches of one transaction, in one local transaction.

The guard comes first: the row with which a phase one begins is inserted, so that one that is still under way is waited for, and
one that comes late fails on it. (Looking first and inserting then lets a phase one slip between, and deadlocks on InnoDB.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    delete,
    select,
    text,
    update,
)
from sqlalchemy.dialects.mysql import LONGBLOB
from sqlalchemy.dialects.postgresql import ARRAY, insert

from txcoord_rm.undo.item import FORMAT, CorruptRecordError, UndoRecord
from txcoord_rm.undo.postgresql import Difference, Facts, Restorer
from txcoord_rm.undo.record import fields

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
    Column("columns", ARRAY(Text).with_variant(JSON, "mysql", "mariadb", "sqlite")),
    Column("befores", _IMAGES),
    Column("afters", _IMAGES),
    CheckConstraint("state IN ('IMAGE', 'GUARD', 'UNDONE')", name="txcoord_undo_log_state"),
    CheckConstraint("(state = 'IMAGE') = (table_name IS NOT NULL)", name="txcoord_undo_log_image"),
    CheckConstraint("seq >= 1", name="txcoord_undo_log_seq"),
)
_NOW = text("CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)")
_SETTINGS = text(
    "SELECT set_config('datestyle', 'ISO, MDY', true), set_config('extra_float_digits', '1', true), "
    "set_config('intervalstyle', 'postgres', true), set_config('row_security', 'off', true), "
    "set_config('lock_timeout', '2s', true)"
)


def undo(connection: Connection, xid: str, branch_ids: Sequence[int], facts: Facts) -> list[Difference]:
    """Undo what branches of a transaction did, in the connection's local transaction at READ COMMITTED.

    Returns:
        Rows that are not as the transaction left them: with any, nothing was undone, and the caller rolls back.

    Raises:
        CorruptRecordError: A record cannot be read.
    """
    connection.execute(_SETTINGS)
    guard = {"seq": 1, "state": "GUARD", "xid": xid, "format": 1, "created_at": _NOW}
    guards = [guard | {"branch_id": branch_id} for branch_id in sorted(branch_ids)]
    connection.execute(insert(undo_log).values(guards).on_conflict_do_nothing())
    mine = undo_log.c.branch_id.in_(branch_ids)
    stored = connection.execute(select(undo_log).where(mine).order_by(undo_log.c.seq).with_for_update()).all()
    branches: dict[int, list[Any]] = {}
    for row in stored:
        branches.setdefault(row.branch_id, []).append(row)
    for branch_id, rows in branches.items():
        _check(branch_id, rows, xid)
    newest_first = sorted(branches.values(), key=lambda rows: (rows[-1].created_at, rows[-1].branch_id), reverse=True)
    records = [_record(row) for rows in newest_first for row in reversed(rows) if row.state == "IMAGE"]
    differences = Restorer(connection, facts).restore([list(record.changes()) for record in records])
    if not differences:
        images = mine & (undo_log.c.state == "IMAGE")
        empty = {name: None for name in ("table_schema", "table_name", "columns", "befores", "afters")}
        connection.execute(delete(undo_log).where(images, undo_log.c.seq > 1))
        connection.execute(update(undo_log).where(images).values(state="UNDONE", **empty))
    return differences


def _check(branch_id: int, rows: Sequence[Any], xid: str) -> None:
    """Refuse records that cannot be all of what a branch did: then nothing is restored from them."""
    whole = [row.seq for row in rows] == list(range(1, len(rows) + 1))
    alike = len(rows) == 1 or all(row.state == "IMAGE" for row in rows)
    if not whole or not alike or any(row.xid != xid for row in rows):
        raise CorruptRecordError(
            f"the undo records of branch {branch_id} of {xid} are not complete, or of another transaction: "
            + ", ".join(f"{row.seq} {row.state} of {row.xid}" for row in rows)
        )


def _record(r: Any) -> UndoRecord:
    if r.format != FORMAT:
        raise CorruptRecordError(
            f"undo record {r.branch_id}/{r.seq} has format {r.format}, this version reads {FORMAT}: let an agent of the version "
            "that wrote it do this second phase"
        )
    try:
        befores, afters = (tuple(None if text is None else fields(text) for text in texts) for texts in (r.befores, r.afters))
    except ValueError as error:
        raise CorruptRecordError(f"undo record {r.branch_id}/{r.seq} cannot be read: {error}") from error
    return UndoRecord(r.branch_id, r.seq, r.state, r.format, (r.table_schema, r.table_name), tuple(r.columns), befores, afters)
