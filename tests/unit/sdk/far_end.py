"""The far end of a session's stream, held by the test: it does what it is told, over a wire of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from txcoord_proto.errors import TxcoordError
from txcoord_proto.status import BranchType, Wait
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.config import ClientConfig
from txcoord_sdk.participant import Command
from txcoord_sdk.session.requests import Beginning, Registration
from txcoord_sdk.session.session import Session
from txcoord_sdk.session.transport import StreamBrokenError

BRANCH = Registration(BranchType.TCC, "stock:reserve@1", arguments=b"{}")
ASKED_LAST = 5.0


class Wire:
    """One stream; the test holds its far end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sent: list[pb.Request] = []
        self.reported: list[tuple[str, int]] = []
        self.done: list[tuple[str, int]] = []
        self.batches: list[pb.ClientBatch] = []
        self.closed = False
        self._answers: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._arrived = asyncio.Event()

    async def write(self, batch: pb.ClientBatch) -> None:
        """See `Stream.write`."""
        batch = pb.ClientBatch.FromString(batch.SerializeToString())
        self.batches.append(batch)
        self.sent += batch.requests
        self.reported += zip(batch.reported_xids, batch.reported_branches)
        self.done += zip(batch.done_xids, batch.done_branches)
        self._arrived.set()

    async def read(self) -> pb.ServerBatch:
        """See `Stream.read`."""
        data = await self._answers.get()
        if data is None:
            raise StreamBrokenError("cut")
        return pb.ServerBatch.FromString(data)

    async def close(self) -> None:
        """See `Stream.close`."""
        self.closed = True

    def answer(self, *events: pb.Event, epoch: int = 5, **columns: Any) -> None:
        """Send a batch."""
        self._answers.put_nowait(pb.ServerBatch(epoch=epoch, events=events, **columns).SerializeToString())

    def cut(self) -> None:
        """End the stream."""
        self._answers.put_nowait(None)

    async def asked(self, kind: str) -> pb.Request:
        """The next request of a kind that has not been looked at."""
        async with asyncio.timeout(ASKED_LAST):
            while True:
                for request in self.sent:
                    if request.HasField(kind):
                        self.sent.remove(request)
                        return request
                self._arrived.clear()
                await self._arrived.wait()

    async def welcome(self, epoch: int = 5, first: int = 1000, count: int = 100, **fields: Any) -> pb.Hello:
        """Answer the hello."""
        request = await self.asked("hello")
        block = pb.BranchIdBlock(first=first, count=count)
        self.answer(pb.Event(id=request.id, welcome=pb.Welcome(protocol=1, epoch=epoch, branch_ids=block, **fields)), epoch=epoch)
        return request.hello


class Wires:
    """The transport: each stream is given to the test."""

    def __init__(self) -> None:
        self._opened: asyncio.Queue[Wire] = asyncio.Queue()

    async def open(self, address: str) -> Wire:
        """See `Transport.open`."""
        wire = Wire(address)
        self._opened.put_nowait(wire)
        return wire

    async def next(self) -> Wire:
        """The next stream that the session opens."""
        return await asyncio.wait_for(self._opened.get(), 5)


class NoJitter:
    """Chance that is none."""

    def random(self) -> float:
        """In the middle."""
        return 0.0


class Heard:
    """What a sink was told."""

    def __init__(self) -> None:
        self._future: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def __call__(self, value: object, error: BaseException | None) -> None:
        assert not self._future.done(), "a sink is called once"
        if error is None:
            self._future.set_result(value)
        else:
            self._future.set_exception(error)

    async def answer(self) -> object:
        """What it was, soon."""
        return await asyncio.wait_for(self._future, 5)

    @property
    def came(self) -> bool:
        """Whether there was anything."""
        return self._future.done()


class Scene:
    """A session, its far end, and the commands that it was given."""

    def __init__(self, **config: Any) -> None:
        self.wires = Wires()
        self.commands: list[Command] = []
        settings = {"service": "order", "addresses": ("a:1", "b:1"), "failover_wait": 5.0, **config}
        self.session = Session(ClientConfig(**settings), self.wires, NoJitter(), self.commands.append)

    def begin(self) -> tuple[Beginning, Heard]:
        """Ask for an XID."""
        beginning, heard = Beginning("order", 1000), Heard()
        self.session.begin(beginning, heard)
        return beginning, heard

    def register(self, beginning: Beginning, registration: Registration = BRANCH) -> Heard:
        """Ask for a branch."""
        heard = Heard()
        self.session.register(beginning, registration, heard)
        return heard

    def commit(self, xid: str) -> Heard:
        """Ask for commit."""
        heard = Heard()
        self.session.commit(xid, Wait.SETTLED, heard)
        return heard


@asynccontextmanager
async def scene(**config: Any) -> AsyncIterator[Scene]:
    """A session that runs."""
    made = Scene(**config)
    running = asyncio.ensure_future(made.session.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def refusal(request_id: int, error: TxcoordError) -> pb.Event:
    """An error for the wire."""
    return pb.Event(
        id=request_id, error=pb.Error(code=error.code, message=error.message, retryable=error.retryable, details=error.details)
    )


async def settle_down() -> None:
    """Let everything that can run run."""
    for _ in range(20):
        await asyncio.sleep(0)
