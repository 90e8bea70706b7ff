"""The session against a peer that does what it is told, over a wire of bytes: what real coordinators do only at bad moments.

The simulation and the integration tests run it against the real coordinator.
"""

from __future__ import annotations

import asyncio
import logging

import pytest
from txcoord_proto.errors import (
    CoordinatorUnreachableError,
    LockConflictError,
    MessageTooLargeError,
    OutcomeUnknownError,
    ResourceDeniedError,
    StoreUnavailableError,
    TxcoordError,
    UnauthenticatedError,
)
from txcoord_proto.status import BranchType, CommandResult, PhaseOne, Wait
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.participant import BranchCommand, Command
from txcoord_sdk.session import session as module
from txcoord_sdk.session.requests import DECIDED, SETTLED, Beginning, Registration

from tests.unit.sdk.far_end import refusal, scene, settle_down

# ---------------------------------------------------------------- requests and answers


async def test_the_begin_travels_within_the_first_registration() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        beginning = Beginning("place order", 30_000, "order:7", "00-trace", 12)
        first, second = s.register(beginning), s.register(beginning)
        request = await wire.asked("register")
        message = request.register
        assert (message.xid, message.branch_id, message.resource) == ("", 1000, "stock:reserve@1")
        begin = message.begin
        assert (begin.name, begin.timeout_ms, begin.key, begin.traceparent) == ("place order", 30_000, "order:7", "00-trace")
        assert begin.first_begun_at == 12
        await settle_down()
        assert not wire.sent, "the second one waits for the XID"
        wire.answer(begun=[request.id], begun_xids=["g.5.1"])
        assert await first.answer() == 1000
        assert beginning.xid == "g.5.1"
        request = await wire.asked("register")
        assert (request.register.xid, request.register.branch_id) == ("g.5.1", 1001)
        assert not request.register.HasField("begin")
        wire.answer(ok=[request.id])
        assert await second.answer() == 1001


async def test_who_waited_for_a_begin_that_failed_begins_anew() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        beginning = Beginning("order", 1000)
        first, second = s.register(beginning), s.register(beginning)
        request = await wire.asked("register")
        wire.answer(refusal(request.id, LockConflictError("held")))
        with pytest.raises(LockConflictError):
            await first.answer()
        request = await wire.asked("register")
        assert request.register.HasField("begin")
        wire.answer(begun=[request.id], begun_xids=["g.5.2"])
        assert await second.answer() == 1001


async def test_plain_answers_and_full_ones() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        asked = [s.commit("g.5.1"), s.commit("g.5.2"), s.commit("g.5.3")]
        ids = [(await wire.asked("commit")).id for _ in asked]
        decided = pb.DecisionReply(xid="g.5.3", status="ROLLED_BACK", decision="ROLLBACK", reason="TIMEOUT")
        wire.answer(pb.Event(id=ids[2], decision=decided), ok=[ids[0]], settled=[ids[1], 999])
        assert await asked[0].answer() is DECIDED
        assert await asked[1].answer() is SETTLED
        assert await asked[2].answer() == decided


async def test_commands_are_handed_on_and_answered() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        xids, ids, arguments = ["g.5.1", "g.5.1", "g.5.2"], [3, 2, 4], [b"c", b"b", b"d"]
        wire.answer(commands=[pb.Commands(resource="r", commit=True, xids=xids, branch_ids=ids, arguments=arguments)])
        await settle_down()
        assert s.commands == [
            Command("g.5.1", "r", True, (BranchCommand(3, b"c"), BranchCommand(2, b"b"))),
            Command("g.5.2", "r", True, (BranchCommand(4, b"d"),)),
        ]
        s.session.done("g.5.1", 3)
        s.session.failed("g.5.1", 2, CommandResult.PARK, "DIRTY", "x" * 9000)
        answer = (await wire.asked("answer")).answer
        assert wire.done == [("g.5.1", 3)]
        assert (answer.branch_id, answer.result, answer.code, len(answer.error)) == (2, pb.COMMAND_PARK, "DIRTY", 500)


