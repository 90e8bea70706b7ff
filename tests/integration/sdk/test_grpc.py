"""Global transactions over gRPC: both clients against both servers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from txcoord_proto.errors import NotActiveError, RolledBackError
from txcoord_proto.status import PhaseOne, Reason
from txcoord_sdk import Client, ClientConfig, current
from txcoord_sdk.carriers.grpc import (
    AioTransactionServerInterceptor,
    TransactionClientInterceptor,
    TransactionServerInterceptor,
    aio_client_interceptors,
)
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.sdk.conftest import Ledger, atake_part, registration, take_part
from tests.integration.sdk.services import here
from tests.servers import free_port

SERVICE = "stock.Stock"


def known() -> bytes:
    """The XID of the transaction that the handler runs in."""
    transaction = current()
    return transaction.known_xid.encode() if transaction is not None else b"none"


class Handlers:
    """Of a server with threads. Messages are bytes."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def reserve(self, request: bytes, context: Any) -> bytes:
        take_part(here(), self.ledger)
        return known()

    def refuse(self, request: bytes, context: Any) -> bytes:
        take_part(here(), self.ledger, PhaseOne.FAILED)
        return bytes(context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "out of stock"))

    def slow(self, request: bytes, context: Any) -> bytes:
        take_part(here(), self.ledger)
        time.sleep(1.0)
        return b""

    def lost(self, request: bytes, context: Any) -> bytes:
        take_part(here(), self.ledger)
        here().set_rollback_only("a call got no answer")
        return b"carried on"

    def xid(self, request: bytes, context: Any) -> bytes:
        return known()

    def many(self, requests: Iterator[bytes], context: Any) -> bytes:
        for _ in requests:
            take_part(here(), self.ledger)
        return known()

    def stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield from (b"1", b"2")


class AioHandlers(Handlers):
    """Of a server with an event loop; one of them stays as it is, for threads."""

    async def reserve(self, request: bytes, context: Any) -> bytes:  # type: ignore[override]
        await atake_part(here(), self.ledger)
        return known()

    async def refuse(self, request: bytes, context: Any) -> bytes:  # type: ignore[override]
        await atake_part(here(), self.ledger, PhaseOne.FAILED)
        return bytes(await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "out of stock"))

    async def slow(self, request: bytes, context: Any) -> bytes:  # type: ignore[override]
        await atake_part(here(), self.ledger)
        await asyncio.sleep(1.0)
        return b""

    async def xid(self, request: bytes, context: Any) -> bytes:  # type: ignore[override]
        return known()

    async def many(self, requests: AsyncIterator[bytes], context: Any) -> bytes:  # type: ignore[override]
        async for _ in requests:
            await atake_part(here(), self.ledger)
        return known()

    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:  # type: ignore[override]
        yield b"1"
        yield b"2"


def generic(handlers: Handlers) -> Any:
    """The handlers of the service."""
    unary = ("reserve", "refuse", "slow", "lost", "xid")
    methods = {name: grpc.unary_unary_rpc_method_handler(getattr(handlers, name)) for name in unary}
    methods["many"] = grpc.stream_unary_rpc_method_handler(handlers.many)
    methods["stream"] = grpc.unary_stream_rpc_method_handler(handlers.stream)
    return grpc.method_handlers_generic_handler(SERVICE, methods)


@contextmanager
def threaded_server(client: Client, ledger: Ledger, **options: Any) -> Iterator[str]:
    """A server with threads; gives its address."""
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[TransactionServerInterceptor(client, **options)])
    server.add_generic_rpc_handlers([generic(Handlers(ledger))])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@contextmanager
def loop_server(client: Client, ledger: Ledger, **options: Any) -> Iterator[str]:
    """A server with an event loop of its own, in a thread; gives its address."""
    loop, started, ports = asyncio.new_event_loop(), threading.Event(), []

    async def serve() -> None:
        server = grpc.aio.server(ThreadPoolExecutor(2), interceptors=[AioTransactionServerInterceptor(client, **options)])
        server.add_generic_rpc_handlers([generic(AioHandlers(ledger))])
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        started.set()
        await stopped.wait()
        await server.stop(0)

    stopped = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(5)
    try:
        yield f"127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


