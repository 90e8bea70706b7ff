"""Every operation means the same over the stream and over the unary methods."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from txcoord_proto.errors import TxcoordError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.contract.transport.conftest import Connect, Ending, Participant, Transport, fresh
from tests.integration.server.stub import STOCK

OTHER_EPOCH = "default.000000001.00000001"


def code_of(caught: pytest.ExceptionInfo[TxcoordError]) -> str:
    assert len(caught.value.message) > 20, "it says what to do"
    return caught.value.code


# ---------------------------------------------------------------- begin, register, report


def test_begin_and_its_status(order: Transport) -> None:
    xid = order.begin(name="place_order", timeout_ms=30_000, key="order:begin", traceparent="00-1-2-01")
    found = order.status(xid)
    assert (found.name, found.service, found.key, found.traceparent) == ("place_order", "order", "order:begin", "00-1-2-01")
    assert found.status == pb.ACTIVE
    assert found.deadline_at - found.begun_at == 30_000
    assert (found.explanation_code, [e.code for e in found.next_events]) == ("UNDECIDED", ["ROLLBACK_TIMEOUT"])


def test_a_begin_that_is_repeated_finds_the_same_transaction(order: Transport, connect: Connect) -> None:
    key = order.branch_id()
    xid = order.begin(begin_key=key)
    assert order.begin(begin_key=key) == xid
    assert order.begin() != xid
    assert connect("stock").begin(begin_key=key) != xid, "another service's is another"


def test_begin_within_the_first_registration(order: Transport) -> None:
    branch, first = order.branch_id(), {"begin": pb.BeginRequest(name="both"), "lock_keys": [fresh("row-")], "arguments": b"{}"}
    xid = order.begin_and_register(branch, **first)
    assert order.begin_and_register(branch, **first) == xid
    found = order.status(xid)
    assert (found.name, [b.id for b in found.branches]) == ("both", [branch])
    order.rollback(xid)


def test_a_branch_from_registration_to_report(order: Transport) -> None:
    xid = order.begin()
    row = fresh("row-")
    branch = order.register(xid, lock_keys=[row])
    (seen,) = order.status(xid).branches
    assert (seen.id, seen.type, seen.resource, seen.status) == (branch, pb.TCC, STOCK, "REGISTERED")
    assert (list(seen.lock_keys), seen.reported_at) == ([row], 0)
    assert seen.registered_at > 0
    order.report(xid, branch)
    (seen,) = order.status(xid).branches
    assert (seen.status, seen.reported_at > 0) == ("DONE", True)
    order.report(xid, branch)
    order.report(xid, branch, pb.PHASE_ONE_FAILED)
    assert order.status(xid).branches[0].status == "DONE", "what was reported stays"
    order.rollback(xid)


def test_a_branch_that_is_done_with_its_registration(order: Transport) -> None:
    xid = order.begin()
    order.register(xid, done=True)
    assert order.commit(xid) == Ending("COMMIT", False)


def test_a_registration_is_repeated_by_its_branch_id(order: Transport) -> None:
    xid = order.begin()
    branch = order.register(xid)
    assert order.register(xid, id=branch) == branch
    with pytest.raises(TxcoordError) as caught:
        order.register(xid, "balance:debit@2", id=branch)
    assert code_of(caught) == "BRANCH_MISMATCH"
    assert len(order.status(xid).branches) == 1


def test_blocks_of_branch_ids(order: Transport) -> None:
    block: pb.BranchIdBlock = order.ask("allocate", pb.AllocateBranchIdsRequest(count=10))
    again: pb.BranchIdBlock = order.ask("allocate", pb.AllocateBranchIdsRequest(count=10))
    assert block.count == again.count == 10
    assert again.first >= block.first + 10
    for count in (0, 1 << 20):
        with pytest.raises(TxcoordError) as caught:
            order.ask("allocate", pb.AllocateBranchIdsRequest(count=count))
        assert code_of(caught) == "INVALID_ARGUMENT"


# ---------------------------------------------------------------- decisions


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
def test_waiting_for_settlement(order: Transport, coordinator: CoordinatorProcess, commit: bool) -> None:
    resource = fresh("stock:wait@")
    xid = order.prepared(resource)
    act = order.commit if commit else order.rollback
    with Participant(coordinator.address, resource) as participant, ThreadPoolExecutor(1) as thread:
        answer = thread.submit(act, xid, pb.WAIT_SETTLED)
        commands = participant.commands()
        assert (list(commands.xids), commands.resource, commands.commit) == ([xid], resource, commit)
        time.sleep(0.1)
        assert not answer.done(), "it is not settled"
        participant.done(commands)
        assert answer.result(5) == Ending("COMMIT" if commit else "ROLLBACK", True)
    assert act(xid).settled, "and it is heard again"
    found = order.status(xid)
    assert found.status == (pb.COMMITTED if commit else pb.ROLLED_BACK)
    assert found.settled_at > 0
    (branch,) = found.branches
    assert (branch.status, branch.attempts, bool(branch.executor)) == ("SETTLED", 1, True)
    times = (branch.registered_at, branch.reported_at, branch.first_command_at, branch.settled_at)
    assert 0 < found.begun_at <= times[0] <= times[1] <= times[2] <= times[3] == found.settled_at, times


def test_deciding_without_waiting(order: Transport) -> None:
    xid = order.prepared()
    assert order.commit(xid, pb.WAIT_DECIDED) == Ending("COMMIT", False)
    assert order.status(xid).status == pb.COMMITTING


def test_waiting_has_a_limit(order: Transport) -> None:
    started = time.monotonic()
    assert order.commit(order.prepared("nobody:serves@1"), pb.WAIT_SETTLED) == Ending("COMMIT", False)
    assert 4 < time.monotonic() - started < 8


def test_a_decision_without_branches_is_settled_at_once(order: Transport) -> None:
    xid = order.begin()
    assert order.commit(xid, pb.WAIT_SETTLED) == Ending("COMMIT", True)
    assert order.status(xid).status == pb.COMMITTED


def test_a_decision_never_changes(order: Transport) -> None:
    committed, rolled_back = order.prepared(), order.prepared()
    assert order.commit(committed).decision == order.commit(committed).decision == "COMMIT"
    with pytest.raises(TxcoordError) as caught:
        order.rollback(committed)
    assert code_of(caught) == "ALREADY_COMMITTED"
    assert order.rollback(rolled_back).decision == order.rollback(rolled_back).decision == "ROLLBACK"
    assert order.commit(rolled_back) == Ending("ROLLBACK", False, "REQUESTED"), "the truth, not what was asked for"
    for xid in (committed, rolled_back):
        with pytest.raises(TxcoordError) as caught:
            order.register(xid)
        assert code_of(caught) == "NOT_ACTIVE"
        assert caught.value.retryable


def test_any_participant_may_veto(order: Transport, connect: Connect) -> None:
    xid = order.prepared()
    assert connect("stock").veto(xid) == Ending("ROLLBACK", False)
    assert order.commit(xid) == Ending("ROLLBACK", False, "ROLLBACK_ONLY")


def test_an_unknown_phase_one_rolls_back(order: Transport) -> None:
    xid = order.begin()
    order.report(xid, order.register(xid), pb.PHASE_ONE_UNKNOWN, "connection lost in COMMIT")
    assert order.commit(xid) == Ending("ROLLBACK", False, "BRANCH_UNKNOWN")
    assert order.status(xid).branches[0].error == "connection lost in COMMIT"


def test_a_failed_branch_takes_no_part(order: Transport) -> None:
    xid = order.prepared()
    order.report(xid, order.register(xid), pb.PHASE_ONE_FAILED)
    assert order.commit(xid).decision == "COMMIT"
    assert [b.status for b in order.status(xid).branches] == ["DONE", "FAILED"]


def test_a_commit_waits_for_a_report_and_then_rolls_back(order: Transport) -> None:
    xid = order.begin(timeout_ms=600)
    order.register(xid)
    assert order.commit(xid).reason == "BRANCH_UNFINISHED"


def test_the_deadline_rolls_back(order: Transport) -> None:
    xid = order.begin(timeout_ms=100)
    order.report(xid, order.register(xid))
    wait_until(lambda: order.status(xid).status == pb.ROLLING_BACK, 5, "the deadline")
    assert order.commit(xid) == Ending("ROLLBACK", False, "TIMEOUT")


def test_only_who_began_decides(order: Transport, connect: Connect) -> None:
    xid = order.prepared()
    stranger = connect("stock")
    for act in (stranger.commit, stranger.rollback):
        with pytest.raises(TxcoordError) as caught:
            act(xid)
        assert code_of(caught) == "WRONG_OWNER"
    assert order.status(xid).status == pb.ACTIVE


def test_a_branch_that_needs_a_person(order: Transport, coordinator: CoordinatorProcess) -> None:
    resource = fresh("stock:park@")
    xid = order.prepared(resource)
    with Participant(coordinator.address, resource) as participant, ThreadPoolExecutor(1) as thread:
        answer = thread.submit(order.commit, xid, pb.WAIT_SETTLED)
        participant.failed(participant.commands(), pb.COMMAND_PARK)
        ending = answer.result(5)
    assert (ending.decision, ending.settled) == ("COMMIT", False)
    found = order.status(xid)
    assert (found.status, found.explanation_code) == (pb.PARKED, "BRANCH_PARKED")
    assert (found.branches[0].error_code, found.branches[0].error) == ("DIRTY", "no stock")


# ---------------------------------------------------------------- questions


def test_status_by_business_key_is_the_newest(order: Transport) -> None:
    first = order.begin(key="order:42")
    order.register(first)
    second = order.begin(key="order:42")
    order.register(second)
    assert order.status(key="order:42").xid == second
    with pytest.raises(TxcoordError) as caught:
        order.status(key="order:none")
    assert code_of(caught) == "XID_UNKNOWN"


def test_locks(order: Transport) -> None:
    db, holder, other = fresh("db@"), order.begin(), order.begin()
    branch = order.register(holder, db, pb.AT, lock_keys=["row-1", "row-2"])
    with pytest.raises(TxcoordError) as caught:
        order.register(other, db, pb.AT, lock_keys=["row-3", "row-2"])
    assert code_of(caught) == "LOCK_CONFLICT"
    assert caught.value.details == {"holder": holder, "holder_status": "ACTIVE", "key": "row-2", "resource": db}

    def query(xid: str, *keys: str) -> pb.LockReply:
        reply: pb.LockReply = order.ask("lock_query", pb.LockQuery(resource=db, lock_keys=keys, xid=xid))
        return reply

    assert (query(other, "row-1").free, query(other, "row-1").holder) == (False, holder)
    assert query(other, "row-3").free, "a refused registration takes nothing"
    assert query(holder, "row-1").free, "its own do not count"
    order.report(holder, branch)
    order.commit(holder)
    assert query(other, "row-1", "row-2").free


def test_a_registration_that_waits_for_a_lock(order: Transport, connect: Connect) -> None:
    db, holder = fresh("db@"), order.begin()
    branch = order.register(holder, db, pb.AT, lock_keys=["row-1"])
    order.report(holder, branch)
    patient = connect("order")
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(
            patient.begin_and_register, patient.branch_id(), resource=db, type=pb.AT, lock_keys=["row-1"], lock_wait_ms=5_000
        )
        time.sleep(0.1)
        assert not waiting.done()
        order.commit(holder)
        xid = waiting.result(5)
    assert order.status(xid).branches[0].resource == db
    with pytest.raises(TxcoordError) as caught:
        order.register(order.begin(), db, pb.AT, lock_keys=["row-1"], lock_wait_ms=100)
    assert code_of(caught) == "LOCK_TIMEOUT"


def test_which_transactions_are_settled(order: Transport) -> None:
    done, running = order.begin(), order.prepared()
    order.commit(done)
    never = done[:-4] + "zzzz"
    asked = [done, running, never, OTHER_EPOCH, "nonsense"]
    reply: pb.SettledReply = order.ask("settled", pb.SettledQuery(xids=asked))
    assert list(reply.settlements) == [pb.SETTLED, pb.UNSETTLED, pb.UNKNOWN, pb.UNKNOWN, pb.UNKNOWN]
    none: pb.SettledReply = order.ask("settled", pb.SettledQuery())
    assert not none.settlements
    with pytest.raises(TxcoordError) as caught:
        order.ask("settled", pb.SettledQuery(xids=["x"] * 10_001))
    assert code_of(caught) == "INVALID_ARGUMENT"


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("xid", "code"),
    [("nonsense", "XID_MALFORMED"), ("", "XID_MALFORMED"), (OTHER_EPOCH, "XID_EPOCH_UNKNOWN"), ("?", "XID_UNKNOWN")],
)
def test_xids_that_are_none(order: Transport, xid: str, code: str) -> None:
    wrong = order.begin()[:-4] + "zzzz" if xid == "?" else xid
    for act in (order.commit, order.status, order.register):
        with pytest.raises(TxcoordError) as caught:
            act(wrong)
        assert code_of(caught) == code
    if code == "XID_UNKNOWN":
        assert order.rollback(wrong) == Ending("ROLLBACK", True), "what never was is taken as rolled back"
        assert order.veto(wrong).decision == "ROLLBACK"
    else:
        for decide in (order.rollback, order.veto):
            with pytest.raises(TxcoordError) as caught:
                decide(wrong)
            assert code_of(caught) == code
    order.report(wrong, 1)  # acknowledged, so that nobody keeps it: it no longer matters


@pytest.mark.parametrize(
    ("kind", "message", "field"),
    [
        ("begin", pb.BeginRequest(name="n" * 129), "name"),
        ("begin", pb.BeginRequest(name="n\0"), "name"),
        ("begin", pb.BeginRequest(name="n", key="k" * 129), "key"),
        ("begin", pb.BeginRequest(name="n", traceparent="t" * 65), "traceparent"),
        ("begin", pb.BeginRequest(name="n", timeout_ms=(1 << 32) - 1), "timeout"),
        ("begin", pb.BeginRequest(name="n", begin_key=(1 << 64) - 1), "begin_key"),
        ("register", pb.RegisterRequest(xid="{xid}", branch_id=0, type=pb.TCC, resource=STOCK), "branch_id"),
        ("register", pb.RegisterRequest(xid="{xid}", branch_id=1 << 63, type=pb.TCC, resource=STOCK), "branch_id"),
        ("register", pb.RegisterRequest(xid="{xid}", branch_id=5, resource=STOCK), "type"),
        ("register", pb.RegisterRequest(xid="{xid}", branch_id=5, type=pb.TCC), "resource"),
        ("register", pb.RegisterRequest(xid="{xid}", branch_id=5, type=pb.TCC, resource="r" * 201), "resource"),
        (
            "register",
            pb.RegisterRequest(xid="{xid}", branch_id=5, type=pb.TCC, resource=STOCK, lock_keys=["k" * 513]),
            "lock key",
        ),
        (
            "register",
            pb.RegisterRequest(xid="{xid}", branch_id=5, type=pb.TCC, resource=STOCK, arguments=b"x" * 1048577),
            "arguments",
        ),
        ("report", pb.ReportRequest(xid="{xid}", branch_id=5), "result"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arguments_outside_their_ranges(order: Transport, kind: str, message: pb.RegisterRequest, field: str) -> None:
    xid = order.begin()
    if kind != "begin":
        message.xid = xid
    with pytest.raises(TxcoordError) as caught:
        order.ask(kind, message)
    assert (code_of(caught), caught.value.details["field"]) == ("INVALID_ARGUMENT", field)
    assert not order.status(xid).branches


def test_a_first_registration_that_is_refused_begins_nothing(order: Transport) -> None:
    key = f"order:{order.branch_id()}"
    with pytest.raises(TxcoordError) as caught:
        order.begin_and_register(order.branch_id(), begin=pb.BeginRequest(key=key), resource="with blank")
    assert code_of(caught) == "INVALID_ARGUMENT"
    with pytest.raises(TxcoordError) as caught:
        order.status(key=key)
    assert code_of(caught) == "XID_UNKNOWN"
