"""gRPC interceptors: calls carry the current global transaction, and handlers take part in their callers'; threads and asyncio.

channel = grpc.intercept_channel(grpc.insecure_channel(address), TransactionClientInterceptor())
channel = grpc.aio.insecure_channel(address, interceptors=aio_client_interceptors())
server = grpc.server(pool, interceptors=[TransactionServerInterceptor()])
server = grpc.aio.server(interceptors=[AioTransactionServerInterceptor()])
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

import grpc
from txcoord_proto import headers
from txcoord_proto.errors import ForeignXidError, NoTransactionError, TxcoordError

from txcoord_sdk.carriers.incoming import Admission, Trust
from txcoord_sdk.carriers.outgoing import OutgoingCall
from txcoord_sdk.client import Client
from txcoord_sdk.context import entered
from txcoord_sdk.transaction.transaction import GlobalTransaction

# What gRPC itself says where the answer did not come; of INTERNAL it cannot be told who said it.
_UNANSWERED = (
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
)
STREAMING = (
    "an operation that takes part in a global transaction answers once, after everything has ended: it cannot stream its answer; "
    "call it without a transaction, or give it a unary answer"
)


Behaviour: TypeAlias = Callable[[Any, Any], Any]
"""A handler's function: request or requests, and context."""


class CallDetails(NamedTuple):
    """Details of an outgoing call, with our metadata added."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: Any = None


def _with(details: Any, added: dict[str, str]) -> CallDetails:
    metadata = [*(details.metadata or ()), *added.items()]
    return CallDetails(
        details.method,
        details.timeout,
        metadata,
        details.credentials,
        details.wait_for_ready,
        getattr(details, "compression", None),
    )


def _what(details: Any) -> str:
    method: str | bytes = details.method
    return f"gRPC {method.decode() if isinstance(method, bytes) else method}"


# ---------------------------------------------------------------- client


class TransactionClientInterceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]  # gRPC has no types
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]  # gRPC has no types
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]  # gRPC has no types
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]  # gRPC has no types
):
    """For `grpc.intercept_channel`."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Send a call with the current transaction's XID; one that gets no answer makes commit impossible."""
        return self._send(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See `intercept_unary_unary`."""
        return self._send(continuation, client_call_details, request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """See `intercept_unary_unary`."""
        return self._send(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """See `intercept_unary_unary`."""
        return self._send(continuation, client_call_details, request_iterator)

    @staticmethod
    def _send(continuation: Any, details: Any, request: Any) -> Any:
        outgoing = OutgoingCall(_what(details))
        added = outgoing.headers()
        if not added:
            return continuation(details, request)
        try:
            call = continuation(_with(details, added), request)
        except BaseException as error:
            outgoing.unanswered(error)
            raise
        call.add_done_callback(lambda ended: _judge(outgoing, ended.code(), ended))
        return call


def _judge(outgoing: OutgoingCall, code: grpc.StatusCode, ended: Any) -> None:
    if code in _UNANSWERED:
        outgoing.unanswered(ConnectionError(f"{code.name}: {ended.details()}"))


async def _aio_send(continuation: Any, details: Any, request: Any) -> Any:
    """A call with one answer: it is judged before the caller hears of it."""
    outgoing = OutgoingCall(_what(details))
    added = await outgoing.aheaders()
    call = await continuation(_with(details, added) if added else details, request)
    if added:
        try:
            code = await call.code()
        except BaseException as error:
            call.cancel()
            outgoing.unanswered(error)
            raise
        if code in _UNANSWERED:
            outgoing.unanswered(ConnectionError(f"{code.name}: {await call.details()}"))
    return call


async def _aio_stream(continuation: Any, details: Any, request: Any) -> Any:
    outgoing = OutgoingCall(_what(details))
    added = await outgoing.aheaders()
    return await continuation(_with(details, added) if added else details, request)


class _AioUnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # gRPC has no types
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await _aio_send(continuation, client_call_details, request)


class _AioStreamUnary(grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]  # gRPC has no types
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await _aio_send(continuation, client_call_details, request_iterator)


class _AioUnaryStream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]  # gRPC has no types
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await _aio_stream(continuation, client_call_details, request)


class _AioStreamStream(grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]  # gRPC has no types
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await _aio_stream(continuation, client_call_details, request_iterator)


def aio_client_interceptors() -> list[grpc.aio.ClientInterceptor]:
    """For `grpc.aio.insecure_channel` and its like: gRPC wants an interceptor for each kind of method."""
    return [_AioUnaryUnary(), _AioStreamUnary(), _AioUnaryStream(), _AioStreamStream()]


# ---------------------------------------------------------------- server


class _Interceptor:
    """What both servers' interceptors share.

    Args:
        client: Of this service; None: the one that `connect` made last.
        trust: Whose XIDs are taken: networks, a function of the servicer context, or None: all.
        strangers: What happens to a call with an XID from anybody else: `refuse` (PERMISSION_DENIED) or `ignore` its XID.
        required: Refuse calls without an XID (FAILED_PRECONDITION).
    """

    def __init__(
        self,
        client: Client | None = None,
        *,
        trust: Trust = None,
        strangers: Literal["refuse", "ignore"] = "refuse",
        required: bool = False,
    ) -> None:
        self._admission = Admission(client, trust, strangers, required)

    def _transaction(self, context: Any) -> GlobalTransaction | None:
        metadata = [(str(key), value) for key, value in context.invocation_metadata() or ()]
        xids = [value for key, value in metadata if key == headers.XID]
        found = dict(reversed(metadata))
        timeout, isolation = found.get(headers.TIMEOUT, ""), found.get(headers.ISOLATION, "")
        return self._admission.transaction(xids, timeout, _address(context.peer()), context, isolation)

    def _around(self, function: Behaviour, streams: bool) -> Behaviour:
        """A handler that runs in a thread."""

        def handle(request: Any, context: Any) -> Any:
            try:
                transaction = self._transaction(context)
            except TxcoordError as error:
                context.abort(_status(error), f"{error.code}: {error.message}")
            if transaction is None:
                return function(request, context)
            if streams:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, STREAMING)
            try:
                with entered(transaction):
                    return function(request, context)
            finally:
                transaction.veto()

        return handle


def _address(peer: str) -> str:
    """The address in `ipv4:10.0.0.1:5000` or `ipv6:%5B::1%5D:5000`; empty for others."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""


def _status(error: TxcoordError) -> grpc.StatusCode:
    match error:
        case ForeignXidError():
            return grpc.StatusCode.PERMISSION_DENIED
        case NoTransactionError():
            return grpc.StatusCode.FAILED_PRECONDITION
        case _:
            return grpc.StatusCode.INVALID_ARGUMENT


class TransactionServerInterceptor(_Interceptor, grpc.ServerInterceptor):  # type: ignore[misc]  # gRPC has no types
    """For `grpc.server(interceptors=[...])`: handlers run in their callers' transactions."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wrap the handler of a call."""
        handler = continuation(handler_call_details)
        return None if handler is None else _wrapped(handler, self._around)


class AioTransactionServerInterceptor(_Interceptor, grpc.aio.ServerInterceptor):  # type: ignore[misc]  # gRPC has no types
    """For `grpc.aio.server(interceptors=[...])`: handlers run in their callers' transactions."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Wrap the handler of a call."""
        handler = await continuation(handler_call_details)
        return None if handler is None else _wrapped(handler, self._aio_around)

    def _aio_around(self, function: Behaviour, streams: bool) -> Behaviour:
        if inspect.isasyncgenfunction(function):
            return self._around_stream(function)
        if not inspect.iscoroutinefunction(function):
            return self._around(function, streams)  # gRPC runs it in a thread, with a context for threads

        async def handle(request: Any, context: Any) -> Any:
            transaction = await self._arriving(context, streams)
            if transaction is None:
                return await function(request, context)
            try:
                with entered(transaction):
                    return await function(request, context)
            finally:
                await transaction.aveto()

        return handle

    def _around_stream(self, function: Behaviour) -> Behaviour:
        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._arriving(context, streams=True)
            async for answer in function(request, context):
                yield answer

        return handle

    async def _arriving(self, context: Any, streams: bool) -> GlobalTransaction | None:
        try:
            transaction = self._transaction(context)
        except TxcoordError as error:
            await context.abort(_status(error), f"{error.code}: {error.message}")
            raise
        if streams and transaction is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, STREAMING)
        return transaction


_MAKERS: dict[tuple[bool, bool], tuple[str, Callable[..., Any]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def _wrapped(handler: Any, around: Callable[[Behaviour, bool], Behaviour]) -> Any:
    """A handler like `handler` whose function is wrapped."""
    kind, make = _MAKERS[handler.request_streaming, handler.response_streaming]
    function = around(getattr(handler, kind), handler.response_streaming)
    return make(function, handler.request_deserializer, handler.response_serializer)
