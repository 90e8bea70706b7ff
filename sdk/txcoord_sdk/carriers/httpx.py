"""httpx: transports that send the current global transaction along.

http = httpx.AsyncClient(transport=AsyncTransactionTransport())
"""

from __future__ import annotations

from txcoord_proto.errors import MissingExtraError

from txcoord_sdk.carriers.outgoing import OutgoingCall

try:
    import httpx
except ImportError as error:
    raise MissingExtraError.of("calling with httpx", "httpx") from error

# Nothing was sent, so nothing was done.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class TransactionTransport(httpx.BaseTransport):
    """For `httpx.Client(transport=...)`.

    Args:
        transport: What sends; None: httpx's own with its defaults.
    """

    def __init__(self, transport: httpx.BaseTransport | None = None) -> None:
        self._transport = transport or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` with the current transaction's XID; one that gets no answer makes commit impossible."""
        call = OutgoingCall(f"{request.method} {request.url}")
        request.headers.update(call.headers())
        try:
            return self._transport.handle_request(request)
        except _NEVER_SENT:
            raise
        except BaseException as error:
            call.unanswered(error)
            raise

    def close(self) -> None:
        """Close what sends."""
        self._transport.close()


class AsyncTransactionTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient(transport=...)`.

    Args:
        transport: What sends; None: httpx's own with its defaults.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._transport = transport or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` with the current transaction's XID; one that gets no answer makes commit impossible."""
        call = OutgoingCall(f"{request.method} {request.url}")
        request.headers.update(await call.aheaders())
        try:
            return await self._transport.handle_async_request(request)
        except _NEVER_SENT:
            raise
        except BaseException as error:
            call.unanswered(error)
            raise

    async def aclose(self) -> None:
        """Close what sends."""
        await self._transport.aclose()
