"""A TCP proxy that fails on demand, between a client and a real server.

It runs in a thread with an event loop of its own, so sync and async tests use it alike: each method returns when the change is
in force. Bytes are never altered, reordered or lost on an open connection: a fault delays them, holds them back, or ends the
connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Self, TypeVar

from txcoord_sdk.testing import free_port

from tests.servers.server import host_and_port, with_address

LOOPBACK = "127.0.0.1"
_CHUNK = 64 * 1024
_CALL_LIMIT_S = 10.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

T = TypeVar("T")


class Direction(Enum):
    """Which way bytes go."""

    TO_SERVER = "to server"
    """What the client sends."""
    TO_CLIENT = "to client"
    """What the server answers."""


BOTH = (Direction.TO_SERVER, Direction.TO_CLIENT)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What has passed through one connection.

    Attributes:
        to_server: Bytes handed to the server.
        to_client: Bytes handed to the client.
        is_open: Neither end has closed it, and it was not cut.
        was_cut: The proxy has reset it.
        trips: How often the client spoke after the server had, or first: its round trips.
    """

    to_server: int
    to_client: int
    is_open: bool
    was_cut: bool
    trips: int = field(default=0, compare=False)


class _CutError(ConnectionError):
    """The byte after which a connection was to be cut has passed."""


@dataclass(slots=True, eq=False)
class _Link:
    """One connection of a client, with the one to the server that it stands for."""

    client: socket.socket
    server: socket.socket
    passed: dict[Direction, int] = field(default_factory=lambda: dict.fromkeys(BOTH, 0))
    carrying: asyncio.Task[None] | None = None
    was_cut: bool = False
    trips: int = 0
    spoke_last: Direction = Direction.TO_CLIENT

    def close(self, reset: bool) -> None:
        for end in (self.client, self.server):
            if reset:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.close()


class TcpProxy:
    """Forwards connections to a server until told otherwise; a context manager.

    Args:
        target: URL or `host:port` of the server.

    Attributes:
        url: The target's URL or address with the proxy in the server's place.
        port: Where it listens, on the loopback interface; the same for its whole life.
    """

    def __init__(self, target: str) -> None:
        self._target = host_and_port(target)
        self.port = free_port()
        self.url = with_address(target, LOOPBACK, self.port)
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._links: list[_Link] = []
        self._accepting: asyncio.Task[None] | None = None
        self._flows = {direction: asyncio.Event() for direction in BOTH}
        self._delay_s = dict.fromkeys(BOTH, 0.0)
        self._left: dict[Direction, int] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        self.heal()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.refuse()
        self._call(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Reset (RST) all open connections at both ends; new ones are accepted."""
        self._call(self._cut())

    def cut_after(self, count: int, direction: Direction) -> None:
        """Reset the one connection on which the next `count` bytes, counted over all connections, have passed.

        The bytes up to there arrive. Once only: later connections are whole.

        Args:
            count: Bytes from now on; 0 cuts when the next byte comes, which does not arrive.
            direction: Which way they are counted.
        """
        self._call(self._set_cut(direction, count))

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Hold each piece that is read back for a time; what comes meanwhile follows as the next piece.

        Args:
            seconds: How long; 0 ends it.
            directions: Which ways; none named: both.
        """
        self._call(self._set_delay(seconds, directions or BOTH))

    def black_hole(self, *directions: Direction) -> None:
        """Let nothing pass, not even the end of a connection, as when packets are dropped; `heal` delivers what was held.

        New connections are accepted, since the kernel does that, but the server is not dialled while nothing flows to it.

        Args:
            directions: Which ways; none named: both.
        """
        self._call(self._hold(directions or BOTH))

    def refuse(self) -> None:
        """Refuse new connections; open ones go on."""
        self._call(self._stop_accepting())

    def heal(self) -> None:
        """End every fault: accept, and let everything flow at once. What was cut stays cut."""
        self._call(self._heal())

    def traffic(self) -> tuple[Traffic, ...]:
        """Counters of each connection since the start, in the order in which they were accepted."""
        return self._call(self._traffic())

    def _call(self, change: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(change, self._loop).result(_CALL_LIMIT_S)

    async def _heal(self) -> None:
        self._left.clear()
        for direction in BOTH:
            self._delay_s[direction] = 0.0
            self._flows[direction].set()
        if self._accepting is None:
            listener = socket.socket()
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((LOOPBACK, self.port))
            listener.listen(512)
            self._accepting = self._loop.create_task(self._accept(listener))

    async def _stop_accepting(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._accepting = None

    async def _set_cut(self, direction: Direction, count: int) -> None:
        self._left[direction] = count

    async def _set_delay(self, seconds: float, directions: tuple[Direction, ...]) -> None:
        self._delay_s.update(dict.fromkeys(directions, seconds))

    async def _hold(self, directions: tuple[Direction, ...]) -> None:
        for direction in directions:
            self._flows[direction].clear()

    async def _cut(self) -> None:
        open_links = [link for link in self._links if link.carrying and not link.carrying.done()]
        for link in open_links:
            link.was_cut = True
            assert link.carrying is not None
            link.carrying.cancel()
        if open_links:
            await asyncio.wait([link.carrying for link in open_links if link.carrying])

    async def _traffic(self) -> tuple[Traffic, ...]:
        return tuple(
            Traffic(
                link.passed[Direction.TO_SERVER],
                link.passed[Direction.TO_CLIENT],
                is_open=link.carrying is not None and not link.carrying.done(),
                was_cut=link.was_cut,
                trips=link.trips,
            )
            for link in self._links
        )

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                client, _ = await self._loop.sock_accept(listener)
                link = _Link(client, socket.socket())
                for end in (link.client, link.server):
                    end.setblocking(False)
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._links.append(link)
                link.carrying = self._loop.create_task(self._carry(link))

    async def _carry(self, link: _Link) -> None:
        """Serve one connection to its end. An end that failed at one side is a reset at the other."""
        reset = True
        try:
            await self._flows[Direction.TO_SERVER].wait()
            await self._loop.sock_connect(link.server, self._target)
            async with asyncio.TaskGroup() as pumps:
                for direction in BOTH:
                    pumps.create_task(self._pump(link, direction))
            reset = False
        except* OSError:
            pass
        finally:
            link.close(reset)

    async def _pump(self, link: _Link, direction: Direction) -> None:
        source, sink = (link.client, link.server) if direction is Direction.TO_SERVER else (link.server, link.client)
        while True:
            chunk = await self._loop.sock_recv(source, _CHUNK)
            await asyncio.sleep(self._delay_s[direction])
            await self._flows[direction].wait()
            if not chunk:
                sink.shutdown(socket.SHUT_WR)
                return
            left = self._left.get(direction)
            if left is not None:
                chunk = chunk[:left]
                self._left[direction] = left - len(chunk)
            await self._loop.sock_sendall(sink, chunk)
            link.passed[direction] += len(chunk)
            if direction is Direction.TO_SERVER is not link.spoke_last:
                link.trips += 1
            link.spoke_last = direction
            if left is not None and left == len(chunk):
                self._left.pop(direction, None)
                await _delivered(sink)
                link.was_cut = True
                raise _CutError


async def _delivered(sink: socket.socket) -> None:
    """Wait until the other end's kernel has everything, a second at most: a reset drops what is still to be sent."""
    for _ in range(1000):
        (unsent,) = struct.unpack("i", fcntl.ioctl(sink, termios.TIOCOUTQ, b"\0\0\0\0"))
        if not unsent:
            return
        await asyncio.sleep(0.001)