Serving = Callable[..., Any]


@pytest.fixture(params=[threaded_server, loop_server], ids=lambda kind: kind.__name__)
def serving(request: pytest.FixtureRequest) -> Serving:
    """Each kind of server."""
    kind: Serving = request.param
    return kind


@pytest.fixture
def stock(coordinator: CoordinatorProcess, serving: Serving) -> Iterator[tuple[str, Ledger]]:
    """A running service and its participant."""
    ledger = Ledger("stock:grpc@1")
    with Client(ClientConfig("stock", (coordinator.address,))) as own:
        own.serve(ledger.resource, ledger)
        with serving(own, ledger) as address:
            yield address, ledger


class BlockingCaller:
    """The client with threads."""

    def call(self, address: str, method: str, timeout: float = 5.0, **options: Any) -> bytes:
        """One request, one answer."""
        with grpc.insecure_channel(address) as channel:
            stub = grpc.intercept_channel(channel, TransactionClientInterceptor()).unary_unary(f"/{SERVICE}/{method}")
            return bytes(stub(b"", timeout=timeout, **options))

    def many(self, address: str) -> bytes:
        """Three requests, one answer."""
        with grpc.insecure_channel(address) as channel:
            stub = grpc.intercept_channel(channel, TransactionClientInterceptor()).stream_unary(f"/{SERVICE}/many")
            return bytes(stub(iter([b"1", b"2", b"3"]), timeout=5))

    def stream(self, address: str) -> list[bytes]:
        """One request, two answers."""
        with grpc.insecure_channel(address) as channel:
            stub = grpc.intercept_channel(channel, TransactionClientInterceptor()).unary_stream(f"/{SERVICE}/stream")
            return list(stub(b"", timeout=5))


class AioCaller:
    """The client with an event loop."""

    def call(self, address: str, method: str, timeout: float = 5.0, **options: Any) -> bytes:
        """One request, one answer."""

        async def call() -> bytes:
            async with grpc.aio.insecure_channel(address, interceptors=aio_client_interceptors()) as channel:
                return bytes(await channel.unary_unary(f"/{SERVICE}/{method}")(b"", timeout=timeout, **options))

        return asyncio.run(call())

    def many(self, address: str) -> bytes:
        """Three requests, one answer."""

        async def requests() -> AsyncIterator[bytes]:
            for number in (b"1", b"2", b"3"):
                yield number

        async def call() -> bytes:
            async with grpc.aio.insecure_channel(address, interceptors=aio_client_interceptors()) as channel:
                return bytes(await channel.stream_unary(f"/{SERVICE}/many")(requests(), timeout=5))

        return asyncio.run(call())

    def stream(self, address: str) -> list[bytes]:
        """One request, two answers."""

        async def call() -> list[bytes]:
            async with grpc.aio.insecure_channel(address, interceptors=aio_client_interceptors()) as channel:
                return [part async for part in channel.unary_stream(f"/{SERVICE}/stream")(b"", timeout=5)]

        return asyncio.run(call())


Caller = BlockingCaller | AioCaller


@pytest.fixture(params=[BlockingCaller, AioCaller], ids=lambda kind: kind.__name__)
def caller(request: pytest.FixtureRequest) -> Caller:
    """Each kind of client."""
    made: Caller = request.param()
    return made


def run(client: Client, function: Callable[[], Any]) -> str:
    """Run `function` in a global transaction; gives the XID."""

    @client.global_transaction(timeout=20)
    def place() -> str:
        function()
        return here().xid()

    return place()


def test_the_called_service_takes_part(client: Client, stock: tuple[str, Ledger], caller: Caller) -> None:
    address, ledger = stock
    answers: list[bytes] = []
    xid = run(client, lambda: answers.extend([caller.call(address, "reserve"), caller.many(address)]))
    assert answers == [xid.encode()] * 2
    assert ledger.ends(xid) == [True] * 4
    assert caller.call(address, "xid") == b"none"


