"""When fence rows go, and when a phase one has become too old to be protected by them.

A row goes only when the coordinator says that its transaction is settled for good, and not before the retention has passed. So a
guard has to outlive every try that it may still have to refuse: a try whose registration is older than half of the retention is
not committed. Its age is taken from a clock that goes on while the machine sleeps and that nobody sets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, delete, select
from txcoord_proto.failpoints import durable
from txcoord_proto.status import Settlement
from txcoord_proto.v1 import coordinator_pb2 as pb

from txcoord_sdk.dialects import dialect_of
from txcoord_sdk.schema import fence
from txcoord_sdk.session.requests import Sink
from txcoord_sdk.transaction.effects import Ask, Invoke, Steps

Run: TypeAlias = Callable[[Callable[[Connection], Any]], Any]

_PAGE = 500
_GOES = frozenset({Settlement.SETTLED, Settlement.EXPIRED})
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Seconds since the machine started, sleep included."""
    return time.clock_gettime(_CLOCK)


def purge_steps(
    run: Run,
    ask_settled: Callable[[list[str], Sink], None],
    retention: float,
) -> Steps[int]:
    """Remove rows that nobody needs any more; returns how many.

    Args:
        run: Runs a function in a local transaction, plain or as a coroutine.
        ask_settled: Asks the coordinator which of some transactions are settled.
        retention: Seconds.
    """
    after, removed = "", 0
    while True:
        page = after
        xids, last = yield Invoke(lambda: run(lambda c: _old(c, page, retention)))  # noqa: B023 - called at once
        if xids:
            reply = yield Ask(lambda sink: ask_settled(xids, sink))  # noqa: B023 - called at once
            settlements = [Settlement(pb.Settlement.Name(number)) for number in reply.settlements]
            going = [xid for xid, settlement in zip(xids, settlements, strict=True) if settlement in _GOES]
            removed += yield from _remove_steps(run, going, retention)
        if not last:
            return removed
        after = last


@durable("fence.purge")
def _remove_steps(run: Run, xids: Sequence[str], retention: float) -> Steps[int]:
    removed: int = yield Invoke(lambda: run(lambda c: _remove(c, xids, retention)))
    return removed


def _old(connection: Connection, after: str, retention: float) -> tuple[list[str], str]:
    """Old XIDs of the next page, and where to go on, empty at the end: XIDs sort by age, so a page of young ones is the last."""
    now = dialect_of(connection.dialect.name).now
    is_old = (fence.c.changed_at < now - int(retention * 1000)).label("is_old")
    query = select(fence.c.xid, is_old).where(fence.c.xid > after).order_by(fence.c.xid, fence.c.branch_id).limit(_PAGE)
    rows = connection.execute(query).all()
    xids = list(dict.fromkeys(xid for xid, old in rows if old))
    return xids, rows[-1][0] if len(rows) == _PAGE and xids else ""


def _remove(connection: Connection, xids: Sequence[str], retention: float) -> int:
    if not xids:
        return 0
    now = dialect_of(connection.dialect.name).now
    old = fence.c.changed_at < now - int(retention * 1000)
    return connection.execute(delete(fence).where(fence.c.xid.in_(xids), old)).rowcount
