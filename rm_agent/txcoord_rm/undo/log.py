"""The undo log, and second phases over it: a rollback of all branches of one transaction, and commits of many.

The guard comes first: the row with which a phase one begins is inserted, so that one that is still under way is waited for, and
one that comes late fails on it. (Looking first and inserting then lets a phase one slip between, and deadlocks on InnoDB.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, select, text, tuple_, update
from sqlalchemy.dialects import mysql
from txcoord_sdk.dialects import dialect_of

from txcoord_rm.undo.item import FORMAT, Change, CorruptRecordError, UndoRecord
from txcoord_rm.undo.mysql import MysqlUndo
from txcoord_rm.undo.port import FamilyUndo
from txcoord_rm.undo.postgresql import PostgresqlUndo
from txcoord_rm.undo.restorer import Difference, Facts, Restorer
from txcoord_rm.undo.schema import metadata, undo_log
from txcoord_rm.undo.sqlite import SqliteUndo

__all__ = ["Difference", "Facts", "begin_undo", "forget", "metadata", "undo", "undo_log"]

_FAMILIES: dict[str, Callable[[Connection], FamilyUndo]] = {
    "postgresql": PostgresqlUndo,
    "mysql": MysqlUndo,
    "mariadb": MysqlUndo,
    "sqlite": SqliteUndo,
}
_FORGET = text(
    "DELETE FROM txcoord_undo_log AS l WHERE l.state = 'IMAGE' "
    "AND l.branch_id = ANY (CAST((SELECT string_to_array(CAST(:branch_ids AS text), ',')) AS bigint[])) "
    "AND ((CAST(l.xid AS text), l.branch_id) IN (SELECT d.xid, d.branch_id FROM unnest("
    "string_to_array(CAST(:xids AS text), ','), CAST(string_to_array(CAST(:branch_ids AS text), ',') AS bigint[])"
    ") AS d (xid, branch_id))) IS TRUE"
)
# By the primary key, whatever statistics say: those of a table that empties and fills again are never right, and with a plain
# join PostgreSQL reads the whole table for each batch. `IS TRUE` keeps the pairs a table of hashes. Texts, since drivers take
# longer over an array than the database does.
_AT_ONCE = 500
"""Branches that one statement forgets where each is a parameter."""


def undo(connection: Connection, xid: str, branch_ids: Sequence[int], facts: Facts) -> list[Difference]:
    """Undo what branches of a transaction did, in the connection's local transaction at READ COMMITTED.

    What `facts` says must be asked now, not remembered: a column that an image lacks would come back with its default.

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
    _insert_absent(connection, guards)
    items = changes_of(connection, family, xid, branch_ids)
    differences = Restorer(connection, family, facts).restore(items)
    if not differences:
        mark_undone(connection, branch_ids)
    return differences


def begin_undo(connection: Connection) -> None:
    """Set the isolation level of the local transaction that begins with this; see `FamilyUndo.set_level`."""
    family_of(connection).set_level()


def family_of(connection: Connection) -> FamilyUndo:
    """How rows are put back in the connection's database."""
    return _FAMILIES[connection.dialect.name](connection)


def changes_of(connection: Connection, family: FamilyUndo, xid: str, branch_ids: Sequence[int]) -> list[list[Change]]:
    """What branches of a transaction did, statement by statement, the last one first; their records are locked.

    Raises:
        CorruptRecordError: A record cannot be read.
    """
    branches: dict[int, Sequence[Any]] = {}
    for branch_id in sorted(branch_ids):  # each by its number, or InnoDB would lock what comes behind them
        mine = undo_log.c.branch_id == branch_id
        if rows := connection.execute(select(undo_log).where(mine).order_by(undo_log.c.seq).with_for_update()).all():
            _check(branch_id, rows, xid)
            branches[branch_id] = rows
    newest_first = sorted(branches.values(), key=lambda rows: (rows[-1].created_at, rows[-1].branch_id), reverse=True)
    records = [record_of(family, row) for rows in newest_first for row in reversed(rows) if row.state == "IMAGE"]
    return [list(record.changes()) for record in records]


def mark_undone(connection: Connection, branch_ids: Sequence[int]) -> None:
    """Leave of the records of branches nothing but that they have been undone."""
    keys = _images(connection, undo_log.c.branch_id.in_(branch_ids))
    _delete(connection, [key for key in keys if key[1] > 1])
    empty = {name: None for name in ("table_schema", "table_name", "columns", "befores", "afters")}
    for branch_id in sorted({branch_id for branch_id, _ in keys}):
        first = (undo_log.c.branch_id == branch_id) & (undo_log.c.seq == 1)
        connection.execute(update(undo_log).where(first).values(state="UNDONE", **empty))


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
        return connection.execute(_FORGET, {"xids": ",".join(xids), "branch_ids": ",".join(map(str, branch_ids))}).rowcount
    gone, left = 0, iter(sorted(branches, key=lambda branch: branch[1]))
    while some := list(islice(left, _AT_ONCE)):
        pairs = tuple_(undo_log.c.xid, undo_log.c.branch_id).in_(some)
        numbers = undo_log.c.branch_id.in_([branch_id for _, branch_id in some])  # found by the primary key
        gone += _delete(connection, _images(connection, numbers & pairs))
    return gone


def _images(connection: Connection, which: ColumnElement[bool]) -> list[tuple[int, int]]:
    """Keys of records, found without locking them."""
    query = select(undo_log.c.branch_id, undo_log.c.seq).where(which, undo_log.c.state == "IMAGE")
    return [(branch_id, seq) for branch_id, seq in connection.execute(query.order_by(undo_log.c.branch_id, undo_log.c.seq))]


def _delete(connection: Connection, keys: Sequence[tuple[int, int]]) -> int:
    """Delete records by their whole keys: by less of them InnoDB would lock, and wait for, the record behind the last one."""
    gone, left = 0, iter(keys)
    while some := list(islice(left, _AT_ONCE)):
        which = tuple_(undo_log.c.branch_id, undo_log.c.seq).in_(some)
        gone += connection.execute(delete(undo_log).where(which, undo_log.c.state == "IMAGE")).rowcount
    return gone


def _insert_absent(connection: Connection, guards: Sequence[dict[str, Any]]) -> None:
    """Insert guards where branches have no first row, and lock those that have one.

    On InnoDB an INSERT IGNORE only shares the lock of a row that it finds: two rollbacks would then wait for each other.
    """
    if connection.dialect.name in ("mysql", "mariadb"):
        connection.execute(mysql.insert(undo_log).values(guards).on_duplicate_key_update(seq=undo_log.c.seq))
    else:
        connection.execute(dialect_of(connection.dialect.name).insert_if_absent(undo_log).values(guards))


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
