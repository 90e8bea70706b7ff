"""What the session makes of a deadline that only the coordinator knows."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.session.requests import Beginning

from tests.unit.sdk.far_end import BRANCH, scene


def told(request: pb.Request, left: int) -> pb.Event:
    """The answer to a registration."""
    return pb.Event(id=request.id, registered=pb.RegisterReply(xid=request.register.xid, timeout_left_ms=left))


async def test_a_deadline_that_is_not_known_here_is_asked_for_and_counted_from_the_question() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        deadlines: list[float] = []
        beginning = Beginning("joined", 0)
        beginning.xid = "g.5.1"
        before = time.monotonic()
        heard = s.register(beginning, replace(BRANCH, hear_deadline=deadlines.append))
        request = await wire.asked("register")
        assert request.register.tell_timeout
        asked = time.monotonic()
        await asyncio.sleep(0.1)
        wire.answer(told(request, 7000))
        assert await heard.answer() == 1000
        assert before <= deadlines[0] - 7.0 <= asked, "so that it is not later than the coordinator's"
        known = s.register(beginning)
        request = await wire.asked("register")
        assert not request.register.tell_timeout
        wire.answer(ok=[request.id])
        assert await known.answer() == 1001


async def test_a_deadline_is_counted_from_the_stream_over_which_it_was_told() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        deadlines: list[float] = []
        beginning = Beginning("joined", 0)
        beginning.xid = "g.5.1"
        heard = s.register(beginning, replace(BRANCH, hear_deadline=deadlines.append))
        await wire.asked("register")
        await asyncio.sleep(0.1)
        wire.cut()
        cut = time.monotonic()
        again = await s.wires.next()
        await again.welcome(first=2000)
        request = await again.asked("register")
        assert request.register.tell_timeout
        again.answer(told(request, 7000))
        assert await heard.answer() == 1000
        assert cut <= deadlines[0] - 7.0 <= time.monotonic()
        none = s.register(beginning, replace(BRANCH, hear_deadline=deadlines.append))
        again.answer(told(await again.asked("register"), 0))
        assert await none.answer() == 2000
        assert len(deadlines) == 1, "it has none"
