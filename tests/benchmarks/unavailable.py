"""A participant that is connected and cannot work: how often it is tried, and how fast all is done once it can."""

from __future__ import annotations

import asyncio
import time

from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess
from txcoord_server.bench.load import Load

from tests.benchmarks.figure import Figure
from tests.benchmarks.participant import commanded, done, serving

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
    started = time.perf_counter()
    async with serving(address) as stream:
        rows = await commanded(stream)
        while (second := int(time.perf_counter() - started)) < SECONDS:
            tries[second] += len(rows)
            await stream.write(pb.ClientBatch(requests=[_refusal(*row) for row in rows]))
            rows = await commanded(stream)
        works, settled = time.perf_counter(), len(rows)
        await done(stream, rows)
        while settled < branches:
            rows = await commanded(stream)
            settled += len(rows)
            await done(stream, rows)
    return tries[1:], time.perf_counter() - works


def _refusal(xid: str, branch: int) -> pb.Request:
    answer = pb.AnswerRequest(xid=xid, branch_id=branch, result=pb.COMMAND_UNAVAILABLE, code="NO_DATABASE", error="refused")
    return pb.Request(id=2, answer=answer)
