"""What many unfinished transactions cost: memory, a restart, and second phases that were stuck."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess
from txcoord_server.bench.load import RESOURCES, Load

from tests.benchmarks.figure import Figure
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
        Figure(f"MiB resident, {ACTIVE:,} active", (memory,), 400, 250, more_is_better=False),
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
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            "/txcoord.v1.Coordinator/Session",
            request_serializer=pb.ClientBatch.SerializeToString,
            response_deserializer=pb.ServerBatch.FromString,
        )()
        hello = pb.Hello(protocol_min=1, protocol_max=1, service="bench", instance="participant", resources=RESOURCES)
        started = time.perf_counter()
        await call.write(pb.ClientBatch(requests=[pb.Request(id=1, hello=hello)]))
        answered = 0
        while answered < branches:
            batch = await call.read()
            xids = [command.xid for command in batch.commands for _ in command.branch_ids]
            ids = [branch for command in batch.commands for branch in command.branch_ids]
            if xids:
                answered += len(xids)
                await call.write(pb.ClientBatch(done_xids=xids, done_branches=ids))
        return time.perf_counter() - started
