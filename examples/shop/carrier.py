"""Carries the XID from service to service in the header `txcoord-xid`."""

from __future__ import annotations

import httpx
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from txcoord_sdk import Client, current
from txcoord_sdk.context import enter, leave

HEADER = "txcoord-xid"


class XidMiddleware:
    """Serves a request that carries an XID within that global transaction.

    The answer is held back until the application has returned, since FastAPI ends dependencies, and with them sessions, after the
    answer: one whose session could not be committed becomes a 500.

    Args:
        app: What it serves.
        client: The service's client.
    """

    def __init__(self, app: ASGIApp, client: Client) -> None:
        self._app = app
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        xid = Headers(scope=scope).get(HEADER) if scope["type"] == "http" else None
        if xid is None:
            await self._app(scope, receive, send)
            return
        answer: list[Message] = []

        async def hold(message: Message) -> None:
            answer.append(message)

        token = enter(self._client.joined_transaction(xid))
        try:
            await self._app(scope, receive, hold)
        finally:
            leave(token)
        for message in answer:
            await send(message)


async def send_xid(request: httpx.Request) -> None:
    """A request hook of httpx: tell the called service which global transaction it is part of."""
    transaction = current()
    if transaction is not None:
        request.headers[HEADER] = await transaction.axid()
