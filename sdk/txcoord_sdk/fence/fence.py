"""The rules that make try, confirm and cancel safe whatever is lost, repeated or overtaken.

Each step first writes its row and only then runs user code, in one local transaction, so two steps of one branch meet at the row:
the one that comes second waits, and sees how the first one ended. Nothing is read first. A cancel that finds nothing leaves a row
that refuses the try that may still come (the field calls these null cancel and hanging try; the row is DTM's barrier and Seata's
TCC fence).
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from sqlalchemy import ColumnElement, Connection, select, update
from txcoord_proto.errors import TxcoordError

from txcoord_sdk.dialects import dialect_of
from txcoord_sdk.participant import ParkError
from txcoord_sdk.schema import fence


class FenceState(StrEnum):
    """What a row says."""

    TRIED = "TRIED"
    """Phase one has run, or its intent is recorded."""
    CONFIRMED = "CONFIRMED"
    """Confirm has run."""
    CANCELLED = "CANCELLED"
    """Cancel has run."""
    SUSPENDED = "SUSPENDED"
    """Cancel came without a try: none may come any more."""


class HangingTryError(TxcoordError):
    """The transaction was rolled back before this try arrived: it must have no effect."""

    code: ClassVar[str] = "HANGING_TRY"
    retryable: ClassVar[bool] = True


class RepeatedTryError(TxcoordError):
    """This branch's try has run already."""

    code: ClassVar[str] = "REPEATED_TRY"


class TryLostError(TxcoordError):
    """The database rolled the try back without being asked to; what came after it stands alone."""

    code: ClassVar[str] = "TRY_LOST"
    retryable: ClassVar[bool] = True


def tried(connection: Connection, xid: str, branch_id: int, resource: str) -> None:
    """Open the branch, before the try.

    Raises:
        HangingTryError: Its cancel was here first.
        RepeatedTryError: Its try was here before.
    """
    if _insert(connection, xid, branch_id, resource, FenceState.TRIED):
        return
    state = _state(connection, xid, branch_id)
    if state in (FenceState.SUSPENDED, FenceState.CANCELLED):
        raise HangingTryError(
            f"branch {branch_id} of {xid} was cancelled before its try arrived: roll the local transaction back; the global "
            "one is over",
            {"xid": xid},
        )
    raise RepeatedTryError(f"the try of branch {branch_id} of {xid} has run before ({state})", {"xid": xid})


def is_tried(connection: Connection, xid: str, branch_id: int) -> bool:
    """Whether the row of a try is still there, in the local transaction that wrote it."""
    return _state(connection, xid, branch_id) is FenceState.TRIED


def confirmed(connection: Connection, xid: str, branch_id: int) -> bool:
    """Close the branch by confirm; False: it was confirmed before, run nothing.

    Raises:
        ParkError: There is no tried row, or it was cancelled: a person has to look.
    """
    if _change(connection, xid, branch_id, FenceState.CONFIRMED):
        return True
    state = _state(connection, xid, branch_id)
    if state is FenceState.CONFIRMED:
        return False
    if state is None:
        raise ParkError(
            f"confirm of branch {branch_id} of {xid} finds no tried row in this database: was the database restored, or "
            "cleaned by hand? Check the data, then `txcoord force-commit` or retry"
        )
    raise ParkError(f"confirm of branch {branch_id} of {xid} finds it {state}: check the data, then `txcoord force-commit`")


def cancelled(connection: Connection, xid: str, branch_id: int, resource: str) -> bool:
    """Close the branch by cancel; False: there is nothing to undo, run nothing.

    Raises:
        ParkError: It was confirmed: a person has to look.
    """
    if _insert(connection, xid, branch_id, resource, FenceState.SUSPENDED):
        return False
    if _change(connection, xid, branch_id, FenceState.CANCELLED):
        return True
    state = _state(connection, xid, branch_id)
    if state is FenceState.CONFIRMED:
        raise ParkError(
            f"cancel of branch {branch_id} of {xid} finds it confirmed: check the data, then `txcoord force-rollback`"
        )
    return False


def remember(connection: Connection, xid: str, branch_id: int, result: str) -> None:
    """Keep what the first call of the second phase returned."""
    connection.execute(update(fence).where(*_row(xid, branch_id)).values(result=result))


def remembered(connection: Connection, xid: str, branch_id: int) -> str | None:
    """What the first call of the second phase returned; None where it returned nothing."""
    return connection.scalar(select(fence.c.result).where(*_row(xid, branch_id)))


def _row(xid: str, branch_id: int) -> tuple[ColumnElement[bool], ...]:
    return fence.c.xid == xid, fence.c.branch_id == branch_id


def _insert(connection: Connection, xid: str, branch_id: int, resource: str, state: FenceState) -> bool:
    dialect = dialect_of(connection.dialect.name)
    row = {"xid": xid, "branch_id": branch_id, "resource": resource, "state": state.value}
    statement = dialect.insert_if_absent(fence).values(created_at=dialect.now, changed_at=dialect.now, **row)
    # SQLAlchemy forgets how many rows an INSERT made unless it is told not to.
    return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount == 1


def _change(connection: Connection, xid: str, branch_id: int, to: FenceState) -> bool:
    dialect = dialect_of(connection.dialect.name)
    tried = fence.c.state == FenceState.TRIED.value
    return (
        connection.execute(
            update(fence).where(*_row(xid, branch_id), tried).values(state=to.value, changed_at=dialect.now)
        ).rowcount
        == 1
    )


def _state(connection: Connection, xid: str, branch_id: int) -> FenceState | None:
    """The present state, also under REPEATABLE READ: a locking read is no snapshot read."""
    query = select(fence.c.state).where(*_row(xid, branch_id)).with_for_update()
    found = connection.scalar(query)
    return FenceState(found) if found is not None else None
