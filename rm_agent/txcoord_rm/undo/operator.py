"""What a person asks of the undo log: what is in it, and an end of a rollback that no rule can decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select
from txcoord_sdk.dialects import dialect_of

from txcoord_rm.undo.item import UndoRecord
from txcoord_rm.undo.log import changes_of, family_of, mark_undone, record_of
from txcoord_rm.undo.restorer import Difference, Facts, Restorer
from txcoord_rm.undo.schema import undo_log


@dataclass(frozen=True, slots=True)
class Listed:
    """Undo records of one transaction and state.

    Args:
        xid: The transaction.
        state: IMAGE, GUARD or UNDONE.
        branches: How many of its branches have records in that state.
        records: How many records.
        age: Milliseconds since the oldest was written, by the clock of the database.
    """

    xid: str
    state: str
    branches: int
    records: int
    age: int


def listed(connection: Connection, states: Sequence[str], limit: int) -> list[Listed]:
    """What is in the undo log, the oldest first.

    Args:
        connection: In a local transaction.
        states: Only these.
        limit: Rows at most.
    """
    columns, oldest = undo_log.c, func.min(undo_log.c.created_at)
    query = (
        select(
            columns.xid, columns.state, func.count(columns.branch_id.distinct()), func.count(),
            dialect_of(connection.dialect.name).now - oldest,
        )
        .where(columns.state.in_(states))
        .group_by(columns.xid, columns.state)
        .order_by(oldest, columns.xid, columns.state)
        .limit(limit)
    )  # fmt: skip
    return [Listed(xid, state, branches, records, int(age)) for xid, state, branches, records, age in connection.execute(query)]


def records_of(connection: Connection, xid: str) -> list[UndoRecord]:
    """All undo records of a transaction, branch by branch, as they were written.

    Raises:
        CorruptRecordError: One cannot be read.
    """
    family = family_of(connection)
    query = select(undo_log).where(undo_log.c.xid == xid).order_by(undo_log.c.branch_id, undo_log.c.seq)
    return [record_of(family, row) for row in connection.execute(query)]


def branches_with_images(connection: Connection, xid: str) -> list[int]:
    """Branches of a transaction that can still be undone; there is no index on XIDs, so that it takes its time."""
    query = select(undo_log.c.branch_id).where(undo_log.c.xid == xid, undo_log.c.state == "IMAGE")
    return list(connection.scalars(query.distinct().order_by(undo_log.c.branch_id)))


def force(connection: Connection, xid: str, facts: Facts) -> list[Difference]:
    """Give rows what they had before a transaction, whatever they have now.

    Returns:
        Rows of which that cannot be done: with any, nothing was done, and the caller rolls back.

    Raises:
        CorruptRecordError: A record cannot be read, or does not fit the tables as they are now; the caller rolls back.
    """
    family, branch_ids = family_of(connection), branches_with_images(connection, xid)
    family.prepare()
    differences = Restorer(connection, family, facts).force(changes_of(connection, family, xid, branch_ids))
    if not differences:
        mark_undone(connection, branch_ids)
    return differences


def accept(connection: Connection, xid: str) -> None:
    """Leave rows as they are, and take all branches of a transaction for undone."""
    mark_undone(connection, branches_with_images(connection, xid))
