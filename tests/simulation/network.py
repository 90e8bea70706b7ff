"""Streams between simulated processes: in order and reliable until they break, like gRPC's, and broken at the worst moment.

Each batch is serialised and parsed, so that mistakes of the wire show. When a stream breaks, what is on the way may still arrive
or not, each side learns of it at its own time, and until then goes on as if nothing had happened: so a request that was sent
again over a new stream may overtake, or follow, its first copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.session.transport import StreamBrokenError

from tests.simulation.loop import Process, SimLoop


class Pipe:
    """One direction of a stream."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._items: list[bytes] = []
        self._wake = asyncio.Event()
        self._broken = False
        self._cut = False
        self._last = 0.0

    def send(self, data: bytes) -> None:
        """Put a batch on the way; it arrives after those before it."""
        loop = self._network.loop
        self._last = max(self._last, loop.time() + self._network.latency())
        loop.call_at(self._last, self._arrive, data)

    def _arrive(self, data: bytes) -> None:
        if not self._broken and not self._cut:
            self._items.append(data)
            self._wake.set()

    async def receive(self) -> bytes:
        """The next batch."""
        while not self._items:
            if self._broken:
                raise StreamBrokenError("broken by the simulation")
            self._wake.clear()
            await self._wake.wait()
        return self._items.pop(0)

    def cut(self) -> None:
        """What is on the way is lost, and what is sent from now on; nobody knows that yet."""
        self._cut = True

    def break_after(self, delay: float) -> None:
        """The receiver learns of the break after `delay`; what arrives before that still counts."""
        self._network.loop.call_later(delay, self._break)

    def end(self) -> None:
        """The sender has ended it: the receiver learns of that after everything has arrived."""
        self._network.loop.call_at(max(self._last, self._network.loop.time()) + 0.0001, self._break)

    def _break(self) -> None:
        self._broken = True
        self._wake.set()


class SimStream:
    """The client's end; see `Stream`."""

    def __init__(self, network: Network, ends: tuple[str, str]) -> None:
        self.up = Pipe(network)
        self.down = Pipe(network)
        self.ends = ends
        """Names of the processes at its two ends."""
        self._network = network
        network.streams.append(self)

    async def write(self, batch: pb.ClientBatch) -> None:
        """See `Stream.write`."""
        if self.down._broken:
            raise StreamBrokenError("broken by the simulation")
        self.up.send(batch.SerializeToString())
        await asyncio.sleep(self._network.loop.rng.uniform(0, 0.001))

    async def read(self) -> pb.ServerBatch:
        """See `Stream.read`."""
        return pb.ServerBatch.FromString(await self.down.receive())

    async def close(self) -> None:
        """See `Stream.close`."""
        self.break_up(0.0)

    def end(self) -> None:
        """The server has ended it, in order."""
        self.down.end()
        self.up.break_after(0.0)
        if self in self._network.streams:
            self._network.streams.remove(self)

    def lose(self, client: float, server: float) -> None:
        """The client gives it up after `client` seconds, the server learns of that after `server` seconds."""
        self.down.break_after(client)
        self.up.break_after(server)
        self._network.streams.remove(self)

    def break_up(self, longest: float) -> None:
        """Break it; each side learns of it within `longest` seconds, and what is on the way may be lost with it."""
        for pipe in (self.up, self.down):
            if longest and self._network.loop.rng.random() < 0.5:
                pipe.cut()
            pipe.break_after(self._network.loop.rng.uniform(0, longest) if longest else 0.0)
        if self in self._network.streams:
            self._network.streams.remove(self)


class ServerContext:
    """The server's end, as much of a gRPC context as the service uses."""

    def __init__(self, stream: SimStream) -> None:
        self._stream = stream

    async def write(self, batch: pb.ServerBatch) -> None:
        """Send a batch."""
        if self._stream.up._broken:
            raise StreamBrokenError("broken by the simulation")
        self._stream.down.send(batch.SerializeToString())
        await asyncio.sleep(0)

    async def abort(self, code: object, details: str, metadata: object) -> None:
        """End the stream with an error."""
        self._stream.end()
        raise StreamBrokenError(details)

    async def batches(self) -> AsyncIterator[pb.ClientBatch]:
        """What the client sends."""
        while True:
            try:
                data = await self._stream.up.receive()
            except StreamBrokenError:
                return
            yield pb.ClientBatch.FromString(data)


class SimTransport:
    """The way out of one process; see `Transport`."""

    def __init__(self, network: Network, client: str) -> None:
        self._network = network
        self._client = client

    async def open(self, address: str) -> SimStream:
        """See `Transport.open`."""
        return await self._network.open(address, self._client)


Serve = Callable[[AsyncIterator[pb.ClientBatch], Any], Any]


class Network:
    """Who can be reached, and how badly.

    Args:
        loop: Where it runs.
    """

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.loss = 0.0
        """Share of calls between services that are lost, of their answers, and of calls that come twice."""
        self.streams: list[SimStream] = []
        self._servers: dict[str, tuple[Process, Serve]] = {}

    def latency(self) -> float:
        """Seconds that a batch is on the way: mostly short, sometimes not."""
        rng = self.loop.rng
        return rng.uniform(0.0005, 0.02) * (30 if rng.random() < 0.02 else 1)

    def listen(self, address: str, process: Process, serve: Serve) -> None:
        """Have `process` serve streams to `address`."""
        self._servers[address] = (process, serve)

    def died(self, name: str) -> None:
        """A process is gone: nobody listens there, and the others learn that its streams are broken."""
        self._servers.pop(name, None)
        for stream in [s for s in self.streams if name in s.ends]:
            stream.break_up(0.1)

    async def open(self, address: str, client: str) -> SimStream:
        """A stream from the process `client` to `address`."""
        await asyncio.sleep(self.latency())
        found = self._servers.get(address)
        if found is None or not found[0].alive:
            raise StreamBrokenError(f"nobody listens at {address}")
        process, serve = found
        stream = SimStream(self, (client, address))
        context = ServerContext(stream)
        process.run(self._serve(serve, context, stream))
        return stream

    async def request(self, callee: Process, serve: Callable[[], Awaitable[int]], patience: float) -> int:
        """Call another service as over HTTP; calls and answers are lost, come twice and overtake each other.

        Args:
            callee: Its process.
            serve: What it does there; gives the answer's status.
            patience: Seconds that the caller waits.

        Raises:
            TimeoutError: No answer.
        """
        rng, answer = self.loop.rng, asyncio.get_running_loop().create_future()

        def tell(status: int) -> None:
            if not answer.done() and rng.random() >= self.loss:
                answer.set_result(status)

        async def run() -> None:
            self.loop.call_later(self.latency(), tell, await serve())

        def arrive() -> None:
            if callee.alive:
                callee.run(run())

        for _ in range(1 + (rng.random() < self.loss)):
            if rng.random() >= self.loss:
                self.loop.call_later(self.latency(), arrive)
        status: int = await asyncio.wait_for(answer, patience)
        return status

    @staticmethod
    async def _serve(serve: Serve, context: ServerContext, stream: SimStream) -> None:
        try:
            await serve(context.batches(), context)
        except StreamBrokenError:
            pass
        finally:
            stream.end()
