"""The way to the leading coordinator: dials, greets, follows where it moved to, and begins anew when the stream breaks."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Protocol

from txcoord_proto.errors import TxcoordError
from txcoord_proto.v1 import coordinator_pb2 as pb

from txcoord_sdk.session.outbox import Outbox
from txcoord_sdk.session.transport import Rng, Stream, StreamBrokenError, Transport

log = logging.getLogger(__name__)

_DIAL_SECONDS = 3.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_HOPS = 3


class MovedError(Exception):
    """This coordinator does not serve us now.

    Args:
        why: For people.
        leader: Address of the one that does; empty: not known.
    """

    def __init__(self, why: str, leader: str = "") -> None:
        super().__init__(why)
        self.leader = leader


class Peer(Protocol):
    """Whose stream it is: the session."""

    outbox: Outbox

    def hello(self) -> pb.ClientBatch:
        """What opens a stream."""

    def welcomed(self, batch: pb.ServerBatch) -> None:
        """Take the first batch of a stream.

        Raises:
            MovedError: Another coordinator leads, or none does yet.
            TxcoordError: It refuses us.
        """

    def receive(self, batch: pb.ServerBatch) -> None:
        """Take a batch.

        Raises:
            MovedError: The coordinator stepped down.
        """

    def lost(self) -> None:
        """The stream has ended."""

    def refused(self, error: TxcoordError) -> None:
        """The coordinator refused us."""


class Link:
    """See the module.

    Args:
        addresses: Of the coordinators, tried in turn; one that answers names the leader.
        transport: Opens streams.
        rng: For jitter.
        peer: Whose stream it is.
    """

    def __init__(self, addresses: tuple[str, ...], transport: Transport, rng: Rng, peer: Peer) -> None:
        self._addresses = itertools.cycle(addresses)
        self._transport = transport
        self._rng = rng
        self._peer = peer
        self._leader = ""
        self.met = ""
        """What the last attempt ended with, until one succeeds."""
        self._streaming: asyncio.Task[bool] | None = None
        self._may_dial = asyncio.Event()
        self._may_dial.set()

    async def run(self) -> None:
        """Keep a stream open until cancelled. Pauses between attempts grow until a coordinator has welcomed us."""
        pause, hops = _FIRST_PAUSE, 0
        while True:
            await self._may_dial.wait()
            address, self._leader = self._leader or next(self._addresses), ""
            self._streaming = asyncio.ensure_future(self._stream(address))
            try:
                healthy = await self._streaming
            except asyncio.CancelledError:
                if self._may_dial.is_set():
                    raise
                continue
            if healthy:
                pause, hops = _FIRST_PAUSE, 0
            if self._leader and hops < _HOPS:
                hops += 1  # coordinators that send us to and fro cost a pause, too
                continue
            hops = 0
            await asyncio.sleep(pause * (0.5 + self._rng.random()))
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def pause(self) -> None:
        """Close the stream, and open none until `resume`."""
        self._may_dial.clear()
        if self._streaming is not None:
            self._streaming.cancel()
            await asyncio.wait([self._streaming])

    def resume(self) -> None:
        """Go on after `pause`."""
        self._may_dial.set()

    async def _stream(self, address: str) -> bool:
        """One stream from its opening to its end; True when the coordinator served us."""
        stream: Stream | None = None
        healthy = False
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                stream = await self._transport.open(address)
                await stream.write(self._peer.hello())
                first = await stream.read()
            self._peer.welcomed(first)
            healthy = True
            self.met = ""
            log.info("connected to the coordinator at %s", address)
            await self._exchange(stream)
        except MovedError as error:
            self._leader = error.leader
            log.info("the coordinator at %s does not serve us: %s", address, error)
        except TxcoordError as error:
            self._peer.refused(error)
        except (StreamBrokenError, TimeoutError) as error:
            self.met = f"{address}: {str(error) or 'nothing came in time'}"
            log.log(
                logging.WARNING if healthy else logging.DEBUG, "the stream to the coordinator at %s ended: %r", address, error
            )
        except Exception:
            log.exception("the stream to the coordinator at %s failed", address)  # the next one may do better
        finally:
            self._peer.lost()
            if stream is not None:
                await stream.close()
        return healthy

    async def _exchange(self, stream: Stream) -> None:
        writing = asyncio.ensure_future(self._write(stream))
        reading = asyncio.ensure_future(self._read(stream))
        try:
            ended, _ = await asyncio.wait((writing, reading), return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in (writing, reading):
                task.cancel()
            await asyncio.gather(writing, reading, return_exceptions=True)

    async def _write(self, stream: Stream) -> None:
        while True:
            await stream.write(await self._peer.outbox.take())

    async def _read(self, stream: Stream) -> None:
        while True:
            self._peer.receive(await stream.read())
