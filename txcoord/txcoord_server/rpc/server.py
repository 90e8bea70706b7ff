"""Builds the gRPC server: our services, health and reflection, limits, TLS.

Requests are parsed here and not by gRPC, whose answer to malformed bytes would be INTERNAL with a traceback: they are the
caller's mistake and are answered INVALID_ARGUMENT.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from txcoord_proto.errors import ConfigurationError, InvalidArgumentError, TxcoordError
from txcoord_proto.headers import AUTHORIZATION, SERVICE
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.v1 import operator_pb2 as op

from txcoord_server.engine.connection import Principal
from txcoord_server.engine.engine import Engine
from txcoord_server.engine.node import Node
from txcoord_server.rpc.auth import Authenticator
from txcoord_server.rpc.operator import SERVICE_NAME as OPERATOR
from txcoord_server.rpc.operator import OperatorService
from txcoord_server.rpc.service import SERVICE_NAME, CoordinatorService
from txcoord_server.rpc.session import MAX_MESSAGE_BYTES, internal
from txcoord_server.rpc.status import abort

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Engine, Principal], Awaitable[Message]]

OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),  # batches are bounded where they are made
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.so_reuseport", 0),
)


class Malformed:
    """Bytes that are no message."""


def _parser(kind: type[M]) -> Callable[[bytes], M | Malformed]:
    parse = kind.FromString

    def deserialize(data: bytes) -> M | Malformed:
        try:
            return parse(data)
        except DecodeError:
            return Malformed()

    return deserialize


def _checked(message: M | Malformed) -> M:
    if isinstance(message, Malformed):
        raise InvalidArgumentError("the request is not a valid message: generate the client from txcoord.v1's .proto files")
    return message


async def _stream(batches: AsyncIterator[pb.ClientBatch | Malformed]) -> AsyncIterator[pb.ClientBatch]:
    async for batch in batches:
        yield _checked(batch)


class Caller:
    """Finds out who makes a unary call, and refuses it where this node does not lead."""

    def __init__(self, node: Node, authenticator: Authenticator) -> None:
        self._node = node
        self._authenticator = authenticator

    def unary(self, kind: type[Message], method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler around `method`."""

        async def handle(request: Any, context: Context) -> Message:
            try:
                message = _checked(request)
                metadata = {str(k): v for k, v in context.invocation_metadata() or ()}
                token = str(metadata.get(AUTHORIZATION, "")).removeprefix("Bearer ")
                principal = self._authenticator.principal(token, str(metadata.get(SERVICE, "")))
                engine = self._node.require_engine()
                engine.look_at_clock()
                return await method(message, engine, principal)
            except TxcoordError as error:
                await abort(context, error)
            except Exception as defect:
                if (leading := self._node.engine) is not None:
                    leading.fail(defect)
                await abort(context, internal(defect))

        return grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=_parser(kind), response_serializer=lambda reply: reply.SerializeToString()
        )


def _coordinator(node: Node, authenticator: Authenticator, batch_cap: int) -> grpc.GenericRpcHandler:
    service = CoordinatorService(node, authenticator, batch_cap)
    caller = Caller(node, authenticator)

    async def session(batches: Any, context: Context) -> None:
        await service.session(_stream(batches), context)

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Session": grpc.stream_stream_rpc_method_handler(
            session,
            request_deserializer=_parser(pb.ClientBatch),
            response_serializer=pb.ServerBatch.SerializeToString,
        ),
        "Begin": caller.unary(pb.BeginRequest, service.begin),
        "Register": caller.unary(pb.RegisterRequest, service.register),
        "Report": caller.unary(pb.ReportRequest, service.report),
        "Commit": caller.unary(pb.CommitRequest, service.commit),
        "Rollback": caller.unary(pb.RollbackRequest, service.rollback),
        "SetRollbackOnly": caller.unary(pb.RollbackOnlyRequest, service.set_rollback_only),
        "Status": caller.unary(pb.StatusRequest, service.status),
        "QueryLocks": caller.unary(pb.LockQuery, service.query_locks),
        "Settled": caller.unary(pb.SettledQuery, service.settled),
        "AllocateBranchIds": caller.unary(pb.AllocateBranchIdsRequest, service.allocate_branch_ids),
    }
    return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)


def _operator(node: Node, authenticator: Authenticator, store: str) -> grpc.GenericRpcHandler:
    service = OperatorService(node.name, store)
    caller = Caller(node, authenticator)
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "List": caller.unary(op.ListRequest, service.list),
        "Show": caller.unary(pb.StatusRequest, service.show),
        "Retry": caller.unary(op.RetryRequest, service.retry),
        "Force": caller.unary(op.ForceRequest, service.force),
        "Locks": caller.unary(op.LocksRequest, service.locks),
        "Overview": caller.unary(op.OverviewRequest, service.overview),
    }
    return grpc.method_handlers_generic_handler(OPERATOR, handlers)


class Server:
    """The coordinator's gRPC server.

    Args:
        node: Whose engine answers.
        authenticator: Says who is calling.
        batch_cap: Messages in one batch on the stream; 0: any number.
        store: The store's URL without its password, for people.
    """

    def __init__(self, node: Node, authenticator: Authenticator, batch_cap: int, store: str) -> None:
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers(
            (_coordinator(node, authenticator, batch_cap), _operator(node, authenticator, store))
        )
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        names = (SERVICE_NAME, OPERATOR, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def listen(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Bind; returns the port.

        Args:
            address: `host:port`, port 0 for any.
            credentials: TLS; None: in the clear.

        Raises:
            ConfigurationError: It is taken, or no address of this machine, or the certificate and its key are not a pair.
        """
        try:
            if credentials is None:
                port = int(self._server.add_insecure_port(address))
            else:
                port = int(self._server.add_secure_port(address, credentials))
        except RuntimeError as error:
            port = 0
            log.debug("gRPC: %s", error)
        if not port:
            tls = "" if credentials is None else ", and is the key that of the certificate"
            raise ConfigurationError(
                f"cannot listen on {address}: is the port taken by another program, is it an address of this machine{tls}?"
            )
        return port

    async def start(self) -> None:
        """Take calls."""
        await self._server.start()

    async def serving(self, yes: bool) -> None:
        """Tell health checkers."""
        status = health_pb2.HealthCheckResponse.SERVING if yes else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE_NAME, OPERATOR):
            await self.health.set(service, status)

    async def stop(self, grace: float) -> None:
        """End: no new calls at once, running ones get `grace` seconds."""
        await self._server.stop(grace)
