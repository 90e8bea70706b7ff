"""The coordinator's budgets: throughput and latency over the stream, recovery, restart, memory; nothing told was lost."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import sqlalchemy
from txcoord_sdk.testing import CoordinatorProcess

from tests.benchmarks.figure import Figure
from tests.benchmarks.load import Load, Result
from tests.benchmarks.sdk import through_the_sdk
from tests.benchmarks.stuck import memory_and_restart, recovery
from tests.servers import UnavailableError, fresh_database, running

# transactions a second at 256 in flight: floor, goal; milliseconds at one in flight: limit, goal
BUDGETS = {
    "sqlite": (7_000, 13_000, 3.0, 2.0),
    "postgres": (4_000, 8_000, 5.0, 3.5),
    "mariadb": (3_500, 7_000, None, None),
}
DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
TRANSACTIONS = 20_000


def figures(runs: int) -> list[Figure]:
    """All figures of the coordinator."""
    measured: list[Figure] = []
    for store in BUDGETS:
        try:
            with coordinator_on(store) as coordinator:
                measured += over_the_stream(coordinator, store, runs)
        except UnavailableError as error:
            print(f"{store}: {error}", file=sys.stderr)
    measured += memory_and_restart()
    measured += recovery(runs)
    measured += through_the_sdk(runs)
    return measured


@contextmanager
def coordinator_on(store: str) -> Iterator[CoordinatorProcess]:
    """A coordinator with its defaults on a fresh store of that kind."""
    with ExitStack() as stack:
        url = None
        if store != "sqlite":
            server = stack.enter_context(running(store))  # type: ignore[arg-type]
            url = stack.enter_context(fresh_database(server))
        yield stack.enter_context(CoordinatorProcess(url))


def over_the_stream(coordinator: CoordinatorProcess, store: str, runs: int) -> list[Figure]:
    """Throughput at 256 in flight and latency at one; then a kill, and what was told is counted in the store."""
    floor, goal, limit, wanted = BUDGETS[store]
    asyncio.run(Load(256, 4_000).run(coordinator.address))  # warm
    busy: list[Result] = []
    alone: list[Result] = []
    for _ in range(runs):
        busy.append(asyncio.run(Load(256, TRANSACTIONS).run(coordinator.address)))
        alone.append(asyncio.run(Load(1, 800).run(coordinator.address)))
        print(f"{store}: {busy[-1].per_second:,.0f}/s, {alone[-1].percentile(0.5):.2f} ms", flush=True)
    coordinator.kill()
    told = busy[-1].committed + alone[-1].committed
    lost = len(told) - decided(coordinator.store, told)
    return [
        Figure(f"{store}: global transactions/s, 256 in flight", tuple(r.per_second for r in busy), floor, goal),
        Figure(f"{store}: p99 ms, 256 in flight", tuple(r.percentile(0.99) for r in busy)),
        Figure(f"{store}: p50 ms, one in flight", tuple(r.percentile(0.5) for r in alone), limit, wanted, more_is_better=False),
        Figure(f"{store}: told decisions missing after SIGKILL, of {len(told):,}", (float(lost),), 0, 0, more_is_better=False),
    ]


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
    with _connected(url) as connection:
        query = "SELECT count(*) FROM txc_global WHERE decision IS NOT NULL AND settled_at = 0"
        return int(connection.scalar(sqlalchemy.text(query)) or 0)


@contextmanager
def _connected(url: str) -> Iterator[sqlalchemy.Connection]:
    scheme = url.split(":", maxsplit=1)[0]
    engine = sqlalchemy.create_engine(url.replace(scheme, DRIVERS.get(scheme, scheme), 1))
    with engine.connect() as connection:
        yield connection
    engine.dispose()
