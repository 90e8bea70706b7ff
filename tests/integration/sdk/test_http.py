"""Global transactions over HTTP: every client library against a FastAPI service, and what the middleware holds and refuses."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests
from fastapi import FastAPI
from txcoord_proto.errors import NotActiveError, RolledBackError
from txcoord_proto.status import Reason
from txcoord_proto.xid import Xid
from txcoord_sdk import Client, ClientConfig, current
from txcoord_sdk.carriers.aiohttp import transaction_trace
from txcoord_sdk.carriers.asgi import TransactionMiddleware
from txcoord_sdk.carriers.httpx import AsyncTransactionTransport, TransactionTransport
from txcoord_sdk.carriers.requests import TransactionAdapter
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.sdk.conftest import Ledger, registration
from tests.integration.sdk.services import here, serving, stock_service
from tests.servers import free_port


@dataclass
class Stock:
    """A running service."""

    url: str
    client: Client
    ledger: Ledger
    log: list[str] = field(default_factory=list)


@pytest.fixture
def stock(coordinator: CoordinatorProcess) -> Iterator[Stock]:
    """The stock service with a client of its own, behind the middleware."""
    made = Stock("", Client(ClientConfig("stock", (coordinator.address,))), Ledger("stock:http@1"))
    app = stock_service(made.client, made.ledger, made.log)
    app.add_middleware(TransactionMiddleware, client=made.client)
    with serving(app) as made.url:
        yield made


# ---------------------------------------------------------------- callers


class Caller:
    """A client library: posts with a time-out, gives the status."""

    errors: tuple[type[Exception], ...]

    def post(self, url: str, timeout: float = 5.0) -> int:
        """Post nothing."""
        raise NotImplementedError


class HttpxCaller(Caller):
    """httpx, synchronous."""

    errors = (httpx.TransportError,)

    def post(self, url: str, timeout: float = 5.0) -> int:
        with httpx.Client(transport=TransactionTransport(), timeout=timeout) as http:
            return http.post(url).status_code


class AsyncHttpxCaller(Caller):
    """httpx, asynchronous."""

    errors = (httpx.TransportError,)

    def post(self, url: str, timeout: float = 5.0) -> int:
        async def call() -> int:
            async with httpx.AsyncClient(transport=AsyncTransactionTransport(), timeout=timeout) as http:
                return (await http.post(url)).status_code

        return asyncio.run(call())


class RequestsCaller(Caller):
    """requests."""

    errors = (requests.RequestException,)

    def post(self, url: str, timeout: float = 5.0) -> int:
        with requests.Session() as session:
            session.mount("http://", TransactionAdapter())
            return session.post(url, timeout=timeout).status_code


class AiohttpCaller(Caller):
    """aiohttp."""

    errors = (aiohttp.ClientError, TimeoutError)

    def post(self, url: str, timeout: float = 5.0) -> int:
        async def call() -> int:
            limit = aiohttp.ClientTimeout(total=timeout)
            async with (
                aiohttp.ClientSession(trace_configs=[transaction_trace()], timeout=limit) as http,
                http.post(url) as answer,
            ):
                return answer.status

        return asyncio.run(call())


@pytest.fixture(params=[HttpxCaller, AsyncHttpxCaller, RequestsCaller, AiohttpCaller], ids=lambda kind: kind.__name__)
def caller(request: pytest.FixtureRequest) -> Caller:
    """Each client library."""
    made: Caller = request.param()
    return made


def run(client: Client, function: Callable[[], Any]) -> str:
    """Run `function` in a global transaction; gives the XID."""

    @client.global_transaction(timeout=20)
    def place() -> str:
        function()
        return here().xid()

    return place()


def test_the_called_service_takes_part(client: Client, stock: Stock, caller: Caller) -> None:
    xid = run(client, lambda: [caller.post(f"{stock.url}/reservations?quantity=2"), caller.post(f"{stock.url}/threaded")])
    assert stock.ledger.ends(xid) == [True, True]
    assert caller.post(f"{stock.url}/reservations") == 422, "outside a transaction nothing is sent along"


def test_an_answer_that_says_no_may_be_caught_and_the_rest_commits(client: Client, stock: Stock, caller: Caller) -> None:
    def place() -> None:
        assert caller.post(f"{stock.url}/threaded") == 200
        assert caller.post(f"{stock.url}/refused") == 409
        assert caller.post(f"{stock.url}/failing-exit") == 500

    assert stock.ledger.ends(run(client, place)) == [True]


def test_a_call_without_an_answer_rolls_back_although_its_error_is_caught(client: Client, stock: Stock, caller: Caller) -> None:
    def place() -> None:
        with pytest.raises(caller.errors):
            caller.post(f"{stock.url}/slow", timeout=0.4)

    with pytest.raises(RolledBackError, match="got no answer") as caught:
        run(client, place)
    assert caught.value.reason == Reason.ROLLBACK_ONLY
    assert "/slow" in str(caught.value)


def test_a_call_that_never_reached_anybody_does_not(client: Client, stock: Stock, caller: Caller) -> None:
    def place() -> None:
        with pytest.raises(caller.errors):
            caller.post(f"http://127.0.0.1:{free_port()}/nobody")
        caller.post(f"{stock.url}/threaded")

    assert stock.ledger.ends(run(client, place)) == [True]


@pytest.mark.parametrize("library", ["httpx", "aiohttp"])
async def test_a_cancelled_call_rolls_back(client: Client, stock: Stock, library: str) -> None:
    async def call(url: str) -> None:
        if library == "httpx":
            async with httpx.AsyncClient(transport=AsyncTransactionTransport()) as http:
                await http.post(url)
        else:
            async with aiohttp.ClientSession(trace_configs=[transaction_trace()]) as session, session.post(url):
                pass

    @client.global_transaction
    async def place() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await call(f"{stock.url}/slow")

    with pytest.raises(RolledBackError, match="got no answer"):
        await place()


# ---------------------------------------------------------------- what the middleware does


def test_the_client_lives_as_long_as_the_application(client: Client, stock: Stock) -> None:
    assert stock.log == ["app starts, client False"]
    assert stock.client.started


def test_it_is_closed_before_the_application_ends(coordinator: CoordinatorProcess) -> None:
    own, log = Client(ClientConfig("stock", (coordinator.address,))), []  # type: ignore[var-annotated]
    app = stock_service(own, Ledger("stock:life@1"), log)
    for _ in range(2):
        with serving(TransactionMiddleware(app, own)):
            assert own.started
        assert not own.started
    assert log == ["app starts, client False", "app ends, client False"] * 2


def test_a_client_that_cannot_start_keeps_the_application_from_starting() -> None:
    script = "from gevent import monkey; monkey.patch_all(socket=False, select=False)\nimport uvicorn\n"
    script += "from fastapi import FastAPI\nfrom txcoord_sdk import connect\n"
    script += "from txcoord_sdk.carriers.asgi import TransactionMiddleware\n"
    script += "app = TransactionMiddleware(FastAPI(), connect(service='s'))\n"
    script += f"uvicorn.run(app, port={free_port()}, lifespan='on')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "txcoord does not run under gevent" in done.stderr
    assert done.returncode != 0


def post(client: Client, url: str, method: str = "POST") -> tuple[httpx.Response, str]:
    """A call within a transaction; gives the answer and the XID."""
    answers = []

    def call() -> None:
        with httpx.Client(transport=TransactionTransport(), timeout=10) as http:
            answers.append(http.request(method, url))

    xid = run(client, call)
    return answers[0], xid


def test_the_answer_waits_for_the_exits_of_dependencies(client: Client, stock: Stock) -> None:
    answer, xid = post(client, f"{stock.url}/exit")
    assert (answer.status_code, answer.json(), answer.headers["x-stamp"]) == (200, "fine", "1")
    assert stock.log[-2:] == ["answered", "exit done"]
    assert stock.ledger.ends(xid) == [True]


def test_an_exit_that_fails_is_a_500(client: Client, stock: Stock) -> None:
    answer, xid = post(client, f"{stock.url}/failing-exit")
    assert answer.status_code == 500
    assert stock.ledger.ends(xid) == []


def test_it_waits_for_background_tasks_too(client: Client, stock: Stock) -> None:
    answer, xid = post(client, f"{stock.url}/background")
    assert answer.status_code == 200
    assert stock.log[-1] == "background done"
    assert stock.ledger.ends(xid) == [True]


def test_a_stream_is_refused_with_the_remedy_but_only_within_a_transaction(client: Client, stock: Stock) -> None:
    answer, _ = post(client, f"{stock.url}/stream", "GET")
    assert answer.status_code == 500
    assert answer.json()["code"] == "CONFIGURATION"
    assert "cannot be streamed" in answer.json()["message"]
    assert httpx.get(f"{stock.url}/stream").text == "012"


def test_a_body_in_parts_whose_length_is_told_is_no_stream(client: Client, stock: Stock) -> None:
    answer, _ = post(client, f"{stock.url}/file", "GET")
    assert answer.content == (Path(__file__).parent / "services.py").read_bytes()


def test_a_participant_that_lost_a_call_vetoes_before_it_answers(client: Client, stock: Stock) -> None:
    def place() -> None:
        with httpx.Client(transport=TransactionTransport(), timeout=10) as http:
            answer = http.post(f"{stock.url}/onward", params={"url": f"{stock.url}/slow"})
        assert answer.json() == "carried on"
        with pytest.raises(NotActiveError):
            here().register(registration(stock.ledger))

    with pytest.raises(RolledBackError) as caught:
        run(client, place)
    assert caught.value.reason == Reason.ROLLBACK_ONLY


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([("txcoord-xid", "10.0.0.1:8091:7")], 400, "XID_MALFORMED"),
        ([("txcoord-xid", "")], 400, "XID_MALFORMED"),
        ([("txcoord-xid", "x" * 3000)], 400, "XID_MALFORMED"),
        ([("txcoord-xid", str(Xid("a", 1, 1))), ("Txcoord-Xid", str(Xid("a", 1, 2)))], 400, "XID_MALFORMED"),
    ],
)
def test_nonsense_is_refused_and_the_application_does_not_see_it(
    stock: Stock, headers: list[tuple[str, str]], status: int, code: str
) -> None:
    answer = httpx.get(f"{stock.url}/xid", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_strangers_are_refused_or_their_xid_is_ignored(client: Client, coordinator: CoordinatorProcess) -> None:
    own = Client(ClientConfig("stock", (coordinator.address,)))
    app = stock_service(own, Ledger("stock:strict@1"), [])
    signed: Callable[[Any], bool] = lambda scope: (b"x-signed", b"yes") in scope["headers"]  # noqa: E731
    xid = {"txcoord-xid": str(Xid("default", 1, 1))}
    with serving(TransactionMiddleware(app, own, trust=["10.0.0.0/8"])) as url:
        answer = httpx.get(f"{url}/xid", headers=xid)
        assert (answer.status_code, answer.json()["code"]) == (403, "FOREIGN_XID")
        assert httpx.get(f"{url}/xid").json() == "none"
    with serving(TransactionMiddleware(app, own, trust=signed, strangers="ignore")) as url:
        assert httpx.get(f"{url}/xid", headers=xid).json() == "none"
        assert httpx.get(f"{url}/xid", headers={**xid, "x-signed": "yes"}).json() == xid["txcoord-xid"]
    with serving(TransactionMiddleware(app, own, required=True)) as url:
        assert httpx.get(f"{url}/xid").json()["code"] == "NO_TRANSACTION"


def test_the_callers_trace_is_told_to_the_coordinator(client: Client, coordinator: CoordinatorProcess) -> None:
    app = FastAPI()
    app.add_middleware(TransactionMiddleware, client=client)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    @app.post("/orders")
    @client.global_transaction(key="traced:1")
    async def order() -> str:
        transaction = current()
        assert transaction is not None
        return await transaction.axid()

    with serving(app) as url:
        xid = httpx.post(f"{url}/orders", headers={"traceparent": trace}).json()
        assert client.status(xid).traceparent == trace


async def test_a_websocket_cannot_take_part(stock: Stock) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(f"{stock.url}/ws", headers={"txcoord-xid": str(Xid("a", 1, 1))})
