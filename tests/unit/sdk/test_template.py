"""What surrounds a function, stepped through by hand: no thread, no loop, no coordinator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from txcoord_proto.errors import (
    CoordinatorUnreachableError,
    ExpiredXidError,
    LocalTransactionOpenError,
    LockConflictError,
    NoTransactionError,
    OutcomeUnknownError,
    RolledBackError,
    TransactionEndedError,
    TransactionExistsError,
    UnknownXidError,
    WrongOwnerError,
)
from txcoord_proto.status import BranchType, GlobalStatus, PhaseOne, Reason, Wait
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.context import current, entered
from txcoord_sdk.session.requests import DECIDED, SETTLED, Beginning, Registration, Sink
from txcoord_sdk.transaction.effects import Ask, Invoke, Pause, Steps
from txcoord_sdk.transaction.options import Hooks, Options, Propagation
from txcoord_sdk.transaction.template import run_steps
from txcoord_sdk.transaction.transaction import GlobalTransaction

BRANCH = Registration(BranchType.TCC, "stock:reserve@1")


class Script:
    """Writes down what is asked and answers what it was told to answer, the last of a kind again and again.

    Args:
        answers: By request, in order; an exception is an error.
    """

    def __init__(self, **answers: Any) -> None:
        self.asked: list[str] = []
        self.begun: list[GlobalTransaction] = []
        self._answers: dict[str, list[Any]] = {
            "begin": [None],
            "register": [7],
            "commit": [SETTLED],
            "rollback": [SETTLED],
            "rollback_only": [DECIDED],
        }
        self._answers.update({kind: answer if isinstance(answer, list) else [answer] for kind, answer in answers.items()})

    def transaction(self, first_begun_at: int = 0, initiator: bool = True) -> GlobalTransaction:
        self.begun.append(GlobalTransaction(self, Beginning("order", 1000, first_begun_at=first_begun_at), initiator, 60.0))
        return self.begun[-1]

    def _answer(self, kind: str, what: str, sink: Sink, beginning: Beginning | None = None) -> None:
        self.asked.append(what)
        answers = self._answers[kind]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        failed = isinstance(answer, BaseException)
        if beginning is not None and not beginning.xid and not failed:
            beginning.xid = f"g.1.{len(self.begun)}"
        sink(*((None, answer) if failed else (answer, None)))

    def begin(self, beginning: Beginning, sink: Sink) -> None:
        self._answer("begin", "begin", sink, beginning)

    def branch_id(self, beginning: Beginning, sink: Sink) -> None:
        self._answer("begin", "branch id", sink, beginning)

    def register(self, beginning: Beginning, registration: Registration, sink: Sink) -> None:
        self._answer("register", "register" if beginning.xid else "begin+register", sink, beginning)

    def commit(self, xid: str, wait: Wait, sink: Sink) -> None:
        self._answer("commit", f"commit {xid}", sink)

    def rollback(self, xid: str, wait: Wait, reason: str, sink: Sink) -> None:
        self._answer("rollback", f"rollback {xid}", sink)

    def rollback_only(self, xid: str, reason: str, sink: Sink) -> None:
        self._answer("rollback_only", f"veto {xid}", sink)

    def report(self, xid: str, branch_id: int, result: PhaseOne, error: str = "", rides: bool = False) -> None:
        self.asked.append(f"report {branch_id} {result}")


def ask(start: Callable[[Sink], None]) -> tuple[object, BaseException | None]:
    """The answer to a request that is answered at once."""
    heard: list[tuple[object, BaseException | None]] = []
    start(lambda answer, error: heard.append((answer, error)))
    return heard.pop()


def walk(steps: Steps[Any], pauses: list[float] | None = None) -> Any:
    """Do what the steps need, here and now."""
    value: Any = None
    failure: BaseException | None = None
    while True:
        try:
            effect = steps.throw(failure) if failure is not None else steps.send(value)
        except StopIteration as end:
            return end.value
        value = failure = None
        match effect:
            case Ask(start):
                value, failure = ask(start)
            case Pause(seconds):
                (pauses if pauses is not None else []).append(seconds)
            case Invoke(call):
                try:
                    value = call()
                except BaseException as error:
                    failure = error


def run(script: Script, function: Callable[[], Any], pauses: list[float] | None = None, left: str = "", **options: Any) -> Any:
    return walk(run_steps(Options(**options), script.transaction, function, lambda: left), pauses)


def registers(result: Any = "fine", times: int = 1) -> Callable[[], Any]:
    """A function with branches."""

    def function() -> Any:
        transaction = current()
        assert transaction is not None
        for _ in range(times):
            walk(transaction.register_steps(BRANCH))
        if isinstance(result, BaseException):
            raise result
        return result

    return function


# ---------------------------------------------------------------- the end


def test_two_branches_and_a_commit_are_three_requests() -> None:
    script = Script()
    assert run(script, registers(times=2)) == "fine"
    assert script.asked == ["begin+register", "register", "commit g.1.1"]
    assert script.begun[0].status is GlobalStatus.COMMITTED
    assert script.begun[0].settled


def test_what_never_needed_an_xid_costs_nothing() -> None:
    script = Script()
    assert run(script, lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        run(script, lambda: 1 // 0)
    assert script.asked == []
    assert [t.status for t in script.begun] == [GlobalStatus.COMMITTED, GlobalStatus.ROLLED_BACK]


def test_an_exception_rolls_back() -> None:
    script = Script()
    with pytest.raises(KeyError):
        run(script, registers(KeyError("sku")))
    assert script.asked == ["begin+register", "rollback g.1.1"]
    assert script.begun[0].status is GlobalStatus.ROLLED_BACK


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2)])
def test_so_does_what_is_no_exception(error: BaseException) -> None:
    script = Script()
    with pytest.raises(type(error)):
        run(script, registers(error))
    assert script.asked[-1] == "rollback g.1.1"


def test_decided_but_not_settled_is_committed() -> None:
    script = Script(commit=DECIDED)
    run(script, registers())
    assert script.begun[0].status is GlobalStatus.COMMITTING
    assert not script.begun[0].settled


def decision(status: str, decision: str, reason: str, settled: bool = True) -> pb.DecisionReply:
    return pb.DecisionReply(
        xid="g.1.1", status=status, decision=decision, reason=reason, settled=settled, explanation="It was so."
    )


@pytest.mark.parametrize(("status", "reason"), [("ROLLED_BACK", "TIMEOUT"), ("ROLLING_BACK", "DEADLOCK"), ("PARKED", "TIMEOUT")])
def test_a_rollback_in_place_of_the_commit_is_told_with_its_reason(status: str, reason: str) -> None:
    script = Script(commit=decision(status, "ROLLBACK", reason))
    with pytest.raises(RolledBackError) as caught:
        run(script, registers())
    assert caught.value.xid == "g.1.1"
    assert caught.value.reason == reason
    assert "It was so." in str(caught.value)


def test_a_commit_that_waits_for_a_person_is_a_commit() -> None:
    script = Script(commit=decision("PARKED", "COMMIT", "REQUESTED", settled=False))
    assert run(script, registers()) == "fine"
    assert script.begun[0].status is GlobalStatus.PARKED


def test_an_xid_that_the_coordinator_never_kept_was_rolled_back() -> None:
    script = Script(commit=UnknownXidError("not known"))
    with pytest.raises(RolledBackError) as caught:
        run(script, registers())
    assert caught.value.reason == "XID_UNKNOWN"


@pytest.mark.parametrize("error", [CoordinatorUnreachableError("gone"), ExpiredXidError("long ago"), OutcomeUnknownError("?")])
def test_what_is_not_known_is_said_to_be_unknown_and_nothing_is_done_about_it(error: BaseException) -> None:
    script = Script(commit=error)
    with pytest.raises(OutcomeUnknownError):
        run(script, registers())
    assert script.asked == ["begin+register", "commit g.1.1"]


def test_a_commit_that_was_refused_is_not_unknown() -> None:
    with pytest.raises(WrongOwnerError):
        run(Script(commit=WrongOwnerError("not yours")), registers())


def test_a_failed_rollback_leaves_the_error_of_the_function(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyError):
        run(Script(rollback=CoordinatorUnreachableError("gone")), registers(KeyError("sku")))
    assert "the coordinator does it at its deadline" in caplog.text


def test_a_refused_first_registration_leaves_nothing_to_roll_back() -> None:
    script = Script(register=LockConflictError("held"))
    with pytest.raises(LockConflictError):
        run(script, registers())
    assert script.asked == ["begin+register"]


def test_a_begin_that_nobody_waited_for_is_not_left_behind() -> None:
    """The task that registered was cancelled before the answer came."""
    script = Script()

    def function() -> None:
        transaction = current()
        assert transaction is not None
        steps = transaction.register_steps(BRANCH)
        assert isinstance(next(steps), Ask)
        with pytest.raises(KeyboardInterrupt):
            steps.throw(KeyboardInterrupt())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(script, function)
    assert script.asked == ["begin", "rollback g.1.1"]


# ---------------------------------------------------------------- local transactions and vetoes


def test_commit_with_an_open_local_transaction_is_refused_and_may_be_repeated() -> None:
    script = Script()
    transaction = script.transaction()
    walk(transaction.register_steps(BRANCH))
    transaction.local_opened("key", "stock, branch 7")
    with pytest.raises(LocalTransactionOpenError, match="stock, branch 7"):
        walk(transaction.commit_steps())
    assert transaction.status is GlobalStatus.ACTIVE
    transaction.local_ended("key")
    walk(transaction.commit_steps())
    assert transaction.status is GlobalStatus.COMMITTED


def test_leaving_the_function_with_one_open_rolls_back() -> None:
    script = Script()

    def function() -> None:
        registers()()
        transaction = current()
        assert transaction is not None
        transaction.local_opened("key", "stock, branch 7")

    with pytest.raises(LocalTransactionOpenError):
        run(script, function)
    assert script.asked == ["begin+register", "rollback g.1.1"]


def test_leaving_it_with_an_unwritten_session_rolls_back() -> None:
    script = Script()
    with pytest.raises(LocalTransactionOpenError, match="the session"):
        run(script, registers(), left="the session s")
    assert script.asked == ["begin+register", "rollback g.1.1"]


def test_rollback_only_in_the_initiator() -> None:
    script = Script()

    def function() -> None:
        registers()()
        transaction = current()
        assert transaction is not None
        transaction.set_rollback_only("POST /debits got no answer")

    with pytest.raises(RolledBackError, match="POST /debits got no answer") as caught:
        run(script, function)
    assert caught.value.reason == Reason.ROLLBACK_ONLY
    assert script.asked == ["begin+register", "rollback g.1.1"]


def test_a_participant_vetoes_and_never_decides() -> None:
    script = Script()
    transaction = script.transaction(initiator=False)
    transaction._beginning.xid = "g.1.1"
    walk(transaction.veto_steps())
    assert script.asked == []
    transaction.set_rollback_only("lost")
    walk(transaction.veto_steps())
    assert script.asked == ["veto g.1.1"]
    for steps in (transaction.commit_steps, transaction.rollback_steps):
        with pytest.raises(TransactionEndedError, match="only the service that began it"):
            walk(steps())


def test_nothing_is_done_in_the_name_of_an_ended_transaction() -> None:
    script = Script()
    run(script, registers())
    for steps in (
        script.begun[0].commit_steps(),
        script.begun[0].rollback_steps(),
        script.begun[0].register_steps(BRANCH),
    ):
        with pytest.raises(TransactionEndedError):
            walk(steps)


# ---------------------------------------------------------------- propagation

_OUTER, _NEW, _NONE = "outer", "new", "none"


@pytest.mark.parametrize(
    ("propagation", "inside", "outside"),
    [
        (Propagation.REQUIRED, _OUTER, _NEW),
        (Propagation.REQUIRES_NEW, _NEW, _NEW),
        (Propagation.SUPPORTS, _OUTER, _NONE),
        (Propagation.NOT_SUPPORTED, _NONE, _NONE),
        (Propagation.MANDATORY, _OUTER, NoTransactionError),
        (Propagation.NEVER, TransactionExistsError, _NONE),
    ],
)
def test_propagation(propagation: Propagation, inside: object, outside: object) -> None:
    for exists, expected in ((True, inside), (False, outside)):
        script = Script()
        outer = Script().transaction() if exists else None

        def seen(outer: GlobalTransaction | None = outer) -> str:
            found = current()
            return _NONE if found is None else _OUTER if found is outer else _NEW

        with entered(outer):
            if isinstance(expected, str):
                assert run(script, seen, propagation=propagation) == expected
            else:
                assert isinstance(expected, type)
                assert issubclass(expected, Exception)
                with pytest.raises(expected):
                    run(script, seen, propagation=propagation)
            assert current() is outer
        assert len(script.begun) == (expected == _NEW)
        assert outer is None or not outer.ended


def test_one_that_joins_neither_commits_nor_rolls_back() -> None:
    outer = Script()
    with entered(outer.transaction()):
        run(Script(), registers())
        with pytest.raises(KeyError):
            run(Script(), registers(KeyError("caught by the outer one")))
    assert outer.asked == ["begin+register", "register"]
    assert not outer.begun[0].ended


# ---------------------------------------------------------------- rules


class OutOfStockError(LookupError):
    """A business error."""


class SoldOutForeverError(OutOfStockError):
    """A special case of it."""


@pytest.mark.parametrize(
    ("raised", "rules", "end"),
    [
        (OutOfStockError(), {}, "rollback"),
        (OutOfStockError(), {"no_rollback_for": (LookupError,)}, "commit"),
        (OutOfStockError(), {"no_rollback_for": (LookupError,), "rollback_for": (OutOfStockError,)}, "rollback"),
        (SoldOutForeverError(), {"no_rollback_for": (SoldOutForeverError,), "rollback_for": (LookupError,)}, "commit"),
        (SoldOutForeverError(), {"no_rollback_for": (LookupError,), "rollback_for": (OutOfStockError,)}, "rollback"),
        (ValueError(), {"no_rollback_for": (LookupError,)}, "rollback"),
        (OutOfStockError(), {"no_rollback_for": (OutOfStockError,), "rollback_for": (OutOfStockError,)}, "rollback"),
    ],
)
def test_the_nearest_rule_counts(raised: Exception, rules: dict[str, Any], end: str) -> None:
    script = Script()
    with pytest.raises(type(raised)):
        run(script, registers(raised), **rules)
    assert script.asked[-1] == f"{end} g.1.1"


# ---------------------------------------------------------------- retries


def test_the_whole_function_runs_again_with_its_first_begin_time() -> None:
    script, pauses = Script(register=[LockConflictError("held"), LockConflictError("held"), 7]), [0.0]
    assert run(script, registers(), pauses, retries=3) == "fine"
    assert script.asked == ["begin+register", "begin+register", "begin+register", "commit g.1.3"]
    assert {t.begun_at for t in script.begun} == {script.begun[0].begun_at}
    assert len(pauses) == 3
    assert pauses[2] > 0


def test_only_retryable_errors_are_tried_again_and_only_so_often() -> None:
    for error, tries in ((LockConflictError("held"), 3), (KeyError("sku"), 1), (OutcomeUnknownError("?"), 1)):
        script = Script()
        with pytest.raises(type(error)):
            run(script, registers(error), retries=2)
        assert len(script.begun) == tries


def test_the_next_attempt_waits_until_the_last_one_is_settled() -> None:
    script = Script(rollback=[DECIDED, DECIDED, SETTLED])
    calls = iter([LockConflictError("held"), "fine"])
    assert run(script, lambda: registers(next(calls))(), retries=1) == "fine"
    assert script.asked == [
        "begin+register", "rollback g.1.1", "rollback g.1.1", "rollback g.1.1", "begin+register", "commit g.1.2",
    ]  # fmt: skip


def test_there_is_no_next_attempt_while_the_last_one_is_not_settled() -> None:
    script = Script(rollback=DECIDED)
    with pytest.raises(LockConflictError):
        run(script, registers(LockConflictError("held")), retries=5)
    assert len(script.begun) == 1


def test_what_was_committed_by_hand_is_not_done_again() -> None:
    script = Script()

    def function() -> None:
        registers()()
        transaction = current()
        assert transaction is not None
        walk(transaction.commit_steps())
        raise LockConflictError("of something else")

    with pytest.raises(LockConflictError):
        run(script, function, retries=3)
    assert script.asked == ["begin+register", "commit g.1.1"]


def test_a_rollback_in_place_of_the_commit_is_tried_again() -> None:
    script = Script(commit=[decision("ROLLED_BACK", "ROLLBACK", "DEADLOCK"), SETTLED])
    assert run(script, registers(), retries=1) == "fine"


# ---------------------------------------------------------------- hooks


@pytest.mark.parametrize(
    ("answers", "result", "expected"),
    [
        ({}, "fine", ["before_commit", "after_commit", "after_completion"]),
        ({}, KeyError(), ["after_rollback", "after_completion"]),
        (
            {"commit": decision("ROLLED_BACK", "ROLLBACK", "TIMEOUT")},
            1,
            ["before_commit", "after_rollback", "after_completion"],
        ),
        ({"commit": OutcomeUnknownError("?")}, 1, ["before_commit", "after_completion"]),
        ({"rollback": OutcomeUnknownError("?")}, KeyError(), ["after_completion"]),
    ],
)
@pytest.mark.parametrize("broken", [False, True])
def test_hooks(answers: dict[str, Any], result: Any, expected: list[str], broken: bool) -> None:
    script = Script(**answers)
    called: list[str] = []

    def hook(name: str) -> Callable[[GlobalTransaction], None]:
        def call(transaction: GlobalTransaction) -> None:
            called.append(name)
            assert current() is (transaction if name == "before_commit" else None)
            if broken:
                raise RuntimeError("a hook's own trouble")

        return call

    names = ("before_commit", "after_commit", "after_rollback", "after_completion")
    hooks = Hooks(**{name: hook(name) for name in names})
    with contextlib.suppress(KeyError, RolledBackError, OutcomeUnknownError):
        run(script, registers(result), hooks=hooks)
    assert called == expected
