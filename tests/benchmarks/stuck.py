"""What many unfinished transactions cost: memory, a restart, and second phases that were stuck."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from txcoord_sdk.testing import CoordinatorProcess
from txcoord_server.bench.load import Load

from tests.benchmarks.figure import Figure
from tests.benchmarks.participant import commanded, done, serving
from tests.benchmarks.sdk import with_the_fence
from tests.servers import Server

ACTIVE = 100_000
STUCK = 10_000


def resident(pid: int) -> float:
    """MiB of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def memory_and_restart(runs: int) -> list[Figure]:
    """100,000 active transactions with two branches and two locks of 20 characters: memory, then kill and start, some times."""
    with CoordinatorProcess() as coordinator:
        asyncio.run(Load(256, ACTIVE, decide=False).run(coordinator.address))
        memory = resident(coordinator.pid)
        print(f"{ACTIVE:,} active: {memory:.0f} MiB", flush=True)
        seconds = []
        for _ in range(runs):
            coordinator.kill()
            started = time.perf_counter()
            coordinator.start()
            seconds.append(time.perf_counter() - started)
            print(f"restart: {seconds[-1]:.2f} s", flush=True)
    return [
        Figure(f"MiB resident, {ACTIVE:,} active, one run", (memory,), 400, 250, more_is_better=False),
        Figure(f"s from start to serving, {ACTIVE:,} unfinished", tuple(seconds), 5, 1.5, more_is_better=False),
    ]


def recovery(runs: int, postgres: Server | None) -> list[Figure]:
    """Transactions stuck in their second phase, whose participant comes back: one without SQL, and one with the SDK's fence."""
    rates = []
    for _ in range(runs):
        with CoordinatorProcess() as coordinator:
            asyncio.run(Load(256, STUCK, serve=False).run(coordinator.address))
            seconds = asyncio.run(participate(coordinator.address, 2 * STUCK))
        rates.append(STUCK / seconds)
        print(f"recovery: {rates[-1]:,.0f}/s", flush=True)
    figures = [Figure(f"transactions/s, {STUCK:,} stuck, participant returns", tuple(rates), 5_000, 20_000)]
    return figures if postgres is None else [*figures, with_the_fence(postgres, runs)]


async def participate(address: str, branches: int) -> float:
    """Serve the resources and answer every command at once; returns the seconds until so many branches were answered."""
    started = time.perf_counter()
    async with serving(address) as stream:
        answered = 0
        while answered < branches:
            rows = await commanded(stream)
            answered += len(rows)
            await done(stream, rows)
    return time.perf_counter() - started
