"""The undo log, and second phases over it: a rollback of all branches of one transaction, and commits of many.

The guard comes first: the row with which a phase one begins is inserted, so that one that is still under way is waited for, and
one that comes late fails on it. (Looking first and inserting then lets a phase one slip between, and deadlocks on InnoDB.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import BigInteger, Connection, Text, bindparam, delete, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY
from txcoord_sdk.dialects import dialect_of

from txcoord_rm.undo.item import FORMAT, Change, CorruptRecordError, UndoRecord
from txcoord_rm.undo.port import FamilyUndo
from txcoord_rm.undo.postgresql import PostgresqlUndo
from txcoord_rm.undo.restorer import Difference, Facts, Restorer
from txcoord_rm.undo.schema import metadata, undo_log

__all__ = ["Difference", "Facts", "forget", "metadata", "undo", "undo_log"]

_FAMILIES: dict[str, Callable[[Connection], FamilyUndo]] = {"postgresql": PostgresqlUndo}
_FORGET = text(
    "DELETE FROM txcoord_undo_log AS l USING unnest(:xids, :branch_ids) AS d (xid, branch_id) "
    "WHERE l.branch_id = d.branch_id AND l.xid = d.xid AND l.state = 'IMAGE'"
).bindparams(bindparam("xids", type_=ARRAY(Text)), bindparam("branch_ids", type_=ARRAY(BigInteger)))
_AT_ONCE = 500
"""Branches that one statement forgets where each is a parameter."""


def undo(connection: Connection, xid: str, branch_ids: Sequence[int], facts: Facts) -> list[Difference]:
    """Undo what branches of a transaction did, in the connection's local transaction at READ COMMITTED.

    On MySQL and MariaDB it changes settings of the session, which stay: the connection is for second phases only.

    Returns:
        Rows that are not as the transaction left them: with any, nothing was undone, and the caller rolls back.

    Raises:
        CorruptRecordError: A record cannot be read, or does not fit the tables as they are now; the caller rolls back.
        ConfigurationError: The database is of no supported kind.
    """
    dialect = dialect_of(connection.dialect.name)
    family = family_of(connection)
    family.prepare()
    guard = {"seq": 1, "state": "GUARD", "xid": xid, "format": FORMAT, "created_at": dialect.now}
    guards = [guard | {"branch_id": branch_id} for branch_id in sorted(branch_ids)]
    connection.execute(dialect.insert_if_absent(undo_log).values(guards))
    items = changes_of(connection, family, xid, branch_ids)
    differences = Restorer(connection, family, facts).restore(items)
    if not differences:
        mark_undone(connection, branch_ids)
    return differences


def family_of(connection: Connection) -> FamilyUndo:
    """How rows are put back in the connection's database."""
    return _FAMILIES[connection.dialect.name](connection)


def changes_of(connection: Connection, family: FamilyUndo, xid: str, branch_ids: Sequence[int]) -> list[list[Change]]:
    """What branches of a transaction did, statement by statement, the last one first; their records are locked.

    Raises:
        CorruptRecordError: A record cannot be read.
    """
    mine = undo_log.c.branch_id.in_(branch_ids)
    stored = connection.execute(select(undo_log).where(mine).order_by(undo_log.c.seq).with_for_update()).all()
    branches: dict[int, list[Any]] = {}
    for row in stored:
        branches.setdefault(row.branch_id, []).append(row)
    for branch_id, rows in branches.items():
        _check(branch_id, rows, xid)
    newest_first = sorted(branches.values(), key=lambda rows: (rows[-1].created_at, rows[-1].branch_id), reverse=True)
    records = [record_of(family, row) for rows in newest_first for row in reversed(rows) if row.state == "IMAGE"]
    return [list(record.changes()) for record in records]


def mark_undone(connection: Connection, branch_ids: Sequence[int]) -> None:
    """Leave of the records of branches nothing but that they have been undone."""
    images = undo_log.c.branch_id.in_(branch_ids) & (undo_log.c.state == "IMAGE")
    empty = {name: None for name in ("table_schema", "table_name", "columns", "befores", "afters")}
    connection.execute(delete(undo_log).where(images, undo_log.c.seq > 1))
    connection.execute(update(undo_log).where(images).values(state="UNDONE", **empty))


def forget(connection: Connection, branches: Sequence[tuple[str, int]]) -> int:
    """Delete the records of branches whose transactions are committed.

    Guards stay, and so do records of another transaction whose branch has the same number.

    Args:
        connection: In a local transaction.
        branches: XID and number of each.

    Returns:
        How many records there were.
    """
    if connection.dialect.name == "postgresql":
        xids, branch_ids = zip(*branches) if branches else ((), ())
        arrays = {"xids": list(xids), "branch_ids": list(branch_ids)}
        return connection.execute(_FORGET, arrays).rowcount
    gone, left = 0, iter(sorted(branches, key=lambda branch: branch[1]))
    while some := list(islice(left, _AT_ONCE)):
        pairs = tuple_(undo_log.c.xid, undo_log.c.branch_id).in_(some)
        numbers = undo_log.c.branch_id.in_([branch_id for _, branch_id in some])  # found by the primary key
        gone += connection.execute(delete(undo_log).where(numbers, pairs, undo_log.c.state == "IMAGE")).rowcount
    return gone


def _check(branch_id: int, rows: Sequence[Any], xid: str) -> None:
    """Refuse records that cannot be all of what a branch did: then nothing is restored from them."""
    whole = [row.seq for row in rows] == list(range(1, len(rows) + 1))
    alike = len(rows) == 1 or all(row.state == "IMAGE" for row in rows)
    if not whole or not alike or any(row.xid != xid for row in rows):
        raise CorruptRecordError(
            f"the undo records of branch {branch_id} of {xid} are not complete, or of another transaction: "
            + ", ".join(f"{row.seq} {row.state} of {row.xid}" for row in rows)
        )


def record_of(family: FamilyUndo, r: Any) -> UndoRecord:
    """A row of the undo log with its images.

    Raises:
        CorruptRecordError: It cannot be read.
    """
    if r.format != FORMAT:
        raise CorruptRecordError(
            f"undo record {r.branch_id}/{r.seq} has format {r.format}, this version reads {FORMAT}: let an agent of the version "
            "that wrote it do this second phase"
        )
    try:
        befores, afters = family.images(r)
    except ValueError as error:
        raise CorruptRecordError(f"undo record {r.branch_id}/{r.seq} cannot be read: {error}") from error
    return UndoRecord(
        r.branch_id, r.seq, r.state, r.format, (r.table_schema, r.table_name), tuple(r.columns or ()), befores, afters
    )
