"""The fence row of a branch: written in the local transaction that is prepared, so that it stands or falls with it."""

from __future__ import annotations

from functools import cache

from sqlalchemy import Connection, Insert, bindparam, select
from txcoord_sdk.dialects import Dialect, dialect_of
from txcoord_sdk.fence.fence import FenceState
from txcoord_sdk.local_transaction import OWN
from txcoord_sdk.schema import fence

from txcoord_rm.xa.identifier import Identifier

_STATE = select(fence.c.state).where(fence.c.xid == bindparam("of_xid"), fence.c.branch_id == bindparam("of_branch"))


def fence_state(connection: Connection, identifier: Identifier) -> FenceState | None:
    """What the row says; None: there is none that is committed."""
    found = connection.scalar(_STATE, {"of_xid": identifier.xid, "of_branch": identifier.branch_id}, execution_options=OWN)
    return None if found is None else FenceState(found)


def guard(connection: Connection, identifier: Identifier, resource: str) -> FenceState | None:
    """Have no local transaction of the branch be prepared from now on; returns what the row says then.

    It waits where one has written its row and has not ended.
    """
    connection.execute(
        _guard(dialect_of(connection.dialect.name)),
        {"xid": identifier.xid, "branch_id": identifier.branch_id, "resource": resource},
        execution_options=OWN,
    )
    return fence_state(connection, identifier)


@cache
def _guard(dialect: Dialect) -> Insert:
    given = {name: bindparam(name, type_=fence.c[name].type) for name in ("xid", "branch_id", "resource")}
    values = {**given, "state": FenceState.SUSPENDED.value, "created_at": dialect.now, "changed_at": dialect.now}
    return dialect.insert_if_absent(fence).values(values)
