"""When fence rows go, and others of ours, and when a phase one has become too old to be protected by them.

A row goes only when the coordinator says that its transaction is settled for good, and not before the retention has passed. So a
guard has to outlive every try that it may still have to refuse: a try whose registration is older than half of the retention is
not committed. Its age is taken from a clock that goes on while the machine sleeps and that nobody sets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Column, ColumnElement, Connection, Table, delete, select
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


@dataclass(frozen=True, slots=True)
class Retained:
    """Rows that go some time after their transaction has settled for good.

    Args:
        table: It has a column `xid`.
        key: Rows with one value of it are of one transaction and go together. Its values grow with time, at least roughly: a page
            without an old row is the last one that is looked at.
        since: From when a row's age counts, milliseconds since 1970.
    """

    table: Table
    key: Column[Any]
    since: Column[int]


FENCE = Retained(fence, fence.c.xid, fence.c.changed_at)
"""Fence rows."""


def purge_steps(
    run: Run,
    ask_settled: Callable[[list[str], Sink], None],
    retention: float,
    retained: Retained = FENCE,
) -> Steps[int]:
    """Remove rows that nobody needs any more; returns how many.

    Args:
        run: Runs a function in a local transaction, plain or as a coroutine.
        ask_settled: Asks the coordinator which of some transactions are settled.
        retention: Seconds.
        retained: Which rows.
    """
    after, removed = None, 0
    while True:
        page = after
        old, after = yield Invoke(lambda: run(lambda c: _old(c, retained, page, retention)))  # noqa: B023 - called at once
        if old:
            xids = list(dict.fromkeys(old.values()))
            reply = yield Ask(lambda sink: ask_settled(xids, sink))  # noqa: B023 - called at once
            settlements = [Settlement(pb.Settlement.Name(number)) for number in reply.settlements]
            going = {xid for xid, settlement in zip(xids, settlements, strict=True) if settlement in _GOES}
            removed += yield from _remove_steps(run, retained, [key for key, xid in old.items() if xid in going], retention)
        if after is None:
            return removed


@durable("fence.purge")
def _remove_steps(run: Run, retained: Retained, keys: Sequence[Any], retention: float) -> Steps[int]:
    removed: int = yield Invoke(lambda: run(lambda c: _remove(c, retained, keys, retention)))
    return removed


def _old(connection: Connection, retained: Retained, after: Any, retention: float) -> tuple[dict[Any, str], Any]:
    """Keys of old rows of the next page with their XIDs, and where to go on; None: that was the last."""
    table, key = retained.table, retained.key
    query = select(key, table.c.xid, _is_old(connection, retained, retention).label("is_old"))
    if after is not None:
        query = query.where(key > after)
    rows = connection.execute(query.order_by(*table.primary_key).limit(_PAGE)).all()
    old = {value: xid for value, xid, is_old in rows if is_old}
    return old, rows[-1][0] if len(rows) == _PAGE and old else None


def _remove(connection: Connection, retained: Retained, keys: Sequence[Any], retention: float) -> int:
    if not keys:
        return 0
    old = _is_old(connection, retained, retention)
    return connection.execute(delete(retained.table).where(retained.key.in_(keys), old)).rowcount


def _is_old(connection: Connection, retained: Retained, retention: float) -> ColumnElement[bool]:
    return retained.since < dialect_of(connection.dialect.name).now - int(retention * 1000)