def test_an_answer_that_says_no_may_be_caught_and_the_rest_commits(
    client: Client, stock: tuple[str, Ledger], caller: Caller
) -> None:
    address, ledger = stock

    def place() -> None:
        caller.call(address, "reserve")
        with pytest.raises(grpc.RpcError, match="out of stock"):
            caller.call(address, "refuse")

    assert ledger.ends(run(client, place)) == [True]


def test_a_call_without_an_answer_rolls_back_although_its_error_is_caught(
    client: Client, stock: tuple[str, Ledger], caller: Caller
) -> None:
    address, _ = stock

    def place() -> None:
        with pytest.raises(grpc.RpcError):
            caller.call(address, "slow", timeout=0.3)

    with pytest.raises(RolledBackError, match="DEADLINE_EXCEEDED") as caught:
        run(client, place)
    assert caught.value.reason == Reason.ROLLBACK_ONLY


async def test_so_does_a_cancelled_one(client: Client, stock: tuple[str, Ledger]) -> None:
    address, _ = stock

    @client.global_transaction
    async def place() -> None:
        async with grpc.aio.insecure_channel(address, interceptors=aio_client_interceptors()) as channel:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await channel.unary_unary(f"/{SERVICE}/slow")(b"")

    with pytest.raises(RolledBackError, match="got no answer"):
        await place()


def test_a_participant_that_lost_a_call_vetoes_before_it_answers(
    client: Client, stock: tuple[str, Ledger], caller: Caller
) -> None:
    address, ledger = stock

    def place() -> None:
        assert caller.call(address, "lost") == b"carried on"
        with pytest.raises(NotActiveError):
            here().register(registration(ledger))

    with pytest.raises(RolledBackError) as caught:
        run(client, place)
    assert caught.value.reason == Reason.ROLLBACK_ONLY


def test_a_streamed_answer_is_refused_but_only_within_a_transaction(
    client: Client, stock: tuple[str, Ledger], caller: Caller
) -> None:
    address, _ = stock

    def place() -> None:
        with pytest.raises(grpc.RpcError, match="cannot stream its answer"):
            caller.stream(address)

    run(client, place)
    assert caller.stream(address) == [b"1", b"2"]


def test_nonsense_and_strangers(coordinator: CoordinatorProcess, serving: Serving, caller: Caller) -> None:
    own = Client(ClientConfig("stock", (coordinator.address,)))
    nonsense, xid = (("txcoord-xid", "nonsense"),), (("txcoord-xid", "default.1.1"),)
    with serving(own, Ledger()) as address:
        with pytest.raises(grpc.RpcError, match="XID_MALFORMED"):
            caller.call(address, "xid", metadata=nonsense)
        assert caller.call(address, "xid", metadata=xid) == b"default.1.1"
    with serving(own, Ledger(), trust=["10.0.0.0/8"]) as address, pytest.raises(grpc.RpcError, match="FOREIGN_XID"):
        caller.call(address, "xid", metadata=xid)
    with serving(own, Ledger(), trust=["10.0.0.0/8"], strangers="ignore", required=False) as address:
        assert caller.call(address, "xid", metadata=xid) == b"none"
    with serving(own, Ledger(), trust="127.0.0.1", required=True) as address:
        assert caller.call(address, "xid", metadata=xid) == b"default.1.1"
        with pytest.raises(grpc.RpcError, match="NO_TRANSACTION"):
            caller.call(address, "xid")


def test_a_call_to_nobody(client: Client, caller: Caller) -> None:
    """Whether it was sent cannot be told from gRPC's error, so it counts as one that was."""

    def place() -> None:
        with pytest.raises(grpc.RpcError):
            caller.call(f"127.0.0.1:{free_port()}", "reserve")

    with pytest.raises(RolledBackError, match="UNAVAILABLE"):
        run(client, place)
