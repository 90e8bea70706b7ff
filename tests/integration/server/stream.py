"""A plain client of the stream, for tests that speak the wire themselves."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import grpc
from txcoord_proto.errors import from_wire
from txcoord_proto.v1 import coordinator_pb2 as pb

_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
METHOD = "/txcoord.v1.Coordinator/Session"


class Stream:
    """One stream; the test writes batches and takes those that come.

    Args:
        address: Of the coordinator.
        greet: Whether it sends a hello and takes the welcome.
        hello: Fields of the hello.
    """

    def __init__(self, address: str, greet: bool = True, **hello: Any) -> None:
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        method: Any = self._channel.stream_stream(METHOD, response_deserializer=pb.ServerBatch.FromString)
        self._call = method(iter(self._out.get, None))
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._kept: list[pb.ServerBatch] = []
        self.welcome = pb.Welcome()
        if greet:
            self.hello(**hello)
            first = self.read()
            self.welcome = _checked(first.events[0]).welcome
            del first.events[0]
            self._kept.append(first)  # commands may have come with it
            self.branch_ids = itertools.count(self.welcome.branch_ids.first)

    def hello(self, **fields: Any) -> None:
        """Send a hello."""
        told = {"protocol_min": 1, "protocol_max": 1, "service": "order", "instance": "test", **fields}
        self.send(hello=pb.Hello(**told))

    def send(self, id: int | None = None, **body: Any) -> int:
        """Send one request; returns its id."""
        number = next(self._ids) if id is None else id
        self.write(pb.ClientBatch(requests=[pb.Request(id=number, **body)]))
        return number

    def write(self, batch: pb.ClientBatch) -> None:
        """Send a batch."""
        self.raw(batch.SerializeToString())

    def raw(self, data: bytes) -> None:
        """Send any bytes."""
        self._out.put(data)

    def batches(self) -> Iterator[pb.ServerBatch]:
        """What comes; ends with the RpcError that ended the stream."""
        yield from self._call

    def read(self) -> pb.ServerBatch:
        """The next batch."""
        if self._kept:
            return self._kept.pop()
        batch: pb.ServerBatch = next(self._call)
        return batch

    def event(self) -> pb.Event:
        """The next event; a refusal of the request is raised."""
        while not (events := self.read().events):
            pass
        return _checked(events[0])

    def end(self) -> grpc.StatusCode:
        """The status with which the coordinator ended the stream."""
        try:
            for _ in self.batches():
                pass
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._out.put(None)
        self._call.cancel()
        self._channel.close()


def _checked(event: pb.Event) -> pb.Event:
    if event.HasField("error"):
        raise from_wire(event.error.code, event.error.message, dict(event.error.details))
    return event