async def test_what_gathered_while_a_write_was_in_flight_is_one_batch_and_never_too_large() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome(max_batch=10, max_message_bytes=40_000)
        before = len(wire.batches)
        for number in range(25):
            s.commit(f"g.5.{number}")
        await settle_down()
        assert [len(batch.requests) for batch in wire.batches[before:]] == [10, 10, 5]
        before = len(wire.batches)
        large = Registration(BranchType.TCC, "r", arguments=b"x" * 9_000)
        begun = Beginning("order", 1000)
        begun.xid = "g.5.1"
        for _ in range(5):
            s.register(begun, large)
        await settle_down()
        assert [len(batch.requests) for batch in wire.batches[before:]] == [2, 2, 1]
        assert all(batch.ByteSize() < 40_000 for batch in wire.batches)


async def test_a_request_that_fits_into_no_batch_is_refused_here() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome(max_message_bytes=40_000)
        await settle_down()
        heard = s.register(Beginning("order", 1000), Registration(BranchType.TCC, "r", arguments=b"x" * 30_000))
        with pytest.raises(MessageTooLargeError):
            await heard.answer()
        assert not wire.sent


# ---------------------------------------------------------------- reports


async def test_reports_are_kept_until_they_are_durable() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        for branch_id, result in ((1, PhaseOne.DONE), (2, PhaseOne.DONE), (3, PhaseOne.FAILED), (4, PhaseOne.UNKNOWN)):
            s.session.report("g.5.1", branch_id, result, "no stock")
        assert (await wire.asked("report")).report.result == pb.PHASE_ONE_FAILED
        assert (await wire.asked("report")).report.error == "no stock"
        assert wire.reported == [("g.5.1", 1), ("g.5.1", 2)]
        wire.answer(reported=[1, 3])
        await settle_down()
        wire.cut()
        again = await s.wires.next()
        await again.welcome()
        assert (await again.asked("report")).report.branch_id == 4
        assert again.reported == [("g.5.1", 2)]
        assert not s.session.idle
        again.answer(reported=[2, 4])
        await settle_down()
        assert s.session.idle


