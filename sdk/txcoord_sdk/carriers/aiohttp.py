"""aiohttp's client: a trace configuration that sends the current global transaction along.

http = aiohttp.ClientSession(trace_configs=[transaction_trace()])
"""

from __future__ import annotations

from types import SimpleNamespace

from txcoord_proto.errors import MissingExtraError

from txcoord_sdk.carriers.outgoing import OutgoingCall

try:
    import aiohttp
except ImportError as error:
    raise MissingExtraError.of("calling with aiohttp", "aiohttp") from error

# Either nothing was sent, so that nothing was done, or there is an answer.
_CERTAIN = (
    aiohttp.ClientConnectorError,
    aiohttp.InvalidURL,
    aiohttp.ClientResponseError,
    getattr(aiohttp, "ConnectionTimeoutError", aiohttp.ClientConnectorError),  # since 3.10
)


def transaction_trace() -> aiohttp.TraceConfig:
    """Calls carry the current transaction's XID; one that gets no answer makes commit impossible."""
    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(_start)
    trace.on_request_exception.append(_fail)
    return trace


async def _start(session: aiohttp.ClientSession, place: SimpleNamespace, call: aiohttp.TraceRequestStartParams) -> None:
    outgoing = OutgoingCall(f"{call.method} {call.url}")
    call.headers.update(await outgoing.aheaders())
    place.txcoord_call = outgoing


async def _fail(session: aiohttp.ClientSession, place: SimpleNamespace, call: aiohttp.TraceRequestExceptionParams) -> None:
    outgoing: OutgoingCall | None = getattr(place, "txcoord_call", None)
    if outgoing is not None and not isinstance(call.exception, _CERTAIN):
        outgoing.unanswered(call.exception)
