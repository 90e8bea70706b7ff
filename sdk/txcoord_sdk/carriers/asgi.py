"""ASGI middleware: requests take part in their callers' global transactions; the client lives as long as the application.

The answer of such a request is held back until the application has returned. FastAPI runs the exits of dependencies, in which
sessions are commonly flushed and committed, after the response: an answer that has left can no longer say that they failed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal, TypeAlias

from txcoord_proto import headers
from txcoord_proto.errors import ConfigurationError, ForeignXidError, TxcoordError

from txcoord_sdk.carriers.incoming import Admission, Trust
from txcoord_sdk.client import Client
from txcoord_sdk.context import entered, traceparent
from txcoord_sdk.transaction.transaction import GlobalTransaction

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

MOST_HELD = 16 << 20
_XID, _TIMEOUT, _TRACEPARENT = headers.XID.encode(), headers.TIMEOUT.encode(), headers.TRACEPARENT.encode()
_ISOLATION = headers.ISOLATION.encode()

STREAMING = (
    "the answer to a request that takes part in a global transaction is held back until everything has ended, so it cannot be "
    "streamed: answer with a whole body, or stream from an operation that is called without a transaction"
)


class TransactionMiddleware:
    """`app.add_middleware(TransactionMiddleware)`: see the module. It also starts the client when the application starts.

    Args:
        app: The application.
        client: Of this service; None: the one that `connect` made last.
        trust: Whose XIDs are taken: networks, a function of the ASGI scope, or None: all.
        strangers: What happens to a request with an XID from anybody else: `refuse` (403) or `ignore` its XID.
        required: Refuse requests without an XID (400).
    """

    def __init__(
        self,
        app: Application,
        client: Client | None = None,
        *,
        trust: Trust = None,
        strangers: Literal["refuse", "ignore"] = "refuse",
        required: bool = False,
    ) -> None:
        self._app = app
        self._admission = Admission(client, trust, strangers, required)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a connection, or the application's life."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "websocket" and _values(scope, _XID):
            await send({"type": "websocket.close", "code": 1008, "reason": "a websocket cannot take part in a transaction"})
        else:
            await self._app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start the client after the application's own start, and close it before the application's own end."""

        async def receive_and_close() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._admission.client.aclose()
            return message

        async def start_and_send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._admission.client.start()
            await send(message)

        await self._app(scope, receive_and_close, start_and_send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = scope.get("client")
        caller_trace = _values(scope, _TRACEPARENT)
        token = traceparent.set(caller_trace[0] if len(caller_trace) == 1 else "")
        try:
            timeout, isolation = (next(iter(_values(scope, name)), "") for name in (_TIMEOUT, _ISOLATION))
            transaction = self._admission.transaction(_values(scope, _XID), timeout, peer[0] if peer else "", scope, isolation)
        except TxcoordError as error:
            await _refuse(send, 403 if isinstance(error, ForeignXidError) else 400, error)
            return
        else:
            if transaction is None:
                await self._app(scope, receive, send)
            else:
                await self._take_part(transaction, scope, receive, send)
        finally:
            traceparent.reset(token)

    async def _take_part(self, transaction: GlobalTransaction, scope: Scope, receive: Receive, send: Send) -> None:
        held = HeldAnswer()
        try:
            with entered(transaction):
                await self._app(scope, receive, held.send)
        except Exception:
            if held.refusal is None:
                raise  # the server, or the framework around this, answers 500
        finally:
            await transaction.aveto()
        if held.refusal is not None:
            log.error("%s %s: %s", scope["method"], scope["path"], held.refusal, extra={"xid": transaction.known_xid})
            await _refuse(send, 500, held.refusal)
            return
        for message in held.messages:
            await send(message)


class HeldAnswer:
    """What an application has sent, kept until it has returned."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.refusal: ConfigurationError | None = None
        """Set when it is a stream."""
        self._has_length = False
        self._size = 0

    async def send(self, message: Message) -> None:
        """The application's `send`.

        Raises:
            ConfigurationError: It streams. A body in parts is none if its length was told: middleware cuts whole bodies up, too.
        """
        if message["type"] == "http.response.start":
            self._has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self._size += len(message.get("body", b""))
            if (message.get("more_body") and not self._has_length) or self._size > MOST_HELD:
                self.refusal = ConfigurationError(STREAMING)
                raise self.refusal
        self.messages.append(message)


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


async def _refuse(send: Send, status: int, error: TxcoordError) -> None:
    body = json.dumps({"code": error.code, "message": error.message}).encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