@pytest.mark.parametrize("result", [PhaseOne.DONE, PhaseOne.FAILED])
async def test_a_report_that_is_refused_for_good_is_said_and_forgotten(
    result: PhaseOne, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        for branch_id in (1, 2, 3):
            s.session.report("g.5.1", branch_id, result, "")
        await settle_down()
        ids = [request.id for request in wire.sent] or [0, 0, 0]
        of = [{"xid": "g.5.1", "branch_id": str(branch_id)} for branch_id in (1, 2, 3)]
        wire.answer(
            refusal(ids[0], ResourceDeniedError("the token does not cover it", of[0])),
            refusal(ids[1], StoreUnavailableError("not now", of[1])),
            refusal(0, ResourceDeniedError("of something else")),
        )
        await settle_down()
        (said,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert "g.5.1: the coordinator refuses the report that phase one of branch 1 is" in said.getMessage()
        assert said.__dict__["xid"] == "g.5.1"
        wire.cut()
        again = await s.wires.next()
        await again.welcome()
        await settle_down()
        sent = again.reported or [(request.report.xid, request.report.branch_id) for request in again.sent]
        assert sent == [("g.5.1", 2), ("g.5.1", 3)]
        again.answer(reported=[2, 3])
        await settle_down()
        assert s.session.idle


# ---------------------------------------------------------------- what survives a broken stream


async def test_what_is_not_answered_is_asked_again_unchanged() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        beginning = Beginning("order", 1000)
        registered, committed = s.register(beginning), s.commit("g.5.9")
        sent = [await wire.asked("register"), await wire.asked("commit")]
        wire.cut()
        again = await s.wires.next()
        await again.welcome(first=9000)
        assert [await again.asked("register"), await again.asked("commit")] == sent
        again.answer(begun=[sent[0].id], begun_xids=["g.5.1"], settled=[sent[1].id])
        assert await registered.answer() == 1000
        assert await committed.answer() is SETTLED
        another = s.register(beginning)
        assert (await again.asked("register")).register.branch_id == 9000
        assert not another.came


async def test_what_is_asked_while_there_is_no_stream_waits_for_one() -> None:
    async with scene() as s:
        beginning, heard = s.begin()
        wire = await s.wires.next()
        hello = await wire.welcome()
        assert hello.service == "order"
        request = await wire.asked("begin")
        assert request.begin.begin_key == 1000
        wire.answer(begun=[request.id], begun_xids=["g.5.1"])
        assert await heard.answer() == "g.5.1" == beginning.xid


async def test_resources_are_in_the_hello_and_later_ones_are_announced() -> None:
    async with scene() as s:
        s.session.serve("r1")
        wire = await s.wires.next()
        hello = await wire.asked("hello")
        assert list(hello.hello.resources) == ["r1"]
        s.session.serve("r2")  # while the hello is under way
        wire.sent.append(hello)
        await wire.welcome()
        assert list((await wire.asked("serve")).serve.resources) == ["r2"]
        await settle_down()
        s.session.serve("r3")
        s.session.serve("r3")
        assert list((await wire.asked("serve")).serve.resources) == ["r3"]
        wire.cut()
        again = await s.wires.next()
        assert list((await again.welcome()).resources) == ["r1", "r2", "r3"]


# ---------------------------------------------------------------- who leads


def moved(request_id: int, code: str, leader: str = "", epoch: int = 0) -> pb.Event:
    """A refusal that names the leader."""
    details = {"leader": leader, "epoch": str(epoch)} if leader else {}
    return pb.Event(id=request_id, error=pb.Error(code=code, message="ask the leader", details=details))


async def test_not_leader_is_followed_and_requests_go_along() -> None:
    async with scene() as s:
        heard = s.commit("g.5.1")
        standby = await s.wires.next()
        assert standby.address == "a:1"
        standby.answer(moved((await standby.asked("hello")).id, "NOT_LEADER", "c:1", 5))
        leader = await s.wires.next()
        assert leader.address == "c:1"
        await leader.welcome()
        request = await leader.asked("commit")
        # it steps down while the request is under way
        leader.answer(moved(request.id, "NOT_LEADER", "d:1", 6), pb.Event(moved=pb.Moved()))
        successor = await s.wires.next()
        assert successor.address == "d:1"
        assert (await successor.welcome(epoch=6)).epoch_seen == 5
        request = await successor.asked("commit")
        successor.answer(settled=[request.id], epoch=6)
        assert await heard.answer() is SETTLED


async def test_the_rest_of_a_batch_counts_although_the_coordinator_steps_down_in_it() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        first, second = s.commit("g.5.1"), s.commit("g.5.2")
        ids = [(await wire.asked("commit")).id for _ in range(2)]
        decided = pb.DecisionReply(xid="g.5.2", status="COMMITTED", decision="COMMIT")
        wire.answer(pb.Event(moved=pb.Moved()), pb.Event(id=ids[1], decision=decided), settled=[ids[0]])
        assert await first.answer() is SETTLED
        assert await second.answer() == decided


async def test_nobody_is_followed_into_the_past() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome(epoch=8)
        s.commit("g.8.1")
        wire.answer(moved((await wire.asked("commit")).id, "NOT_LEADER", "old:1", 7), epoch=8)
        other = await s.wires.next()
        assert other.address == "b:1"
        await other.welcome(epoch=7)
        third = await s.wires.next()
        assert third.address == "a:1"
        assert (await third.asked("hello")).hello.epoch_seen == 8
        assert other.closed


async def test_two_that_send_us_to_each_other_cost_a_pause() -> None:
    async with scene() as s:
        started = asyncio.get_running_loop().time()
        for _ in range(12):
            wire = await s.wires.next()
            wire.answer(moved((await wire.asked("hello")).id, "NOT_LEADER", "b:1" if wire.address == "a:1" else "a:1", 5))
        assert asyncio.get_running_loop().time() - started > 0.05


async def test_a_coordinator_that_cannot_write_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0.02)
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        heard = s.commit("g.5.1")
        for _ in range(2):
            request = await wire.asked("commit")
            wire.answer(moved(request.id, "STORE_UNAVAILABLE"))
        request = await wire.asked("commit")
        wire.answer(settled=[request.id])
        assert await heard.answer() is SETTLED


# ---------------------------------------------------------------- branch ids


async def test_the_next_block_is_asked_for_at_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("txcoord_sdk.session.branch_ids.BranchIds.size", 8)
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome(first=1, count=8)
        begun = Beginning("order", 1000)
        begun.xid = "g.5.1"
        for _ in range(12):
            s.register(begun)
        asked = await wire.asked("allocate")
        assert asked.allocate.count == 8
        assert [(await wire.asked("register")).register.branch_id for _ in range(8)] == list(range(1, 9))
        await settle_down()
        assert not wire.sent, "the others wait, and the block is asked for once"
        wire.answer(pb.Event(id=asked.id, branch_ids=pb.BranchIdBlock(first=101, count=8)))
        assert [(await wire.asked("register")).register.branch_id for _ in range(4)] == [101, 102, 103, 104]


async def test_a_refused_block_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("txcoord_sdk.session.branch_ids.BranchIds.size", 4)
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome(first=1, count=4)
        begun = Beginning("order", 1000)
        begun.xid = "g.5.1"
        s.register(begun)
        s.register(begun)
        asked = await wire.asked("allocate")
        wire.answer(refusal(asked.id, TxcoordError("a bug")))
        await settle_down()
        s.register(begun)
        assert (await wire.asked("allocate")).id != asked.id


# ---------------------------------------------------------------- nobody waits for ever


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests expire soon."""
    monkeypatch.setattr(module, "_SERVER_WAIT", 0.0)
    monkeypatch.setattr(module, "_EXPIRY_PERIOD", 0.02)


@pytest.mark.usefixtures("impatient")
async def test_unanswered_requests_end_and_say_what_that_means() -> None:
    async with scene(failover_wait=0.1) as s:
        _, begun = s.begin()  # no stream, no branch id
        wire = await s.wires.next()
        with pytest.raises(CoordinatorUnreachableError):
            await begun.answer()
        await wire.welcome()
        await settle_down()
        registered, committed = s.register(Beginning("order", 1000)), s.commit("g.5.1")
        with pytest.raises(CoordinatorUnreachableError):
            await registered.answer()
        with pytest.raises(OutcomeUnknownError) as caught:
            await committed.answer()
        assert caught.value.xid == "g.5.1"


@pytest.mark.usefixtures("impatient")
async def test_a_registration_may_wait_for_its_locks() -> None:
    async with scene(failover_wait=0.05) as s:
        wire = await s.wires.next()
        await wire.welcome()
        await settle_down()
        heard = s.register(Beginning("order", 1000), Registration(BranchType.AT, "db@1", ("row",), lock_wait=5.0))
        request = await wire.asked("register")
        assert request.register.lock_wait_ms == 5000
        await asyncio.sleep(0.2)
        assert not heard.came
        wire.answer(begun=[request.id], begun_xids=["g.5.1"])
        assert await heard.answer() == 1000


async def test_a_refused_client_hears_why_at_once_and_goes_on_trying() -> None:
    async with scene() as s:
        waiting = [s.commit("g.5.1"), s.begin()[1]]
        wire = await s.wires.next()
        wire.answer(refusal((await wire.asked("hello")).id, UnauthenticatedError("unknown token")))
        for heard in waiting:
            with pytest.raises(UnauthenticatedError, match="unknown token"):
                await heard.answer()
        again = await s.wires.next()
        await again.welcome()
        await asyncio.wait_for(s.session.connected.wait(), 5)


async def test_a_closed_session_refuses() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        committed = s.commit("g.5.1")
        await wire.asked("commit")
        s.session.close()
        with pytest.raises(OutcomeUnknownError, match="closed"):
            await committed.answer()
        for heard in (s.begin()[1], s.register(Beginning("order", 1000))):
            with pytest.raises(CoordinatorUnreachableError, match="closed"):
                await heard.answer()


async def test_a_bug_in_a_sink_costs_one_stream_not_the_session(caplog: pytest.LogCaptureFixture) -> None:
    def fail(value: object, error: BaseException | None) -> None:
        raise RuntimeError("a bug")

    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        s.session.commit("g.5.1", Wait.DECIDED, fail)
        heard = s.commit("g.5.2")
        ids = [(await wire.asked("commit")).id for _ in range(2)]
        wire.answer(ok=ids)
        again = await s.wires.next()
        await again.welcome()
        request = await again.asked("commit")
        again.answer(ok=[request.id])
        assert await heard.answer() is DECIDED


async def test_pause_closes_the_stream_and_resume_opens_another() -> None:
    async with scene() as s:
        wire = await s.wires.next()
        await wire.welcome()
        heard = s.commit("g.5.1")
        await wire.asked("commit")
        await s.session.link.pause()
        assert wire.closed
        assert not s.session.connected.is_set()
        await asyncio.sleep(0.1)
        assert s.wires._opened.empty()
        s.session.link.resume()
        again = await s.wires.next()
        await again.welcome()
        again.answer(settled=[(await again.asked("commit")).id])
        assert await heard.answer() is SETTLED
