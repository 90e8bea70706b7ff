"""Carries the XID from service to service in the header `txcoord-xid`."""

from __future__ import annotations

import httpx
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from txcoord_sdk import Client, current
from txcoord_sdk.context import enter, leave

HEADER = "txcoord-xid"


class XidMiddleware:
    """Serves a request that carries an XID within that global transaction.

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
        token = enter(self._client.joined_transaction(xid))
        try:
            await self._app(scope, receive, send)
        finally:
            leave(token)


async def send_xid(request: httpx.Request) -> None:
    """A request hook of httpx: tell the called service which global transaction it is part of."""
    transaction = current()
    if transaction is not None:
        request.headers[HEADER] = await transaction.axid()
