"""Retry schedule, timers, absent XIDs, explanations."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from txcoord_proto.errors import TxcoordError
from txcoord_proto.status import GlobalStatus, Settlement
from txcoord_proto.xid import Xid
from txcoord_server.domain.absent import History, answer_absent
from txcoord_server.domain.answers import SETTLED, Answer, Decided, Refused, Settlements
from txcoord_server.domain.effects import AbsentQuestion, StoredOutcome
from txcoord_server.domain.explain import explain, next_events
from txcoord_server.domain.retry import Schedule
from txcoord_server.domain.timers import Timers

from tests.unit.server.books import EPOCH, STOCK, Books


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_zero_never_above_the_cap_and_never_shrinks(attempts: int, random: float) -> None:
    schedule = Schedule()
    delay = schedule.delay(attempts, random)
    assert 1 <= delay <= schedule.cap
    assert schedule.delay(attempts + 1, random) >= delay


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 50)), max_size=50), st.integers(0, 10_000))
def test_timers_give_what_is_due_once_and_nothing_early(added: list[tuple[int, int]], now: int) -> None:
    timers: Timers[tuple[int, int]] = Timers()
    for item in added:
        timers.add(item[0], item)
    first = list(timers.due(now))
    assert all(when <= now for when, _ in first)
    assert {i for i in added if i[0] <= now - 128} <= set(first)
    rest = list(timers.due(100_000))
    assert sorted({*first, *rest}) == sorted(set(added))
    assert not set(first) & set(rest)


def test_a_removed_timer_is_not_due() -> None:
    timers: Timers[str] = Timers()
    timers.add(1_000, "a")
    timers.remove(1_000, "a")
    timers.remove(1_000, "never there")
    assert list(timers.due(10_000)) == []


HISTORY = History("default", {EPOCH: 100})
ABOVE, BELOW, OTHER_EPOCH = (str(Xid("default", e, s)) for e, s in ((EPOCH, 101), (EPOCH, 100), (EPOCH + 1, 1)))


def ask(kind: str, xid: str, status: str = "", service: str = "") -> Answer:
    found = {xid: StoredOutcome(xid, status, "REQUESTED", "order")} if status else {}
    question = AbsentQuestion((None, 0), kind, (xid,), (None,), service)  # type: ignore[arg-type]
    return answer_absent(question, found, HISTORY)


def code(answer: Answer) -> str:
    assert isinstance(answer, Refused)
    return answer.error.code


def test_an_unknown_xid_is_aborted_only_where_that_is_proven() -> None:
    for kind in ("register", "commit"):
        assert code(ask(kind, ABOVE)) == "XID_UNKNOWN"
        assert code(ask(kind, BELOW)) == "XID_EXPIRED"
        assert code(ask(kind, OTHER_EPOCH)) == "XID_EPOCH_UNKNOWN"
        assert code(ask(kind, "other.1.1")) == "XID_EPOCH_UNKNOWN"
        assert code(ask(kind, "nonsense")) == "XID_MALFORMED"
    assert ask("rollback", ABOVE) is SETTLED
    assert code(ask("rollback", BELOW)) == "XID_EXPIRED"
    assert code(ask("rollback", OTHER_EPOCH)) == "XID_EPOCH_UNKNOWN"


def test_a_finished_transaction_answers_from_its_row() -> None:
    assert ask("commit", ABOVE, "COMMITTED") is SETTLED
    assert ask("rollback", ABOVE, "ROLLED_BACK") is SETTLED
    answer = ask("commit", ABOVE, "ROLLED_BACK")
    assert isinstance(answer, Decided)
    assert answer.status == GlobalStatus.ROLLED_BACK
    assert answer.explanation == "Rollback is decided since its initiator asked for it, and every branch has settled."
    assert code(ask("rollback", ABOVE, "COMMITTED")) == "ALREADY_COMMITTED"
    assert code(ask("register", ABOVE, "COMMITTED")) == "NOT_ACTIVE"
    assert ask("commit", ABOVE, "COMMITTED", "order") is SETTLED
    for kind in ("commit", "rollback"):
        assert code(ask(kind, ABOVE, "COMMITTED", "thief")) == "WRONG_OWNER"


def test_an_order_about_what_is_not_in_memory_is_refused() -> None:
    assert code(ask("order", ABOVE, "COMMITTED")) == "CANNOT_FORCE"
    assert code(ask("order", ABOVE)) == "XID_UNKNOWN"
    assert code(ask("order", BELOW)) == "XID_EXPIRED"


def test_settled_says_what_the_store_proves() -> None:
    xids = ("default.0.1", ABOVE, BELOW, OTHER_EPOCH, "x")
    known = (Settlement.UNSETTLED, None, None, None, None)
    question = AbsentQuestion((None, 0), "settled", xids, known)  # type: ignore[arg-type]
    found = {ABOVE: StoredOutcome(ABOVE, "COMMITTED", "REQUESTED", "order")}
    answer = answer_absent(question, found, HISTORY)
    assert answer == Settlements(
        (Settlement.UNSETTLED, Settlement.SETTLED, Settlement.EXPIRED, Settlement.UNKNOWN, Settlement.UNKNOWN)
    )
    assert answer_absent(question, {}, HISTORY).settlements[1] is Settlement.UNKNOWN  # type: ignore[union-attr]


def test_a_transaction_explains_itself_at_every_station() -> None:
    books = Books()
    transaction = books.begin()
    codes = [explain(transaction).code]
    _, branch = books.register(transaction.xid, STOCK)
    codes.append(explain(transaction).code)
    books.commit(transaction.xid)
    codes.append(explain(transaction).code)
    assert [e.code for e in next_events(transaction)] == ["ROLLBACK_UNFINISHED", "ROLLBACK_TIMEOUT"]
    books.report(transaction.xid, branch)
    codes.append(explain(transaction).code)
    assert [e.code for e in next_events(transaction)] == ["COMMAND"]
    the_branch = transaction.branches[0]
    the_branch.first_command_at = the_branch.attempts = 1
    codes.append(explain(transaction).code)
    books.t.settler.failed(the_branch, "RETRY", "disk full", books.now + 500)
    codes.append(explain(transaction).code)
    assert "disk full" in explain(transaction).text
    assert next_events(transaction)[0].at == books.now + 500
    books.t.settler.park(the_branch, "NOT_TRIED", "no row")
    codes.append(explain(transaction).code)
    assert next_events(transaction)[0].code == "OPERATOR"
    books.settle(the_branch)
    codes.append(explain(transaction).code)
    assert codes == [
        "UNDECIDED", "PHASE_ONE_RUNNING", "COMMIT_WAITS_FOR_REPORT", "WAITS_FOR_PARTICIPANT", "SECOND_PHASE_RUNNING",
        "SECOND_PHASE_FAILING", "BRANCH_PARKED", "FINISHED",
    ]  # fmt: skip
    assert next_events(transaction) == []


def test_every_refusal_says_what_to_do() -> None:
    for kind, xid in (("commit", ABOVE), ("commit", BELOW), ("commit", OTHER_EPOCH), ("register", "x")):
        answer = ask(kind, xid)
        assert isinstance(answer, Refused)
        assert isinstance(answer.error, TxcoordError)
        assert ":" in answer.error.message or ";" in answer.error.message
