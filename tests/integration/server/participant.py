"""A participant that answers commands of the second phase as a test says, over the stream."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import grpc
from txcoord_proto.v1 import coordinator_pb2 as pb


class Participant:
    """A process that serves resources.

    Args:
        address: Of the coordinator.
        resources: What it serves.
        result: What it answers; may be changed.
        service: Its name.
        token: Its token.
        instance: Which start of it.
    """

    def __init__(
        self,
        address: str,
        *resources: str,
        result: pb.CommandResult = pb.COMMAND_DONE,
        service: str = "stock",
        token: str = "",
        instance: str = "stock@test",
    ) -> None:
        self.result = result
        self.silent = False
        self.code = "TEST"
        self.ended = False
        """Whether the coordinator has ended the session."""
        self.commanded: list[int] = []
        """Branch ids in the order of their commands."""
        self._out: queue.Queue[pb.ClientBatch | None] = queue.Queue()
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        hello = pb.Hello(protocol_min=1, protocol_max=1, service=service, instance=instance, token=token)
        hello.resources.extend(resources)
        self._out.put(pb.ClientBatch(requests=[pb.Request(id=1, hello=hello)]))
        method: Any = self._channel.stream_stream(
            "/txcoord.v1.Coordinator/Session",
            request_serializer=pb.ClientBatch.SerializeToString,
            response_deserializer=pb.ServerBatch.FromString,
        )
        self._call = method(iter(self._out.get, None))
        first: pb.ServerBatch = next(self._call)
        assert first.events[0].HasField("welcome"), first
        self._reader = threading.Thread(target=self._read, args=(first,), daemon=True)
        self._reader.start()

    def _read(self, first: pb.ServerBatch) -> None:
        numbers = itertools.count(2)
        try:
            for batch in itertools.chain((first,), self._call):
                for commands in batch.commands:
                    self._answer(commands, numbers)
        except grpc.RpcError:
            pass  # it was closed, or the coordinator is gone
        self.ended = True

    def _answer(self, commands: pb.Commands, numbers: Iterator[int]) -> None:
        self.commanded.extend(commands.branch_ids)
        if self.silent:
            return
        if self.result == pb.COMMAND_DONE:
            self._out.put(pb.ClientBatch(done_xids=commands.xids, done_branches=commands.branch_ids))
            return
        requests = [
            pb.Request(
                id=next(numbers),
                answer=pb.AnswerRequest(xid=xid, branch_id=id, result=self.result, code=self.code, error="as told"),
            )
            for xid, id in zip(commands.xids, commands.branch_ids)
        ]
        self._out.put(pb.ClientBatch(requests=requests))

    def __enter__(self) -> Participant:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._out.put(None)
        self._call.cancel()
        self._channel.close()
        self._reader.join(5)
