"""The proxy does each of its things, seen from both ends of real connections."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import asyncpg
import psycopg
import pytest
from txcoord_sdk.testing import free_port

from tests.servers.fixtures import FreshUrl
from tests.servers.proxy import Direction, TcpProxy, Traffic
from tests.servers.server import Server


class EchoServer(socketserver.ThreadingTCPServer):
    """Sends back what it receives and remembers it, and how each connection ended."""

    daemon_threads = True

    def __init__(self) -> None:
        self.received = bytearray()
        self.endings: list[str] = []
        super().__init__(("127.0.0.1", 0), EchoHandler)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class EchoHandler(socketserver.BaseRequestHandler):
    server: EchoServer

    def handle(self) -> None:
        try:
            while piece := self.request.recv(65536):
                self.server.received += piece
                self.request.sendall(piece)
            self.server.endings.append("closed")
        except ConnectionError:
            self.server.endings.append("reset")


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        yield server
        server.shutdown()
        serving.join()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[TcpProxy]:
    with TcpProxy(echo.address) as through:
        yield through


@contextmanager
def dial(proxy: TcpProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        yield connection


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly that many bytes."""
    found = b""
    while len(found) < count:
        piece = connection.recv(count - len(found))
        assert piece, f"the connection was closed after {found!r}"
        found += piece
    return found


def wait_until(holds: Callable[[], bool]) -> None:
    """Return as soon as something holds; five seconds at most."""
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.005)


def round_trip_s(connection: socket.socket) -> float:
    started = time.monotonic()
    connection.sendall(b"?")
    receive(connection, 1)
    return time.monotonic() - started


def test_it_forwards_and_counts_each_connection(proxy: TcpProxy) -> None:
    with dial(proxy) as first, dial(proxy) as second:
        first.sendall(b"tea")
        assert receive(first, 3) == b"tea"
        second.sendall(b"x" * 300_000)
        assert receive(second, 300_000) == b"x" * 300_000
        assert proxy.traffic() == (
            Traffic(3, 3, is_open=True, was_cut=False),
            Traffic(300_000, 300_000, is_open=True, was_cut=False),
        )


def test_the_end_of_one_direction_is_passed_on_while_the_other_goes_on(proxy: TcpProxy, echo: EchoServer) -> None:
    with dial(proxy) as connection:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert receive(connection, 10) == b"last words"
        assert connection.recv(1) == b""
    wait_until(lambda: echo.endings == ["closed"])
    wait_until(lambda: proxy.traffic() == (Traffic(10, 10, is_open=False, was_cut=False),))


def test_a_cut_resets_both_ends_and_spares_the_next_connection(proxy: TcpProxy, echo: EchoServer) -> None:
    with dial(proxy) as connection, dial(proxy) as idle:
        round_trip_s(connection)
        round_trip_s(idle)
        proxy.cut()
        for each in (connection, idle):
            with pytest.raises(ConnectionResetError):
                each.recv(1)
    wait_until(lambda: echo.endings == ["reset", "reset"])
    assert all(traffic.was_cut and not traffic.is_open for traffic in proxy.traffic())
    with dial(proxy) as later:
        round_trip_s(later)


@pytest.mark.parametrize("count", [0, 1, 7, 100_000])
def test_a_cut_towards_the_server_comes_after_exactly_so_many_bytes(proxy: TcpProxy, echo: EchoServer, count: int) -> None:
    with dial(proxy) as connection:
        proxy.cut_after(count, Direction.TO_SERVER)
        connection.sendall(b"x" * 200_000)
        with pytest.raises(ConnectionResetError):
            receive(connection, 200_000)
    wait_until(lambda: echo.endings == ["reset"])
    assert len(echo.received) == count
    assert proxy.traffic()[0].to_server == count


@pytest.mark.parametrize("count", [0, 1, 7, 100_000])
def test_a_cut_towards_the_client_comes_after_exactly_so_many_bytes_and_once(proxy: TcpProxy, count: int) -> None:
    with dial(proxy) as connection:
        proxy.cut_after(count, Direction.TO_CLIENT)
        connection.sendall(b"x" * 200_000)
        assert len(receive(connection, count)) == count
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with dial(proxy) as later:
        later.sendall(b"x" * 200_000)
        assert len(receive(later, 200_000)) == 200_000
    assert [traffic.was_cut for traffic in proxy.traffic()] == [True, False]


