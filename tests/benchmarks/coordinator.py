"""The coordinator's budgets: throughput and latency over the stream, recovery, restart, memory; nothing told was lost.

A store that cannot be had has figures without values, which miss their floors.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import sqlalchemy
from txcoord_sdk.testing import CoordinatorProcess
from txcoord_server.bench.load import Load, Result
from txcoord_server.engine.retention import RetentionConfig

from tests.benchmarks.figure import Figure
from tests.benchmarks.sdk import through_the_sdk
from tests.benchmarks.stuck import memory_and_restart, recovery
from tests.benchmarks.unavailable import unavailable
from tests.servers import Server, UnavailableError, fresh_database, running

# transactions a second at 256 in flight: floor, goal; milliseconds at one in flight: limit, goal
BUDGETS = {
    "sqlite": (7_000, 13_000, 3.0, 2.0),
    "postgres": (4_000, 8_000, 5.0, 3.5),
    "mariadb": (3_500, 7_000, None, None),
}
_THROUGHPUT = "{}: global transactions/s, 256 in flight"
DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
TRANSACTIONS = 20_000
RETENTION = RetentionConfig()
KEPT = RETENTION.keep_committed
OLD = RETENTION.keep_committed_for / 1000 + 21
"""Seconds after which what is not among the newest is purged, as soon as the group commits come."""


@dataclass(slots=True)
class Field:
    """A coordinator with so many finished transactions that each further one makes an old one be purged."""

    store: str
    coordinator: CoordinatorProcess
    filled_at: float = 0.0
    run: int = 0

    def fill(self) -> None:
        """Run as many transactions as are kept, and some that are purged at the end of the wait."""
        self.filled_at = time.monotonic()
        self.load(2_000, KEPT + 4_000)
        print(f"{self.store}: {self.run:,} finished transactions, to be purged later", flush=True)

    def load(self, in_flight: int, total: int) -> Result:
        """Run transactions."""
        self.run += total
        return asyncio.run(Load(in_flight, total).run(self.coordinator.address))

    def purged(self) -> int:
        """How many are not kept any more."""
        return self.run - count(self.coordinator.store, "SELECT count(*) FROM txc_global")


def figures(runs: int) -> list[Figure]:
    """All figures of the coordinator."""
    with ExitStack() as stack:
        postgres = _or_none(stack, "postgres")
        fields, missing = opened(stack, postgres)
        for each in fields:
            each.fill()
        others = memory_and_restart(runs)  # meanwhile what was filled in grows old
        others += recovery(runs, postgres)
        others += unavailable(runs)
        others += through_the_sdk(runs, postgres)
        measured = [figure for each in fields for figure in over_the_stream(each, runs)]
        return measured + missing + others


def opened(stack: ExitStack, postgres: Server | None) -> tuple[list[Field], list[Figure]]:
    """A coordinator on each store, and what cannot be measured since its store cannot be had."""
    fields, missing = [], []
    for store, (floor, goal, _, _) in BUDGETS.items():
        try:
            fields.append(Field(store, stack.enter_context(coordinator_on(store, postgres))))
        except UnavailableError as error:
            print(f"{store}: {error}", file=sys.stderr)
            missing.append(Figure(_THROUGHPUT.format(store), (), floor, goal))
    return fields, missing


def _or_none(stack: ExitStack, name: str) -> Server | None:
    try:
        return stack.enter_context(running(name))  # type: ignore[arg-type]
    except UnavailableError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None


@contextmanager
def coordinator_on(store: str, postgres: Server | None) -> Iterator[CoordinatorProcess]:
    """A coordinator with its defaults on a fresh store of that kind."""
    with ExitStack() as stack:
        url = None
        if store != "sqlite":
            server = postgres if store == "postgres" and postgres is not None else stack.enter_context(running(store))  # type: ignore[arg-type]
            url = stack.enter_context(fresh_database(server))
        yield stack.enter_context(CoordinatorProcess(url))


def over_the_stream(measured: Field, runs: int) -> list[Figure]:
    """Throughput at 256 in flight and latency at one; then a kill under load, and all that was told is counted in the store."""
    store, coordinator = measured.store, measured.coordinator
    floor, goal, limit, wanted = BUDGETS[store]
    time.sleep(max(0.0, measured.filled_at + OLD - time.monotonic()))
    measured.load(256, 4_000)  # warm
    purged = measured.purged()
    busy: list[Result] = []
    alone: list[Result] = []
    for _ in range(runs):
        busy.append(measured.load(256, TRANSACTIONS))
        alone.append(measured.load(1, 800))
        print(f"{store}: {busy[-1].per_second:,.0f}/s, {alone[-1].percentile(0.5):.2f} ms", flush=True)
    purged = measured.purged() - purged
    told = [xid for result in (*busy, *alone) for xid in result.committed]
    told += asyncio.run(told_until_killed(coordinator, 1.0))
    del told[: -(KEPT - 1_000)]  # with many runs the oldest may have been purged
    lost = len(told) - decided(coordinator.store, told)
    return [
        Figure(_THROUGHPUT.format(store), tuple(r.per_second for r in busy), floor, goal),
        Figure(f"{store}: p99 ms, 256 in flight", tuple(r.percentile(0.99) for r in busy)),
        Figure(f"{store}: p50 ms, one in flight", tuple(r.percentile(0.5) for r in alone), limit, wanted, more_is_better=False),
        Figure(f"{store}: purged while {runs * (TRANSACTIONS + 800):,} were run", (float(purged),), TRANSACTIONS, None),
        Figure(f"{store}: missing of {len(told):,} told, SIGKILL under load", (float(lost),), 0, 0, more_is_better=False),
    ]


async def told_until_killed(coordinator: CoordinatorProcess, after: float) -> list[str]:
    """Kill the coordinator under load; XIDs that were told to be committed until then.

    Args:
        coordinator: It.
        after: Seconds of load before the kill.
    """
    load = Load(64, 1_000_000)
    running = asyncio.ensure_future(load.run_until_broken(coordinator.address))
    await asyncio.sleep(after)
    coordinator.kill()
    result = await asyncio.wait_for(running, 20)
    assert result.committed, "it was killed before it had told anything"
    return result.committed


def decided(url: str, xids: list[str]) -> int:
    """How many of `xids` the store knows as committed."""
    query = sqlalchemy.text("SELECT count(*) FROM txc_global WHERE decision = 'COMMIT' AND xid IN :xids").bindparams(
        sqlalchemy.bindparam("xids", expanding=True)
    )
    pieces = [xids[at : at + 500] for at in range(0, len(xids), 500)]
    with _connected(url) as connection:
        return sum(int(connection.scalar(query, {"xids": piece}) or 0) for piece in pieces)


def unfinished(url: str) -> int:
    """How many decided transactions have not settled."""
    return count(url, "SELECT count(*) FROM txc_global WHERE decision IS NOT NULL AND settled_at = 0")


def count(url: str, query: str) -> int:
    """The number that a query gives."""
    with _connected(url) as connection:
        return int(connection.scalar(sqlalchemy.text(query)) or 0)


@contextmanager
def _connected(url: str) -> Iterator[sqlalchemy.Connection]:
    scheme = url.split(":", maxsplit=1)[0]
    engine = sqlalchemy.create_engine(url.replace(scheme, DRIVERS.get(scheme, scheme), 1))
    with engine.connect() as connection:
        yield connection
    engine.dispose()
