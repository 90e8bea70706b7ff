"""What the session makes of a deadline that only the coordinator knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.session.requests import Beginning

from tests.unit.sdk.far_end import BRANCH, Heard, Scene, Wire, scene


class Joined:
    """A transaction that another process began, on a session that is connected."""

    def __init__(self, session: Scene, wire: Wire) -> None:
        self.session = session
        self.wire = wire
        self.beginning = Beginning("joined", 0)
        self.beginning.xid = "g.5.1"
        self.deadlines: list[float] = []

    def register(self) -> Heard:
        """Ask for a branch, and for the deadline."""
        return self.session.register(self.beginning, replace(BRANCH, hear_deadline=self.deadlines.append))


@pytest.fixture
async def joined() -> AsyncIterator[Joined]:
    async with scene() as session:
        wire = await session.wires.next()
        await wire.welcome()
        yield Joined(session, wire)


def told(request: pb.Request, left: int) -> pb.Event:
    """The answer to a registration."""
    return pb.Event(id=request.id, registered=pb.RegisterReply(xid=request.register.xid, timeout_left_ms=left))


async def test_a_deadline_that_is_not_known_here_is_asked_for_and_counted_from_the_question(joined: Joined) -> None:
    wire = joined.wire
    before = time.monotonic()
    heard = joined.register()
    request = await wire.asked("register")
    assert request.register.tell_timeout
    asked = time.monotonic()
    await asyncio.sleep(0.1)
    wire.answer(told(request, 7000))
    assert await heard.answer() == 1000
    assert before <= joined.deadlines[0] - 7.0 <= asked, "so that it is not later than the coordinator's"
    known = joined.session.register(joined.beginning)
    request = await wire.asked("register")
    assert not request.register.tell_timeout
    wire.answer(ok=[request.id])
    assert await known.answer() == 1001


async def test_a_deadline_is_counted_from_the_stream_over_which_it_was_told(joined: Joined) -> None:
    heard = joined.register()
    await joined.wire.asked("register")
    await asyncio.sleep(0.1)
    joined.wire.cut()
    cut = time.monotonic()
    again = await joined.session.wires.next()
    await again.welcome(first=2000)
    request = await again.asked("register")
    assert request.register.tell_timeout
    again.answer(told(request, 7000))
    assert await heard.answer() == 1000
    assert cut <= joined.deadlines[0] - 7.0 <= time.monotonic()
    none = joined.register()
    again.answer(told(await again.asked("register"), 0))
    assert await none.answer() == 2000
    assert len(joined.deadlines) == 1, "it has none"
