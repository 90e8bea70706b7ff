"""AT mode against the same statements run plainly: one run measures both, in turns, so that the ratio holds on any machine."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import sqlalchemy
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, insert, update
from sqlalchemy.ext.asyncio import create_async_engine
from txcoord_rm import enroll
from txcoord_sdk import connect
from txcoord_sdk.testing import CoordinatorProcess

from tests.benchmarks.figure import Figure
from tests.servers import fresh_database, running

ROWS = 20_000
TRANSACTIONS = {1: 600, 16: 3_000}
BUDGETS = {1: (0.35, 0.50), 16: (0.50, 0.70)}
"""By number of clients: AT / plain, floor and goal."""
_stock = Table("stock", MetaData(), Column("id", Integer, primary_key=True), Column("free", Integer, nullable=False))
_TAKE = update(_stock).where(_stock.c.id == sqlalchemy.bindparam("of")).values(free=_stock.c.free - 1)


def figures(runs: int) -> list[Figure]:
    """All of the suite."""
    found: list[Figure] = []
    with ExitStack() as stack:
        server = stack.enter_context(running("postgres18"))
        for driver in ("psycopg", "asyncpg"):
            with fresh_database(server, "psycopg") as url, CoordinatorProcess() as coordinator:
                _fill(url)
                pair = _Threads if driver == "psycopg" else _Tasks
                with pair(url.replace("+psycopg", f"+{driver}"), coordinator.address).open() as sides:
                    found += _ratios(driver, sides, runs)
    return found


def _fill(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        _stock.metadata.create_all(connection)
        connection.execute(insert(_stock), [{"id": n, "free": 1_000_000} for n in range(ROWS)])
    engine.dispose()


Run = Callable[[bool, int, int], float]
"""Takes whether it is in global transactions, how many transactions, and how many clients; gives seconds."""


def _ratios(driver: str, run: Run, runs: int) -> list[Figure]:
    found = []
    for clients, total in TRANSACTIONS.items():
        for inside in (False, True):
            run(inside, total // 4, clients)  # warm
        ratios, costs = [], []
        for _ in range(runs):
            plain, plain_cpu = _measured(run, False, total, clients)
            at, at_cpu = _measured(run, True, total, clients)
            ratios.append(plain / at)
            costs.append(plain_cpu / at_cpu)
            print(
                f"{driver}, {clients} clients: plain {total / plain:,.0f}/s, AT {total / at:,.0f}/s, {plain / at:.2f}; "
                f"database CPU {plain_cpu / total * 1e6:.0f} us and {at_cpu / total * 1e6:.0f} us",
                flush=True,
            )
        floor, goal = BUDGETS[clients]
        found.append(Figure(f"AT / plain, {driver}, {clients} clients", tuple(ratios), floor, goal))
        found.append(Figure(f"database CPU plain / AT, {driver}, {clients} clients", tuple(costs), 0.75, None))
    return found


def _measured(run: Run, inside: bool, total: int, clients: int) -> tuple[float, float]:
    before = _database_cpu()
    seconds = run(inside, total, clients)
    return seconds, _database_cpu() - before


def _database_cpu() -> float:
    """Seconds of CPU that all processes of PostgreSQL on this machine have taken."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/comm"):
        try:
            if stat.read_text().strip() == "postgres":
                total += int((stat.parent / "schedstat").read_text().split()[0])
        except OSError:
            continue  # it has ended meanwhile
    return total / 1e9


class _Pair:
    """An engine that is enrolled, and one that is not."""

    def __init__(self, url: str, address: str) -> None:
        self._url = url
        self._client = connect(address, service="bench")
        self._rows = itertools.cycle(range(ROWS))
        self._lock = threading.Lock()

    def _next(self) -> int:
        with self._lock:
            return next(self._rows)


class _Threads(_Pair):
    @contextmanager
    def open(self) -> Iterator[Run]:
        engines = [create_engine(self._url, pool_size=20) for _ in range(2)]
        enroll(engines[True], self._client)
        with self._client, ThreadPoolExecutor(16) as threads:
            assert self._client.wait_connected()

            def run(inside: bool, total: int, clients: int) -> float:
                def work() -> None:
                    for _ in range(total // clients):
                        around = self._client.global_transaction() if inside else nullcontext()
                        with around, engines[inside].begin() as connection:
                            connection.execute(_TAKE, {"of": self._next()})

                started = time.perf_counter()
                for future in [threads.submit(work) for _ in range(clients)]:
                    future.result()
                return time.perf_counter() - started

            yield run
        for engine in engines:
            engine.dispose()


class _Tasks(_Pair):
    @contextmanager
    def open(self) -> Iterator[Run]:
        loop = asyncio.new_event_loop()
        engines = [create_async_engine(self._url, pool_size=20) for _ in range(2)]
        enroll(engines[True], self._client)

        async def work(inside: bool, count: int) -> None:
            for _ in range(count):
                if inside:
                    async with self._client.global_transaction():
                        await take(inside)
                else:
                    await take(inside)

        async def take(inside: bool) -> None:
            async with engines[inside].begin() as connection:
                await connection.execute(_TAKE, {"of": self._next()})

        async def everyone(inside: bool, total: int, clients: int) -> float:
            started = time.perf_counter()
            await asyncio.gather(*(work(inside, total // clients) for _ in range(clients)))
            return time.perf_counter() - started

        async def start() -> None:
            self._client.start()

        loop.run_until_complete(start())
        yield lambda inside, total, clients: loop.run_until_complete(everyone(inside, total, clients))
        loop.run_until_complete(self._client.aclose())
        for engine in engines:
            loop.run_until_complete(engine.dispose())
        loop.close()
