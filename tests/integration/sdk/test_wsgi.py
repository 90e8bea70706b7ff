"""Global transactions in WSGI applications, and in messages by hand."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import httpx
import pytest
from txcoord_proto.errors import NotActiveError, RolledBackError
from txcoord_proto.status import PhaseOne, Reason
from txcoord_proto.xid import Xid
from txcoord_sdk import Client, ClientConfig, acurrent_headers, current, current_headers, joined
from txcoord_sdk.carriers.httpx import TransactionTransport
from txcoord_sdk.carriers.wsgi import TransactionMiddleware
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.sdk.conftest import Ledger, atake_part, registration, take_part
from tests.integration.sdk.services import here


class Quiet(WSGIRequestHandler):
    """Says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class Server(WSGIServer):
    """One whose errors are the test's."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: the answer tells."""


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve a WSGI application; gives its URL."""
    server = make_server("127.0.0.1", 0, app, Server, Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class ClosingAnswer:
    """An answer whose end is where sessions are ended, as frameworks do it."""

    def __init__(self, parts: Iterable[bytes], close: Callable[[], None]) -> None:
        self._parts = iter(parts)
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return self._parts


class StockApplication:
    """A WSGI application, one operation a path."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.log: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        operation: Callable[[Any], Iterable[bytes]] = getattr(self, environ["PATH_INFO"].strip("/").replace("-", "_"))
        return operation(start_response)

    def reserve(self, start: Any) -> Iterable[bytes]:
        take_part(here(), self.ledger)
        return self._answer(start, here().known_xid)

    def xid(self, start: Any) -> Iterable[bytes]:
        transaction = current()
        return self._answer(start, transaction.known_xid if transaction is not None else "none")

    def closing(self, start: Any) -> Iterable[bytes]:
        branch_id = here().register(registration(self.ledger))

        def close() -> None:
            here().report(branch_id, PhaseOne.DONE)
            self.log.append("closed")

        return ClosingAnswer(self._answer(start, "fine"), close)

    def failing_close(self, start: Any) -> Iterable[bytes]:
        def close() -> None:
            raise RuntimeError("the COMMIT failed")

        return ClosingAnswer(self._answer(start, "fine"), close)

    def generator(self, start: Any) -> Iterable[bytes]:
        start("200 OK", [])
        return (str(n).encode() for n in range(3))

    def parts(self, start: Any) -> Iterable[bytes]:
        start("200 OK", [("Content-Length", "3")])
        return (str(n).encode() for n in range(3))

    def written(self, start: Any) -> Iterable[bytes]:
        start("200 OK", [("Content-Length", "5")])(b"old ")
        return [b"way"[:1]]

    def lost(self, start: Any) -> Iterable[bytes]:
        take_part(here(), self.ledger)
        here().set_rollback_only("a call got no answer")
        return self._answer(start, "carried on")

    @staticmethod
    def _answer(start: Any, text: str) -> Iterable[bytes]:
        start("200 OK", [("Content-Type", "text/plain")])
        return [text.encode()]


@pytest.fixture
def stock(coordinator: CoordinatorProcess) -> Iterator[tuple[str, StockApplication]]:
    """A running service and its application."""
    own, app = Client(ClientConfig("stock", (coordinator.address,))), StockApplication(Ledger("stock:wsgi@1"))
    own.serve(app.ledger.resource, app.ledger)
    with serving(TransactionMiddleware(app, own)) as url:
        yield url, app
    own.close()


def call(client: Client, url: str, function: Callable[[], None] = lambda: None) -> tuple[httpx.Response, str]:
    """A call within a transaction; gives the answer and the XID."""
    answers = []

    @client.global_transaction(timeout=20)
    def place() -> str:
        with httpx.Client(transport=TransactionTransport(), timeout=10) as http:
            answers.append(http.get(url))
        function()
        return here().xid()

    xid = place()
    return answers[0], xid