def test_a_delay_holds_each_direction_back(proxy: TcpProxy) -> None:
    with dial(proxy) as connection:
        assert round_trip_s(connection) < 0.5
        proxy.delay(0.5)
        assert round_trip_s(connection) >= 1.0
        proxy.delay(0.0, Direction.TO_SERVER)
        assert 0.5 <= round_trip_s(connection) < 1.0
        proxy.heal()
        assert round_trip_s(connection) < 0.5


def test_a_black_hole_towards_the_server_swallows_nothing_for_good(proxy: TcpProxy, echo: EchoServer) -> None:
    with dial(proxy) as connection:
        round_trip_s(connection)
        proxy.black_hole(Direction.TO_SERVER)
        connection.sendall(b"tea")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert echo.received == b"?"
        proxy.heal()
        connection.settimeout(5)
        assert receive(connection, 3) == b"tea"


def test_a_black_hole_towards_the_client_hides_the_answer_and_the_end(proxy: TcpProxy, echo: EchoServer) -> None:
    with dial(proxy) as connection:
        round_trip_s(connection)
        proxy.black_hole(Direction.TO_CLIENT)
        connection.sendall(b"tea")
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: echo.received == b"?tea")
        wait_until(lambda: echo.endings == ["closed"])
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.heal()
        connection.settimeout(5)
        assert receive(connection, 3) == b"tea"
        assert connection.recv(1) == b""


def test_a_full_black_hole_keeps_a_new_connection_from_the_server(proxy: TcpProxy, echo: EchoServer) -> None:
    proxy.black_hole()
    with dial(proxy) as connection:
        connection.sendall(b"tea")
        time.sleep(0.2)
        assert proxy.traffic() == (Traffic(0, 0, is_open=True, was_cut=False),)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert echo.received == b""
    assert echo.endings == []


def test_refused_connections_leave_the_open_ones_alone(proxy: TcpProxy) -> None:
    with dial(proxy) as connection:
        round_trip_s(connection)
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        round_trip_s(connection)
        proxy.heal()
        with dial(proxy) as later:
            round_trip_s(later)


def test_a_server_that_is_down_resets_the_client() -> None:
    with TcpProxy(f"127.0.0.1:{free_port()}") as proxy:
        with pytest.raises(ConnectionResetError), dial(proxy) as connection:  # which may meet the reset itself
            connection.recv(1)
        assert not proxy.traffic()[0].was_cut


def test_nothing_is_left_of_it(echo: EchoServer) -> None:
    with TcpProxy(echo.address) as proxy:
        connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        round_trip_s(connection)
    with connection, pytest.raises(ConnectionResetError):
        connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    assert f"proxy-{proxy.port}" not in {thread.name for thread in threading.enumerate()}


def test_a_commit_whose_answer_is_lost_is_a_commit(fresh_postgres_url: FreshUrl) -> None:
    url = fresh_postgres_url()
    with psycopg.connect(url) as direct, TcpProxy(url) as proxy:
        direct.execute("CREATE TABLE stock (sku text)")
        direct.commit()
        connection = psycopg.connect(proxy.url)
        connection.execute("INSERT INTO stock VALUES ('tea')")
        proxy.cut_after(0, Direction.TO_CLIENT)
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
        connection.close()
        wait_until(lambda: direct.execute("SELECT sku FROM stock").fetchall() == [("tea",)])


async def test_it_serves_an_async_test_from_its_own_thread(postgres: Server) -> None:
    with TcpProxy(postgres.url) as proxy:
        connection = await asyncpg.connect(proxy.url)
        proxy.black_hole()
        waiting = asyncio.ensure_future(connection.fetchval("SELECT 6 * 7"))
        assert not (await asyncio.wait([waiting], timeout=0.3))[0]
        proxy.heal()
        assert await waiting == 42
        await connection.close()
