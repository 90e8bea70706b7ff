"""requests: an adapter that sends the current global transaction along.

session.mount("http://", TransactionAdapter())
"""

from __future__ import annotations

from typing import Any

from txcoord_proto.errors import MissingExtraError

from txcoord_sdk.carriers.outgoing import OutgoingCall

try:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.exceptions import MaxRetryError, NewConnectionError
except ImportError as error:
    raise MissingExtraError.of("calling with requests", "requests") from error


class TransactionAdapter(HTTPAdapter):
    """Takes what `HTTPAdapter` takes; see the module."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send `request` with the current transaction's XID; one that gets no answer makes commit impossible."""
        call = OutgoingCall(f"{request.method} {request.url}")
        request.headers.update(call.headers())
        try:
            return super().send(request, *args, **kwargs)
        except BaseException as error:
            if not _never_sent(error):
                call.unanswered(error)
            raise


def _never_sent(error: BaseException) -> bool:
    """Whether no connection came about, so that nothing was sent and nothing was done."""
    if isinstance(error, requests.ConnectTimeout):
        return True
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    return isinstance(error, requests.ConnectionError) and isinstance(reason, NewConnectionError)
