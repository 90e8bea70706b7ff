"""The two drivers do the same with the same steps; endings outlast cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from txcoord_sdk.session.requests import Sink
from txcoord_sdk.transaction import effects
from txcoord_sdk.transaction.effects import Ask, Invoke, Pause, Steps, adrive, drive


def answer(value: object) -> Callable[[Sink], None]:
    """An answer that comes at once."""
    return lambda sink: sink(value, None)


def refuse(error: BaseException) -> Callable[[Sink], None]:
    return lambda sink: sink(None, error)


def adding() -> Steps[int]:
    total = yield Ask(answer(1))
    yield Pause(0.001)
    total += yield Invoke(lambda: 10)
    try:
        yield Ask(refuse(KeyError("no")))
    except KeyError:
        total += 100
    try:
        yield Invoke(lambda: 1 // 0)
    except ZeroDivisionError:
        total += 1000
    return int(total)


def failing() -> Steps[None]:
    yield Ask(refuse(LookupError("lost")))


def test_both_drivers_answer_and_throw() -> None:
    assert drive(adding()) == 1111
    assert asyncio.run(adrive(adding())) == 1111


def test_errors_leave_both_drivers() -> None:
    with pytest.raises(LookupError, match="lost"):
        drive(failing())
    with pytest.raises(LookupError, match="lost"):
        asyncio.run(adrive(failing()))


async def test_coroutines_are_awaited_and_other_values_are_not() -> None:
    async def seven() -> int:
        await asyncio.sleep(0)
        return 7

    def steps() -> Steps[object]:
        first = yield Invoke(seven)
        second = yield Invoke(lambda: asyncio.sleep(0, "slept"))
        third = yield Invoke(lambda: [1])
        return (first, second, third)

    assert await adrive(steps()) == (7, "slept", [1])


@pytest.mark.parametrize("later", [0.0, 0.01])
async def test_answers_come_from_other_threads(later: float) -> None:
    def start(sink: Sink) -> None:
        threading.Timer(later, sink, (5, None)).start()

    def steps() -> Steps[object]:
        return (yield Ask(start))

    assert await asyncio.wait_for(adrive(steps()), 5) == 5


class Held:
    """A request whose answer is held back."""

    def __init__(self) -> None:
        self.sinks: list[Sink] = []
        self.log: list[str] = []

    def steps(self, to_the_end: bool) -> Steps[str]:
        try:
            value = yield Ask(self.sinks.append, to_the_end)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        self.log.append(f"heard {value}")
        return "result"


async def test_a_cancellation_is_thrown_into_the_steps() -> None:
    held = Held()
    task = asyncio.create_task(adrive(held.steps(to_the_end=False)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert held.log == ["cancelled"]
    held.sinks[0]("late", None)  # nobody minds


async def test_an_ending_is_heard_to_its_end_although_the_task_is_cancelled_again_and_again() -> None:
    held = Held()
    task = asyncio.create_task(adrive(held.steps(to_the_end=True)))
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    held.sinks[0]("the end", None)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert held.log == ["heard the end"]


async def test_an_answer_that_comes_with_the_cancellation_is_not_lost() -> None:
    held = Held()
    task = asyncio.create_task(adrive(held.steps(to_the_end=True)))
    await asyncio.sleep(0.01)
    task.cancel()
    held.sinks[0]("the end", None)  # between the cancellation and the task's next turn
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 1)
    assert held.log == ["heard the end"]


async def test_patience_with_an_ending_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "PATIENCE", 0.05)
    held = Held()
    task = asyncio.create_task(adrive(held.steps(to_the_end=True)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 2)
    assert held.log == ["cancelled"]


async def test_a_cancelled_task_tries_nothing_again() -> None:
    held, tried = Held(), []

    def steps() -> Steps[None]:
        yield from held.steps(to_the_end=True)
        yield Pause(0.0)
        tried.append(True)

    task = asyncio.create_task(adrive(steps()))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.01)
    held.sinks[0]("rolled back", None)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not tried


async def test_a_failure_after_an_outlasted_cancellation_is_its_cause() -> None:
    held = Held()
    task = asyncio.create_task(adrive(held.steps(to_the_end=True)))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.01)
    held.sinks[0](None, ValueError("rolled back"))
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert isinstance(caught.value.__cause__, ValueError)


def test_steps_of_a_destroyed_coroutine_just_end() -> None:
    ended: list[str] = []

    def steps() -> Steps[None]:
        try:
            yield Invoke(lambda: asyncio.sleep(60))
        except GeneratorExit:
            ended.append("closed")
            raise

    coroutine = adrive(steps())

    async def abandon() -> None:
        coroutine.send(None)
        coroutine.close()

    asyncio.run(abandon())
    assert ended == ["closed"]


async def test_blocking_code_in_a_loop_still_gets_its_answer() -> None:
    """It would wait for ever if the burst that it began were only handed over after the block."""
    from txcoord_sdk.mailbox import Mailbox

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    mailbox = Mailbox(loop)

    def start(sink: Sink) -> None:
        mailbox.post(sink, 3, None)

    def steps() -> Steps[object]:
        return (yield Ask(start))

    try:
        assert drive(steps()) == 3
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
