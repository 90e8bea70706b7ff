"""Calls into a loop: all of them, in order, with few wake-ups."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from txcoord_sdk import mailbox as module
from txcoord_sdk.mailbox import Mailbox


class CountedLoop(asyncio.SelectorEventLoop):
    """A loop that counts how often it is woken from outside."""

    wakes = 0

    def _write_to_self(self) -> None:
        self.wakes += 1
        super()._write_to_self()  # type: ignore[misc]  # what wakes it, in all versions of Python


@pytest.fixture
def target() -> Iterator[CountedLoop]:
    """A loop that runs in a thread of its own."""
    loop = CountedLoop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_turn_of_a_loop_is_one_burst(target: CountedLoop) -> None:
    box, done = Mailbox(target), threading.Event()
    seen: list[int] = []

    async def turn() -> None:
        before = target.wakes
        for number in range(100):
            box.post(seen.append, number)
        assert target.wakes == before
        box.post(done.set)
        await asyncio.sleep(0)
        assert target.wakes == before + 1

    asyncio.run(turn())
    assert done.wait(5)
    assert seen == list(range(100))
    assert not module._bursts


def test_plain_threads_lose_nothing(target: CountedLoop) -> None:
    box, done = Mailbox(target), threading.Event()
    seen: list[int] = []

    def post(first: int) -> None:
        for number in range(first, first + 500):
            box.post(seen.append, number)

    threads = [threading.Thread(target=post, args=(n * 500,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    box.post(done.set)
    assert done.wait(5)
    assert sorted(seen) == list(range(8000))
    for n in range(16):
        mine = [number for number in seen if n * 500 <= number < (n + 1) * 500]
        assert mine == sorted(mine)


def test_what_is_left_runs_before_the_next_call_and_wakes_nobody(target: CountedLoop) -> None:
    box, seen, done = Mailbox(target), list[str](), threading.Event()
    before = target.wakes
    box.leave(seen.append, "left")
    assert target.wakes == before
    assert not seen
    box.post(seen.append, "posted")
    box.post(done.set)
    assert done.wait(5)
    assert seen == ["left", "posted"]


def test_a_blocked_loop_holds_up_no_other_thread(target: CountedLoop) -> None:
    box, posted, seen = Mailbox(target), threading.Event(), threading.Event()

    async def block() -> None:
        box.post(lambda: None)
        posted.set()
        assert seen.wait(5)  # blocks its loop before its burst ends

    blocked = threading.Thread(target=asyncio.run, args=(block(),))
    blocked.start()
    assert posted.wait(5)
    box.post(seen.set)
    blocked.join(6)
    assert seen.is_set()


def test_a_failing_call_does_not_stop_the_others(target: CountedLoop, caplog: pytest.LogCaptureFixture) -> None:
    box, done = Mailbox(target), threading.Event()

    def fail() -> None:
        raise ValueError("mine alone")

    box.post(fail)
    box.post(done.set)
    assert done.wait(5)
    assert "a call handed to the event loop failed" in caplog.text


def test_a_closed_loop_is_no_error() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    Mailbox(loop).post(print, "never")
