"""The rules that make try, confirm and cancel safe whatever is lost, repeated or overtaken.

Each step first writes its row and only then runs user code, in one local transaction, so two steps of one branch meet at the row:
the one that comes second waits, and sees how the first one ended. Nothing is read first. A cancel that finds nothing leaves a row
that refuses the try that may still come (the field calls these null cancel and hanging try; the row is DTM's barrier and Seata's
TCC fence).
"""

from __future__ import annotations

import math
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import Connection, Insert, Update, bindparam, select, update
from txcoord_proto.errors import TxcoordError

from txcoord_sdk.dialects import Dialect, dialect_of
from txcoord_sdk.local_transaction import OWN, limit, start_limit
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


def tried(connection: Connection, xid: str, branch_id: int, resource: str, deadline: float = math.inf) -> None:
    """Open the branch, before the try.

    Args:
        connection: On which the try works.
        xid: Of the branch.
        branch_id: Of the branch.
        resource: Of the branch.
        deadline: When the connection's local transaction ends at the latest, as `limit` says; the database is told with the row.

    Raises:
        HangingTryError: Its cancel was here first.
        RepeatedTryError: Its try was here before.
        DeadlinePassedError: That was before now.
    """
    if _insert(connection, xid, branch_id, resource, FenceState.TRIED, deadline):
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
    connection.execute(_REMEMBER, {**_row(xid, branch_id), "result": result})


def remembered(connection: Connection, xid: str, branch_id: int) -> str | None:
    """What the first call of the second phase returned; None where it returned nothing."""
    return connection.scalar(_REMEMBERED, _row(xid, branch_id))


# The statements are built once: SQLAlchemy finds one that it has seen in its cache at once, and takes as long to build and
# recognise a new one as the database does to run it.

_IS_ROW = fence.c.xid == bindparam("of_xid"), fence.c.branch_id == bindparam("of_branch")
_REMEMBER = update(fence).where(*_IS_ROW)
_REMEMBERED = select(fence.c.result).where(*_IS_ROW)
_STATE = select(fence.c.state).where(*_IS_ROW).with_for_update().execution_options(**OWN)


class _Writes(NamedTuple):
    """What writes, for one kind of database."""

    insert: Insert
    """A row that is not there."""
    insert_within_limits: Insert | None
    """The same with the limits of the transaction, where one statement can do both."""
    change: Update
    """A row that is tried."""


@cache
def _writes(dialect: Dialect) -> _Writes:
    given = {name: bindparam(name, type_=fence.c[name].type) for name in ("xid", "branch_id", "resource", "state")}
    values = {**given, "created_at": dialect.now, "changed_at": dialect.now}
    # SQLAlchemy forgets how many rows an INSERT made unless it is told not to.
    insert = dialect.insert_if_absent(fence).values(values).execution_options(preserve_rowcount=True, **OWN)
    limiting = dialect.insert_within_limits(fence, values)
    if limiting is not None:
        limiting = limiting.execution_options(preserve_rowcount=True, **OWN)
    change = update(fence).where(*_IS_ROW, fence.c.state == FenceState.TRIED.value).values(changed_at=dialect.now)
    return _Writes(insert, limiting, change)


def _row(xid: str, branch_id: int) -> dict[str, Any]:
    return {"of_xid": xid, "of_branch": branch_id}


def _insert(
    connection: Connection, xid: str, branch_id: int, resource: str, state: FenceState, deadline: float = math.inf
) -> bool:
    writes = _writes(dialect_of(connection.dialect.name))
    insert = writes.insert
    row: dict[str, Any] = {"xid": xid, "branch_id": branch_id, "resource": resource, "state": state.value}
    if deadline == math.inf:
        pass
    elif writes.insert_within_limits is None:
        limit(connection, deadline)
    elif milliseconds := start_limit(connection, deadline):
        insert, row["milliseconds"] = writes.insert_within_limits, milliseconds
    return connection.execute(insert, row).rowcount == 1


def _change(connection: Connection, xid: str, branch_id: int, to: FenceState) -> bool:
    change = _writes(dialect_of(connection.dialect.name)).change
    return connection.execute(change, {**_row(xid, branch_id), "state": to.value}).rowcount == 1


def _state(connection: Connection, xid: str, branch_id: int) -> FenceState | None:
    """The present state, also under REPEATABLE READ: a locking read is no snapshot read."""
    found = connection.scalar(_STATE, _row(xid, branch_id))
    return FenceState(found) if found is not None else None
