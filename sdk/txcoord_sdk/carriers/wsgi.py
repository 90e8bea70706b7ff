"""WSGI middleware: requests take part in their callers' global transactions.

As with ASGI, the answer of such a request is held back until the application has returned and its answer has been closed, since
frameworks end sessions there. WSGI does not tell when a process starts: where a service does second phases, start its client in
the server's hook (gunicorn: `post_worker_init`), else it starts with the first request.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from txcoord_proto import headers
from txcoord_proto.errors import ConfigurationError, ForeignXidError, TxcoordError

from txcoord_sdk.carriers.asgi import MOST_HELD, STREAMING
from txcoord_sdk.carriers.incoming import Admission, Trust
from txcoord_sdk.client import Client
from txcoord_sdk.context import entered, traceparent
from txcoord_sdk.transaction.transaction import GlobalTransaction

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)


def _field(name: str) -> str:
    return "HTTP_" + name.upper().replace("-", "_")


_XID, _TIMEOUT, _TRACEPARENT = _field(headers.XID), _field(headers.TIMEOUT), _field(headers.TRACEPARENT)
_ISOLATION = _field(headers.ISOLATION)


class TransactionMiddleware:
    """`app.wsgi_app = TransactionMiddleware(app.wsgi_app)`: see the module.

    Args:
        app: The application.
        client: Of this service; None: the one that `connect` made last.
        trust: Whose XIDs are taken: networks, a function of the WSGI environment, or None: all.
        strangers: What happens to a request with an XID from anybody else: `refuse` (403) or `ignore` its XID.
        required: Refuse requests without an XID (400).
    """

    def __init__(
        self,
        app: WSGIApplication,
        client: Client | None = None,
        *,
        trust: Trust = None,
        strangers: Literal["refuse", "ignore"] = "refuse",
        required: bool = False,
    ) -> None:
        self._app = app
        self._admission = Admission(client, trust, strangers, required)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request."""
        if not self._admission.client.started:
            self._admission.client.start()
        token = traceparent.set(environ.get(_TRACEPARENT, ""))
        try:
            # Servers join repeated headers with commas, which no XID holds.
            xids = [xid.strip() for xid in environ[_XID].split(",")] if _XID in environ else []
            transaction = self._admission.transaction(
                xids, environ.get(_TIMEOUT, ""), environ.get("REMOTE_ADDR", ""), environ, environ.get(_ISOLATION, "")
            )
        except TxcoordError as error:
            status = "403 Forbidden" if isinstance(error, ForeignXidError) else "400 Bad Request"
            return _refuse(start_response, status, error)
        else:
            if transaction is None:
                return self._app(environ, start_response)
            return self._take_part(transaction, environ, start_response)
        finally:
            traceparent.reset(token)

    def _take_part(
        self, transaction: GlobalTransaction, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        held = HeldAnswer()
        try:
            with entered(transaction):
                held.take(self._app(environ, held.start))
        except StreamingError as error:
            log.error("%s %s: %s", environ["REQUEST_METHOD"], environ["PATH_INFO"], error, extra={"xid": transaction.known_xid})
            return _refuse(start_response, "500 Internal Server Error", error)
        finally:
            transaction.veto()
        start_response(*held.head)
        return held.body


class StreamingError(ConfigurationError):
    """The answer of a request that takes part in a transaction streams."""


class HeldAnswer:
    """What an application has answered, kept until it has ended."""

    def __init__(self) -> None:
        self.head: tuple[Any, ...] = ()
        """What `start_response` was given."""
        self.body: list[bytes] = []

    def start(self, status: str, fields: list[tuple[str, str]], exc_info: Any = None, /) -> Callable[[bytes], object]:
        """The application's `start_response`."""
        if self.head and exc_info is None:
            raise AssertionError("start_response was called twice")
        self.head = (status, fields)
        return self.body.append

    def take(self, answer: Iterable[bytes]) -> None:
        """Read the answer to its end and close it.

        Raises:
            StreamingError: It streams: nobody told its length.
        """
        try:
            size = 0
            for part in answer:
                self.body.append(part)
                size += len(part)
                if size > MOST_HELD or (len(self.body) > 1 and not self._is_whole(answer)):
                    raise StreamingError(STREAMING)
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()

    def _is_whole(self, answer: Iterable[bytes]) -> bool:
        if isinstance(answer, (list, tuple)) or getattr(answer, "streaming", None) is False:
            return True
        return any(name.lower() == "content-length" for name, _ in self.head[1])


def _refuse(start_response: StartResponse, status: str, error: TxcoordError) -> list[bytes]:
    body = json.dumps({"code": error.code, "message": error.message}).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
