"""AT transactions that want the same rows: how many commit, and how many do so in vain.

64 clients, three branches each; three writes of ten are on five hot rows. A transaction that is refused a row is rolled back and
tried again, as `retries` of `@global_transaction` has it; each attempt counts.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import ExitStack

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from txcoord_rm import enroll
from txcoord_sdk import LockConflictError, RolledBackError, connect
from txcoord_sdk.client import Client
from txcoord_sdk.testing import CoordinatorProcess

from tests.benchmarks.figure import Figure
from tests.benchmarks.stock import ROWS, TAKE, fill
from tests.servers import fresh_database, running

CLIENTS, BRANCHES, HOT_ROWS, HOT_SHARE = 64, 3, 5, 0.3
SECONDS = 8.0


def figures(runs: int) -> list[Figure]:
    """All of the suite."""
    committed, aborted = zip(*(_run(seed) for seed in range(runs)))
    name = f"{CLIENTS} clients, {BRANCHES} branches, {HOT_SHARE:.0%} of writes on {HOT_ROWS} rows"
    return [
        Figure(f"AT committed/s, {name}", committed, 83, None),
        Figure(f"AT aborts %, {name}", aborted, 15, 5, more_is_better=False),
    ]


def _run(seed: int) -> tuple[float, float]:
    """Committed transactions a second, and attempts that were rolled back of a hundred."""
    with ExitStack() as stack:
        server = stack.enter_context(running("postgres18"))
        url = stack.enter_context(fresh_database(server, "asyncpg"))
        coordinator = stack.enter_context(CoordinatorProcess())
        fill(create_engine(url.replace("+asyncpg", "+psycopg")))
        done, tried = asyncio.run(_crowd(url, coordinator.address, seed))
        print(f"contention: {done / SECONDS:,.0f} committed/s of {tried / SECONDS:,.0f} attempts/s", flush=True)
        return done / SECONDS, 100 * (tried - done) / tried


async def _crowd(url: str, address: str, seed: int) -> tuple[int, int]:
    engine = create_async_engine(url, pool_size=CLIENTS, max_overflow=0)
    async with connect(address, service="bench") as client:
        enroll(engine, client)
        until = time.monotonic() + SECONDS
        counts = await asyncio.gather(
            *(_customer(engine, client, random.Random(seed * CLIENTS + n), until) for n in range(CLIENTS))
        )
    await engine.dispose()
    return sum(done for done, _ in counts), sum(tried for _, tried in counts)


async def _customer(engine: AsyncEngine, client: Client, chance: random.Random, until: float) -> tuple[int, int]:
    done = tried = 0
    while time.monotonic() < until:
        rows = [
            chance.randrange(HOT_ROWS) if chance.random() < HOT_SHARE else chance.randrange(HOT_ROWS, ROWS)
            for _ in range(BRANCHES)
        ]
        tried += 1
        try:
            async with client.global_transaction(timeout=30.0):
                for row in rows:
                    async with engine.begin() as connection:
                        await connection.execute(TAKE, {"of": row})
        except (LockConflictError, RolledBackError):
            continue
        done += 1
    return done, tried