def test_the_called_service_takes_part(client: Client, stock: tuple[str, StockApplication]) -> None:
    url, app = stock
    answer, xid = call(client, f"{url}/reserve")
    assert answer.text == xid
    assert app.ledger.ends(xid) == [True]
    assert httpx.get(f"{url}/xid").text == "none"


def test_the_answer_waits_until_it_has_been_closed(client: Client, stock: tuple[str, StockApplication]) -> None:
    url, app = stock
    answer, xid = call(client, f"{url}/closing")
    assert (answer.text, app.log) == ("fine", ["closed"])
    assert app.ledger.ends(xid) == [True]
    answer, _ = call(client, f"{url}/failing-close")
    assert answer.status_code == 500


@pytest.mark.parametrize(("path", "text"), [("parts", "012"), ("written", "old w")])
def test_whole_answers_in_parts(client: Client, stock: tuple[str, StockApplication], path: str, text: str) -> None:
    answer, _ = call(client, f"{stock[0]}/{path}")
    assert (answer.status_code, answer.text) == (200, text)


def test_a_stream_is_refused_with_the_remedy_but_only_within_a_transaction(
    client: Client, stock: tuple[str, StockApplication]
) -> None:
    answer, _ = call(client, f"{stock[0]}/generator")
    assert answer.status_code == 500
    assert "cannot be streamed" in answer.json()["message"]
    assert httpx.get(f"{stock[0]}/generator").text == "012"


def test_a_participant_that_lost_a_call_vetoes_before_it_answers(client: Client, stock: tuple[str, StockApplication]) -> None:
    url, app = stock

    def too_late() -> None:
        with pytest.raises(NotActiveError):
            here().register(registration(app.ledger))

    with pytest.raises(RolledBackError) as caught:
        call(client, f"{url}/lost", too_late)
    assert caught.value.reason == Reason.ROLLBACK_ONLY


def test_nonsense_and_strangers(stock: tuple[str, StockApplication], coordinator: CoordinatorProcess) -> None:
    url, app = stock
    answer = httpx.get(f"{url}/xid", headers={"txcoord-xid": "nonsense"})
    assert (answer.status_code, answer.json()["code"]) == (400, "XID_MALFORMED")
    two = [("txcoord-xid", str(Xid("a", 1, 1))), ("txcoord-xid", str(Xid("a", 1, 2)))]
    assert httpx.get(f"{url}/xid", headers=two).status_code == 400
    strict = Client(ClientConfig("strict", (coordinator.address,)))
    with serving(TransactionMiddleware(app, strict, trust=["10.0.0.0/8"])) as url:
        answer = httpx.get(f"{url}/xid", headers={"txcoord-xid": str(Xid("a", 1, 1))})
        assert (answer.status_code, answer.json()["code"]) == (403, "FOREIGN_XID")
    strict.close()


# ---------------------------------------------------------------- by hand


def test_messages_carry_it_by_hand(client: Client, ledger: Ledger) -> None:
    messages: queue.Queue[dict[str, str]] = queue.Queue()
    handled = threading.Event()

    def consume() -> None:
        with joined(messages.get(timeout=5), client=client) as transaction:
            assert current() is transaction is not None
            take_part(transaction, ledger)
        assert current() is None
        handled.set()

    consumer = threading.Thread(target=consume)
    consumer.start()
    with client.global_transaction() as transaction:
        messages.put(current_headers())
        assert handled.wait(5)
    consumer.join()
    assert ledger.ends(transaction.known_xid) == [True]


async def test_so_they_do_in_coroutines_and_a_lost_call_is_vetoed(client: Client, ledger: Ledger) -> None:
    @client.global_transaction
    async def place() -> None:
        headers = await acurrent_headers()
        async with joined(headers, client=client) as inner:
            assert inner is not None
            await atake_part(inner, ledger)
            inner.set_rollback_only("a call got no answer")
        with pytest.raises(NotActiveError):
            await here().aregister(registration(ledger))

    with pytest.raises(RolledBackError) as caught:
        await place()
    assert caught.value.reason == Reason.ROLLBACK_ONLY
