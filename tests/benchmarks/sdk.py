"""The SDK's path: `@global_transaction` around two TCC branches, without SQL and with the fence, and confirms that were stuck."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from txcoord_sdk import Client, connect, tcc
from txcoord_sdk.schema import fence, prepare
from txcoord_sdk.testing import CoordinatorProcess
from txcoord_server.bench.load import Load

from tests.benchmarks.figure import Figure
from tests.servers import Server, fresh_database

CONCURRENT = 64
TRANSACTIONS = 6_000
FENCED = 500
STUCK = 500
ACTIONS = ("stock.reserve", "balance.debit")

Order = Callable[[int], Awaitable[None]]


class Confirmed:
    """How many confirms have run."""

    def __init__(self) -> None:
        self.count = 0


def through_the_sdk(runs: int, postgres: Server | None) -> list[Figure]:
    """Global transactions a second, from the decorator to the last confirm."""
    with CoordinatorProcess() as coordinator:
        rates = asyncio.run(_measure(coordinator.address, TRANSACTIONS, runs, None))
    figures = [Figure(f"transactions/s through the SDK, {CONCURRENT} concurrent", tuple(rates), 2_500, 5_000)]
    if postgres is not None:
        with fresh_database(postgres, "psycopg") as url, CoordinatorProcess() as coordinator:
            rates = asyncio.run(_measure(coordinator.address, FENCED, runs, url))
        figures.append(Figure("transactions/s through the SDK, fence on PostgreSQL", tuple(rates)))
    return figures


def with_the_fence(postgres: Server, runs: int) -> Figure:
    """Transactions a second that were stuck, once a participant with a fence is back: tried rows, confirms on its own pool."""
    rates = []
    for _ in range(runs):
        with fresh_database(postgres, "psycopg") as url, CoordinatorProcess() as coordinator:
            resources = _tried(coordinator, url)
            seconds = asyncio.run(_confirm_all(coordinator.address, url, resources))
        rates.append(STUCK / seconds)
        print(f"recovery with the fence: {rates[-1]:,.0f}/s", flush=True)
    return Figure(f"transactions/s, {STUCK:,} stuck, fence on PostgreSQL", tuple(rates))


def _tried(coordinator: CoordinatorProcess, url: str) -> tuple[str, str]:
    """Decided transactions at the coordinator, and the rows that their tries left in the participant's database."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        resources = tuple(f"bench:{action}@{prepare(connection)}" for action in ACTIONS)
    assert len(resources) == 2
    asyncio.run(Load(256, STUCK, serve=False, resources=resources).run(coordinator.address))
    store = sqlalchemy.create_engine(coordinator.store)
    with store.connect() as connection:
        branches = connection.execute(sqlalchemy.text("SELECT xid, id, resource FROM txc_branch")).all()
    store.dispose()
    with engine.begin() as connection:
        rows = [
            {"xid": xid, "branch_id": id, "resource": resource, "state": "TRIED", "created_at": 1, "changed_at": 1}
            for xid, id, resource in branches
        ]
        connection.execute(sqlalchemy.insert(fence), rows)
    engine.dispose()
    return resources


async def _confirm_all(address: str, url: str, resources: tuple[str, str]) -> float:
    async with _bound(address, url) as (client, confirmed, _):
        started = time.perf_counter()
        client.start()
        while confirmed.count < 2 * STUCK:
            await asyncio.sleep(0.001)
        return time.perf_counter() - started


@asynccontextmanager
async def _bound(address: str, url: str | None) -> AsyncIterator[tuple[Client, Confirmed, Order]]:
    """A client with two actions, on a database or without one, and a global transaction that calls both."""
    client, confirmed = connect(address, service="bench"), Confirmed()
    engine: AsyncEngine | None = None
    if url is not None:
        engine = create_async_engine(url)
        client.bind(engine)
    make = _action if url is None else _action_on_database
    reserve, debit = (make(name, client, confirmed) for name in ACTIONS)

    @client.global_transaction(timeout=30)
    async def order(number: int) -> None:
        await reserve(sku=f"A-{number}", quantity=2)  # type: ignore[operator]
        await debit(sku=f"B-{number}", quantity=100)  # type: ignore[operator]

    yield client, confirmed, order
    await client.aclose()
    if engine is not None:
        await engine.dispose()


def _action(name: str, client: Client, confirmed: Confirmed) -> object:
    @tcc(name, client=client)
    async def attempt(sku: str, quantity: int) -> None:
        """A try without effects."""

    @attempt.confirm
    async def _confirm(sku: str, quantity: int) -> None:
        confirmed.count += 1

    @attempt.cancel
    async def _cancel(sku: str, quantity: int) -> None:
        """Nothing was done."""

    return attempt


def _action_on_database(name: str, client: Client, confirmed: Confirmed) -> object:
    @tcc(name, client=client)
    async def attempt(connection: AsyncConnection, sku: str, quantity: int) -> None:
        """A try whose only effect is its fence row."""

    @attempt.confirm
    async def _confirm(connection: AsyncConnection, sku: str, quantity: int) -> None:
        confirmed.count += 1

    @attempt.cancel
    async def _cancel(connection: AsyncConnection, sku: str, quantity: int) -> None:
        """Nothing was done."""

    return attempt


async def _measure(address: str, total: int, runs: int, url: str | None) -> list[float]:
    async with _bound(address, url) as (client, confirmed, order), client:
        await _run(order, total // 6)
        rates = []
        for _ in range(runs):
            before = confirmed.count
            started = time.perf_counter()
            await _run(order, total)
            while confirmed.count - before < 2 * total:
                await asyncio.sleep(0.001)
            rates.append(total / (time.perf_counter() - started))
            print(f"SDK{' with the fence' if url else ''}: {rates[-1]:,.0f}/s", flush=True)
    return rates


async def _run(order: Order, total: int) -> None:
    numbers = iter(range(total))

    async def work() -> None:
        for number in numbers:
            await order(number)

    await asyncio.gather(*(work() for _ in range(CONCURRENT)))
