"""How the runner gives commands to a participant that works on whole ones: in threads, and in a loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
from txcoord_proto.status import CommandResult
from txcoord_sdk.participant import BranchCommand, Command, ParkError, UnavailableError
from txcoord_sdk.runner import Runner
from txcoord_sdk.testing import wait_until

RESOURCE = "db@1"


@dataclass(frozen=True)
class Place:
    """A database, as far as the runner knows one."""

    name: str = "stock"
    connections: int = 2


@dataclass
class Answers:
    """What was answered, and how often."""

    settled: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: dict[tuple[str, int], tuple[CommandResult, str, str]] = field(default_factory=dict)

    def done(self, xid: str, branch_id: int) -> None:
        """See `runner.Answers.done`."""
        self.settled[xid, branch_id] += 1

    def failed(self, xid: str, branch_id: int, result: CommandResult, code: str, error: str) -> None:
        """See `runner.Answers.failed`."""
        self.failures[xid, branch_id] = (result, code, error)


@dataclass(eq=False)
class Books:
    """Does second phases by writing down what it was given.

    Attributes:
        database: Its place.
        awaited: Whether it is asynchronous.
        batches: XIDs of each call of `commit` that was begun.
        rollbacks: XID and branch ids of each rollback that was begun.
        begun: XIDs in the order in which their second phases were begun.
        poison: XIDs with which a commit fails.
        errors: Raised, one a call, before anything is looked at.
        gate: Commits wait while it is closed.
        gathering: How long commits gather.
        waited_for: XIDs whose commits do not.
    """

    database: Place = field(default_factory=Place)
    awaited: bool = False
    batches: list[list[str]] = field(default_factory=list)
    rollbacks: list[tuple[str, list[int]]] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    poison: set[str] = field(default_factory=set)
    errors: list[Exception] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    gathering: float = 0.0
    waited_for: set[str] = field(default_factory=set)

    def gathers(self, command: Command) -> float:
        """See `BatchParticipant.gathers`."""
        return 0.0 if command.xid in self.waited_for else self.gathering

    def is_async(self, command: Command) -> bool:
        """See `BatchParticipant.is_async`."""
        return self.awaited

    def commit(self, commands: Sequence[Command]) -> Awaitable[None] | None:
        """See `BatchParticipant.commit`."""
        self.batches.append([command.xid for command in commands])
        self.begun += self.batches[-1]
        if self.awaited:
            return self._acommit(commands)
        assert self.gate.wait(20)
        self._look(commands)
        return None

    async def _acommit(self, commands: Sequence[Command]) -> None:
        while not self.gate.is_set():
            await asyncio.sleep(0.001)
        self._look(commands)

    def _look(self, commands: Sequence[Command]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        if bad := self.poison & {command.xid for command in commands}:
            raise ValueError(f"poisoned by {min(bad)}")

    def rollback(self, command: Command) -> Awaitable[None] | None:
        """See `BatchParticipant.rollback`."""
        self.begun.append(command.xid)
        self.rollbacks.append((command.xid, [branch.branch_id for branch in command.branches]))
        if self.awaited:
            return self._arollback()
        if self.errors:
            raise self.errors.pop(0)
        return None

    async def _arollback(self) -> None:
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)


def commit(xid: str, *branch_ids: int) -> Command:
    return Command(xid, RESOURCE, True, tuple(BranchCommand(branch_id, b"") for branch_id in branch_ids or (1,)))


def rollback(xid: str, *branch_ids: int) -> Command:
    return Command(xid, RESOURCE, False, tuple(BranchCommand(branch_id, b"") for branch_id in branch_ids))


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def runner(answers: Answers) -> Iterator[Runner]:
    runner = Runner(answers, threads=4)
    yield runner
    runner.stop()
    runner.close()


@pytest.fixture(params=[False, True], ids=["threads", "loop"])
def books(request: pytest.FixtureRequest, runner: Runner) -> Books:
    books = Books(awaited=request.param)
    runner.serve(RESOURCE, books)
    return books


def idle(runner: Runner) -> None:
    wait_until(lambda: not runner.busy, what="the end of all second phases")


def test_what_comes_while_a_batch_is_under_way_is_the_next_one(runner: Runner, books: Books, answers: Answers) -> None:
    runner.take(commit("x0"))
    wait_until(lambda: books.batches, what="the first batch")
    for n in range(1, 20):
        runner.take(commit(f"x{n}", 1, 2))
    assert not answers.settled, "nothing is acknowledged before its batch has ended"
    books.gate.set()
    idle(runner)
    assert books.batches == [["x0"], [f"x{n}" for n in range(1, 20)]]
    assert set(answers.settled.values()) == {1}
    assert len(answers.settled) == 1 + 19 * 2
    runner.take(commit("late"))
    idle(runner)
    assert books.batches[2:] == [["late"]]


def test_a_batch_has_a_bound(runner: Runner, books: Books, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("txcoord_sdk.batches.MOST", 10)
    runner.take(commit("x0"))
    wait_until(lambda: books.batches, what="the first batch")
    for n in range(1, 26):
        runner.take(commit(f"x{n}"))
    books.gate.set()
    idle(runner)
    assert [len(batch) for batch in books.batches] == [1, 10, 10, 5]
    assert len(answers.settled) == 26


def test_one_that_fails_does_not_hold_up_the_others(runner: Runner, books: Books, answers: Answers) -> None:
    books.poison.add("x3")
    runner.take(commit("x0"))
    wait_until(lambda: books.batches, what="the first batch")
    for n in range(1, 6):
        runner.take(commit(f"x{n}"))
    books.gate.set()
    idle(runner)
    assert books.batches[1:] == [[f"x{n}" for n in range(1, 6)], ["x1"], ["x2"], ["x3"], ["x4"], ["x5"]]
    assert answers.failures == {("x3", 1): (CommandResult.RETRY, "ValueError", "poisoned by x3")}
    assert sorted(xid for xid, _ in answers.settled) == ["x0", "x1", "x2", "x4", "x5"]


def test_an_unreachable_database_is_found_out_once(runner: Runner, books: Books, answers: Answers) -> None:
    runner.take(commit("x0"))
    wait_until(lambda: books.batches, what="the first batch")
    runner.take(commit("x1"))
    runner.take(commit("x2"))
    books.errors.append(UnavailableError("away"))
    books.gate.set()
    idle(runner)
    assert books.batches == [["x0"]]
    assert {result for result, _, _ in answers.failures.values()} == {CommandResult.UNAVAILABLE}
    assert len(answers.failures) == 3
    runner.take(commit("x2"))
    idle(runner)
    assert answers.settled == {("x2", 1): 1}


def test_rollbacks_do_not_wait_for_commits(runner: Runner, books: Books, answers: Answers) -> None:
    runner.take(commit("x0"))
    wait_until(lambda: books.batches, what="the first batch")
    for n in range(1, 50):
        runner.take(commit(f"x{n}"))
    runner.take(rollback("y", 7, 8))
    wait_until(lambda: ("y", 8) in answers.settled, what="the rollback")
    assert books.rollbacks == [("y", [7, 8])]
    assert len(books.batches) == 1
    books.gate.set()
    idle(runner)


def test_with_one_connection_a_rollback_waits_for_one_batch_at_most(runner: Runner, answers: Answers) -> None:
    books = Books(Place(connections=1))
    runner.serve(RESOURCE, books)
    runner.take(commit("x0"))
    wait_until(lambda: books.batches, what="the first batch")
    for n in range(1, 9):
        runner.take(commit(f"x{n}"))
    books.poison.update({"x0", "x2"})
    runner.take(rollback("y", 1))
    books.gate.set()
    idle(runner)
    assert books.begun[:2] == ["x0", "y"]
    assert ("y", 1) in answers.settled


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (ParkError("look"), CommandResult.PARK),
        (UnavailableError("away"), CommandResult.UNAVAILABLE),
        (OSError("x"), CommandResult.RETRY),
    ],
)
def test_a_rollback_succeeds_or_fails_in_one_piece(
    runner: Runner, books: Books, answers: Answers, error: Exception, result: CommandResult
) -> None:
    books.errors.append(error)
    runner.take(rollback("y", 3, 2, 1))
    idle(runner)
    assert not answers.settled
    assert {key: failure[0] for key, failure in answers.failures.items()} == {("y", n): result for n in (1, 2, 3)}
    runner.take(rollback("y", 3, 2, 1))
    idle(runner)
    assert books.rollbacks == [("y", [3, 2, 1])] * 2
    assert answers.settled == {("y", n): 1 for n in (1, 2, 3)}


def test_a_command_that_comes_again_is_not_begun_twice(runner: Runner, books: Books, answers: Answers) -> None:
    runner.take(commit("x0"))
    wait_until(lambda: books.batches, what="the first batch")
    for _ in range(3):
        runner.take(commit("x0"))
        runner.take(commit("x1", 1, 2))
        runner.take(commit("x1", 2, 3))
    books.gate.set()
    idle(runner)
    assert books.batches == [["x0"], ["x1", "x1"]], "its branch 3 was new"
    assert answers.settled == {("x0", 1): 1, ("x1", 1): 1, ("x1", 2): 1, ("x1", 3): 1}


def test_nothing_is_begun_after_close(runner: Runner, books: Books, answers: Answers) -> None:
    runner.take(commit("x0"))
    wait_until(lambda: books.batches, what="the first batch")
    runner.take(commit("x1"))
    runner.stop()
    runner.take(commit("x2"))
    runner.close()
    books.gate.set()
    wait_until(lambda: books.awaited or answers.settled, what="the batch that was under way")
    assert books.batches == [["x0"]]
    runner.restart()
    for n in range(3):
        runner.take(commit(f"x{n}"))
    idle(runner)
    assert {xid for xid, _ in answers.settled} == {"x0", "x1", "x2"}


def test_commits_of_a_loop_that_ended_are_begun_anew(runner: Runner, answers: Answers) -> None:
    books = Books(awaited=True)
    runner.serve(RESOURCE, books)

    def in_loop(work: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            runner.adopt_loop()
            await work()

        ended: Future[None] = Future()

        def run() -> None:
            asyncio.run(main())
            ended.set_result(None)

        threading.Thread(target=run).start()
        ended.result(20)

    async def leave_under_way() -> None:
        runner.take(commit("x0"))
        runner.take(commit("x1"))
        while not books.batches:
            await asyncio.sleep(0.001)

    async def end() -> None:
        books.gate.set()
        runner.take(commit("x0"))
        runner.take(commit("x1"))
        while runner.busy:
            await asyncio.sleep(0.001)

    in_loop(leave_under_way)
    assert answers.failures[("x0", 1)][1] == "CancelledError"
    in_loop(end)
    assert answers.settled == {("x0", 1): 1, ("x1", 1): 1}


def test_participants_of_branches_go_on_as_they_did(runner: Runner, answers: Answers) -> None:
    class Each:
        database = None
        seen: list[int] = []  # noqa: RUF012 - one instance

        def is_async(self, command: Command) -> bool:
            return False

        def settle(self, command: Command, branch: BranchCommand) -> None:
            self.seen.append(branch.branch_id)
            if branch.branch_id == 2:
                raise ParkError("look")

    runner.serve(RESOURCE, Each())
    runner.take(commit("x", 1, 2, 3))
    idle(runner)
    assert Each.seen == [1, 2, 3]
    assert answers.settled == {("x", 1): 1, ("x", 3): 1}
    assert answers.failures == {("x", 2): (CommandResult.PARK, "PARK", "look")}


def test_what_lives_in_the_loop_of_the_runner_ends_with_it(answers: Answers) -> None:
    ended: list[asyncio.AbstractEventLoop] = []

    async def at_end() -> None:
        ended.append(asyncio.get_running_loop())

    runner, books = Runner(answers, 1, at_end), Books(awaited=True)
    runner.serve(RESOURCE, books)
    runner.take(commit("x"))
    wait_until(lambda: books.batches, what="the batch")
    runner.stop()
    runner.close()
    runner.join()
    assert answers.failures["x", 1][1] == "CancelledError"
    assert len(ended) == 1
    assert ended[0].is_closed()


def test_what_gathers_is_one_batch_and_does_not_outlast_the_client(runner: Runner, books: Books, answers: Answers) -> None:
    books.gathering, started = 5.0, time.monotonic()
    books.gate.set()
    runner.take(commit("x0"))
    runner.take(commit("x1"))
    assert not books.batches
    runner.stop()
    if books.awaited:
        runner.close()
        runner.join()
        assert not books.batches, "they come again"
    else:
        idle(runner)
        assert books.batches == [["x0", "x1"]]
    assert time.monotonic() - started < 3


def test_what_failed_together_does_not_gather_again(runner: Runner, books: Books, answers: Answers) -> None:
    books.gathering, started = 0.2, time.monotonic()
    books.gate.set()
    books.poison.add("x7")
    for n in range(30):
        runner.take(commit(f"x{n}"))
    idle(runner)
    assert len(books.batches[0]) == 30
    assert books.batches[1:] == [[f"x{n}"] for n in range(30)]
    assert list(answers.failures) == [("x7", 1)]
    assert time.monotonic() - started < 2


def test_what_somebody_waits_for_does_not_gather(runner: Runner, books: Books, answers: Answers) -> None:
    books.gathering, books.waited_for = 0.5, {"x1", "x2"}
    books.gate.set()
    for n in range(4):
        runner.take(commit(f"x{n}"))
    wait_until(lambda: sum(map(len, books.batches)) == 2, what="those that are waited for")
    assert sorted(xid for batch in books.batches for xid in batch) == ["x1", "x2"]
    idle(runner)
    assert books.batches[-1] == ["x0", "x3"]
    assert not answers.failures


def test_what_gathers_does_not_hold_up_what_is_waited_for(runner: Runner, books: Books, answers: Answers) -> None:
    books.gathering, books.waited_for = 0.05, {"x1"}
    runner.take(commit("x0"))
    wait_until(lambda: books.batches, what="a batch that waits for the gate")
    runner.take(commit("x1"))
    wait_until(lambda: len(books.batches) == 2, what="the other one beside it")
    books.gate.set()
    idle(runner)
    assert not answers.failures
