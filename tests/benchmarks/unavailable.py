"""A participant that is connected and cannot work: how often it is tried, and how fast all is done once it can."""

from __future__ import annotations

import asyncio
import time

import grpc
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess
from txcoord_server.bench.load import RESOURCES, Load

from tests.benchmarks.figure import Figure

STUCK = 10_000
SECONDS = 6
LIMIT = 100


def unavailable(runs: int) -> list[Figure]:
    """10,000 transactions are stuck; their participant answers UNAVAILABLE for a while, and then works."""
    most: list[float] = []
    last: list[float] = []
    for _ in range(runs):
        with CoordinatorProcess() as coordinator:
            asyncio.run(Load(256, STUCK, serve=False).run(coordinator.address))
            tries, seconds = asyncio.run(refuse_then_work(coordinator.address, 2 * STUCK))
        most.append(max(tries))
        last.append(seconds)
        print(f"unavailable: {max(tries)} tries/s at most, {seconds:.2f} s until all was done", flush=True)
    return [
        Figure(
            f"tries/s of a participant that is unavailable, {STUCK:,} stuck", tuple(most), LIMIT, LIMIT,
            more_is_better=False,
        ),
        Figure(f"s from its first success to the last of {STUCK:,} stuck", tuple(last), more_is_better=False),
    ]  # fmt: skip


async def refuse_then_work(address: str, branches: int) -> tuple[list[int], float]:
    """Serve the resources as a participant without its database would; then with it.

    Returns:
        Commands received in each second after the first (in it, what was under way before the first answer arrived), and the
        seconds from the first success to the last.
    """
    tries = [0] * SECONDS
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            "/txcoord.v1.Coordinator/Session",
            request_serializer=pb.ClientBatch.SerializeToString,
            response_deserializer=pb.ServerBatch.FromString,
        )()
        hello = pb.Hello(protocol_min=1, protocol_max=1, service="bench", instance="participant", resources=RESOURCES)
        await call.write(pb.ClientBatch(requests=[pb.Request(id=1, hello=hello)]))
        started = time.perf_counter()
        works, done = 0.0, 0
        while done < branches:
            batch = await call.read()
            told = [(command.xid, branch) for command in batch.commands for branch in command.branch_ids]
            second = int(time.perf_counter() - started)
            if not told:
                continue
            if second < SECONDS:
                tries[second] += len(told)
                await call.write(pb.ClientBatch(requests=[_refusal(*each) for each in told]))
                continue
            works = works or time.perf_counter()
            done += len(told)
            await call.write(pb.ClientBatch(done_xids=[xid for xid, _ in told], done_branches=[branch for _, branch in told]))
        return tries[1:], time.perf_counter() - works


def _refusal(xid: str, branch: int) -> pb.Request:
    answer = pb.AnswerRequest(xid=xid, branch_id=branch, result=pb.COMMAND_UNAVAILABLE, code="NO_DATABASE", error="refused")
    return pb.Request(id=2, answer=answer)
