"""AT mode against the same statements run plainly: one run measures both, in turns, so that the ratio holds on any machine."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from enum import Enum
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from txcoord_rm import enroll, mode
from txcoord_sdk import connect
from txcoord_sdk.testing import CoordinatorProcess

from tests.benchmarks import at_contention, at_rows
from tests.benchmarks.figure import Figure
from tests.benchmarks.stock import ROWS, TAKE, fill
from tests.servers import Server, fresh_database, running
from tests.servers.guard import descendants
from tests.servers.process import ServerProcess

TRANSACTIONS = {1: 600, 16: 3_000}
BUDGETS = {1: (0.35, 0.50), 16: (0.50, 0.70)}
"""By number of clients: AT / plain, floor and goal."""


def figures(runs: int) -> list[Figure]:
    """All of the suite."""
    found: list[Figure] = []
    with ExitStack() as stack:
        server = stack.enter_context(running("postgres18"))
        for driver in ("psycopg", "asyncpg"):
            with fresh_database(server, "psycopg") as url, CoordinatorProcess() as coordinator:
                fill(create_engine(url))
                sides = _Threads if driver == "psycopg" else _Tasks
                with sides(url.replace("+psycopg", f"+{driver}"), coordinator.address).open() as run:
                    found += _ratios(driver, server, run, runs)
    return [*found, *at_rows.figures(runs), *at_contention.figures(runs)]


class Side(Enum):
    """How a transaction is made."""

    PLAIN = "plain"
    """On an engine that is not enrolled."""
    OUTSIDE = "outside"
    """On one that is, outside global transactions."""
    AT = "AT"
    XA = "XA"

    @property
    def mode(self) -> AbstractContextManager[None]:
        """In which its statements run."""
        return mode("xa") if self is Side.XA else nullcontext()


Run = Callable[[Side, int, int], float]
"""Takes a side, how many transactions, and how many clients; gives seconds."""


def _ratios(driver: str, server: Server, run: Run, runs: int) -> Iterator[Figure]:
    for clients, total in TRANSACTIONS.items():
        for side in Side:
            run(side, total // 4, clients)  # warm
        measured = [{side: _measured(run, server, side, total, clients) for side in Side} for _ in range(runs)]
        for one in measured:
            rates = ", ".join(
                f"{side.value} {total / seconds:,.0f}/s ({cpu / total * 1e6:.0f} us)" for side, (seconds, cpu) in one.items()
            )
            print(f"{driver}, {clients} clients, in brackets CPU of the database: {rates}", flush=True)
        ratios = {side: tuple(one[Side.PLAIN][0] / one[side][0] for one in measured) for side in Side}
        costs = tuple(one[Side.PLAIN][1] / one[Side.AT][1] for one in measured if one[Side.AT][1])
        where, (floor, goal) = f"{driver}, {clients} clients", BUDGETS[clients]
        yield Figure(f"AT / plain, {where}", ratios[Side.AT], floor, goal)
        yield Figure(f"database CPU plain / AT, {where}", costs, 0.75, None)
        yield Figure(f"XA / plain, {where}", ratios[Side.XA])
        yield Figure(f"enrolled, outside / plain, {where}", ratios[Side.OUTSIDE], 0.99, None)


def _measured(run: Run, server: Server, side: Side, total: int, clients: int) -> tuple[float, float]:
    before = _cpu(server)
    seconds = run(side, total, clients)
    return seconds, _cpu(server) - before


def _cpu(server: Server) -> float:
    """Seconds of CPU that the database's processes have taken; 0 where they are not processes of ours."""
    if not isinstance(server.control, ServerProcess):
        return 0.0
    total = 0
    for pid in (server.control.pid, *descendants(server.control.pid)):
        try:
            total += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
        except OSError:
            continue  # it has ended meanwhile
    return total / 1e9


class _Sides:
    """An engine that is enrolled, and one that is not."""

    def __init__(self, url: str, address: str) -> None:
        self._url = url
        self._client = connect(address, service="bench")
        self._rows = itertools.cycle(range(ROWS))
        self._lock = threading.Lock()

    def _next(self) -> int:
        with self._lock:
            return next(self._rows)


class _Threads(_Sides):
    @contextmanager
    def open(self) -> Iterator[Run]:
        plain, enrolled = (create_engine(self._url, pool_size=20) for _ in range(2))
        enroll(enrolled, self._client)

        def take(side: Side) -> None:
            with side.mode, (plain if side is Side.PLAIN else enrolled).begin() as connection:
                connection.execute(TAKE, {"of": self._next()})

        def work(side: Side, count: int) -> None:
            for _ in range(count):
                if side in (Side.AT, Side.XA):
                    with self._client.global_transaction():
                        take(side)
                else:
                    take(side)

        with self._client, ThreadPoolExecutor(16) as threads:
            assert self._client.wait_connected()

            def run(side: Side, total: int, clients: int) -> float:
                started = time.perf_counter()
                for future in [threads.submit(work, side, total // clients) for _ in range(clients)]:
                    future.result()
                return time.perf_counter() - started

            yield run
        plain.dispose()
        enrolled.dispose()


class _Tasks(_Sides):
    @contextmanager
    def open(self) -> Iterator[Run]:
        loop = asyncio.new_event_loop()
        plain, enrolled = (create_async_engine(self._url, pool_size=20) for _ in range(2))
        enroll(enrolled, self._client)

        async def take(side: Side) -> None:
            with side.mode:
                async with (plain if side is Side.PLAIN else enrolled).begin() as connection:
                    await connection.execute(TAKE, {"of": self._next()})

        async def work(side: Side, count: int) -> None:
            for _ in range(count):
                if side in (Side.AT, Side.XA):
                    async with self._client.global_transaction():
                        await take(side)
                else:
                    await take(side)

        async def everyone(side: Side, total: int, clients: int) -> float:
            started = time.perf_counter()
            await asyncio.gather(*(work(side, total // clients) for _ in range(clients)))
            return time.perf_counter() - started

        async def start() -> None:
            self._client.start()

        loop.run_until_complete(start())
        yield lambda side, total, clients: loop.run_until_complete(everyone(side, total, clients))
        loop.run_until_complete(self._client.aclose())
        for engine in (plain, enrolled):
            loop.run_until_complete(engine.dispose())
        loop.close()
