"""A process that does second phases, as cheaply as can be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_server.bench.load import RESOURCES

Stream: TypeAlias = "grpc.aio.StreamStreamCall[pb.ClientBatch, pb.ServerBatch]"
Row: TypeAlias = tuple[str, int]
"""A branch: its transaction and its id."""


@asynccontextmanager
async def serving(address: str) -> AsyncIterator[Stream]:
    """A stream that serves the load's resources."""
    async with grpc.aio.insecure_channel(address) as channel:
        call: Stream = channel.stream_stream(
            "/txcoord.v1.Coordinator/Session",
            request_serializer=pb.ClientBatch.SerializeToString,
            response_deserializer=pb.ServerBatch.FromString,
        )()
        hello = pb.Hello(protocol_min=1, protocol_max=1, service="bench", instance="participant", resources=RESOURCES)
        await call.write(pb.ClientBatch(requests=[pb.Request(id=1, hello=hello)]))
        yield call


async def commanded(stream: Stream) -> list[Row]:
    """The branches in the next batch that has some."""
    while True:
        batch = await stream.read()
        assert isinstance(batch, pb.ServerBatch), "the coordinator closed the stream"
        if batch.commands:
            return [row for commands in batch.commands for row in zip(commands.xids, commands.branch_ids)]


async def done(stream: Stream, rows: list[Row]) -> None:
    """Their second phases are done."""
    await stream.write(pb.ClientBatch(done_xids=[xid for xid, _ in rows], done_branches=[branch for _, branch in rows]))
