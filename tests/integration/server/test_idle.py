"""A stream on which nothing happens stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess

# More than a second apart, which the coordinator allows; by gRPC's own rule of five minutes the third would end the stream.
_OPTIONS = (
    ("grpc.keepalive_time_ms", 1_100),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


def test_keeping_alive_is_no_offence(txcoord_coordinator: CoordinatorProcess) -> None:
    with grpc.insecure_channel(txcoord_coordinator.address, options=_OPTIONS) as channel:
        open_session = channel.stream_stream(
            "/txcoord.v1.Coordinator/Session",
            request_serializer=pb.ClientBatch.SerializeToString,
            response_deserializer=pb.ServerBatch.FromString,
        )
        idle = threading.Event()

        def hello() -> Iterator[pb.ClientBatch]:
            yield pb.ClientBatch(requests=[pb.Request(id=1, hello=pb.Hello(protocol_min=1, protocol_max=1, service="s"))])
            idle.wait(6)

        answers = [event.WhichOneof("body") for batch in open_session(hello()) for event in batch.events]
        assert answers == ["welcome"], "and the end came from this side, not as an error"
