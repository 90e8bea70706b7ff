"""The transport over grpc.aio: the only file of the SDK's core that imports gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from txcoord_proto.v1 import coordinator_pb2 as pb

from txcoord_sdk.config import Tls
from txcoord_sdk.session.transport import StreamBrokenError

_LAST_EVENTS = 0.02
"""Seconds in which gRPC's thread hands over what it still has for a stream that was cancelled; the loop must be there then."""
_METHOD = "/txcoord.v1.Coordinator/Session"
_OPTIONS = [
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


class GrpcStream:
    """See `Stream`."""

    def __init__(self, channel: grpc.aio.Channel, call: Any) -> None:
        self._channel = channel
        self._call = call

    async def write(self, batch: pb.ClientBatch) -> None:
        """See `Stream.write`."""
        try:
            await self._call.write(batch)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
            raise StreamBrokenError(str(error)) from error

    async def read(self) -> pb.ServerBatch:
        """See `Stream.read`."""
        try:
            batch = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise StreamBrokenError(f"{error.code().name}: {error.details()}") from error
        if batch is grpc.aio.EOF:
            raise StreamBrokenError("the coordinator ended the stream")
        assert isinstance(batch, pb.ServerBatch)
        return batch

    async def close(self) -> None:
        """See `Stream.close`."""
        self._call.cancel()
        await self._channel.close()
        await asyncio.sleep(_LAST_EVENTS)


class GrpcTransport:
    """Opens streams over grpc.aio, one channel each.

    Args:
        tls: TLS; None: in the clear.
    """

    def __init__(self, tls: Tls | None) -> None:
        self._tls = tls

    async def open(self, address: str) -> GrpcStream:
        """See `Transport.open`."""
        channel = self._channel(address)
        call = channel.stream_stream(
            _METHOD,
            request_serializer=pb.ClientBatch.SerializeToString,
            response_deserializer=pb.ServerBatch.FromString,
        )()
        return GrpcStream(channel, call)

    def _channel(self, address: str) -> grpc.aio.Channel:
        tls = self._tls
        if tls is None:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        credentials = grpc.ssl_channel_credentials(
            tls.ca.read_bytes() if tls.ca else None,
            tls.key.read_bytes() if tls.key else None,
            tls.certificate.read_bytes() if tls.certificate else None,
        )
        name = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else []
        return grpc.aio.secure_channel(address, credentials, options=[*_OPTIONS, *name])
