"""The service `Operator` of a real coordinator, with participants that fail: what is seen, what is done, what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from sqlalchemy import create_engine, text
from txcoord_proto.errors import CannotForceError, InvalidArgumentError, TxcoordError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.v1 import operator_pb2 as op
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.server.desk import Desk
from tests.integration.server.participant import Participant
from tests.integration.server.stub import BALANCE, STOCK, Stub
from tests.servers.fixtures import FreshUrl


def audit(store: str) -> list[tuple[object, ...]]:
    engine = create_engine(store.replace("postgresql://", "postgresql+psycopg://").replace("mysql://", "mysql+pymysql://"))
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT xid, version, act, actor, reason FROM txc_audit ORDER BY xid, version"))
        found = [tuple(row) for row in rows]
    engine.dispose()
    return found


@pytest.fixture(scope="module")
def coordinator() -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess() as running:
        yield running


def test_a_parked_branch_is_settled_by_a_retry(desk: Desk, stock: Participant) -> None:
    parked = desk.parked(stock)
    assert parked.explanation_code == "BRANCH_PARKED"
    assert [e.code for e in parked.next_events] == ["OPERATOR"]
    stock.result = pb.COMMAND_DONE
    told = desk.retry(parked.xid, parked.version)
    assert told.status in (pb.COMMITTING, pb.COMMITTED)
    ended = desk.reaches(parked.xid, pb.COMMITTED)
    assert [b.status for b in ended.branches] == ["SETTLED"]


def test_a_branch_that_backs_off_is_tried_at_once(desk: Desk, stock: Participant) -> None:
    stock.result = pb.COMMAND_RETRY
    xid = desk.prepared(STOCK)
    desk.commit(xid)
    wait_until(lambda: desk.status(xid).branches[0].attempts >= 5, what="five tries")  # the next pause is seconds
    seen = desk.status(xid)
    stock.result = pb.COMMAND_DONE
    desk.retry(xid, seen.version, "the disk has room again")
    wait_until(lambda: desk.status(xid).status == pb.COMMITTED, timeout=1.5, what="the end, long before the next try")
    assert [a.reason for a in desk.show(xid).acts] == ["the disk has room again"]


def test_what_is_forced_is_not_asked_for_again(desk: Desk, stock: Participant) -> None:
    stock.silent = True
    xid = desk.prepared(STOCK)
    desk.commit(xid)
    wait_until(lambda: len(stock.commanded) == 1, what="the command")
    told = desk.force(xid, True, desk.status(xid).version)
    assert (told.status, told.forced, [b.status for b in told.branches]) == (pb.COMMITTED, True, ["FORCED"])
    assert desk.show(xid).transaction.status == pb.COMMITTED
    assert desk.overview().resources[0].waiting == 0
    stock.silent = False
    other = desk.prepared(STOCK)
    desk.commit(other)
    desk.reaches(other, pb.COMMITTED)
    assert len(stock.commanded) == 2, "the forced branch is not sent again"


def test_a_caller_that_waits_hears_a_forced_end(desk: Desk, stock: Participant) -> None:
    stock.silent = True
    xid = desk.prepared(STOCK)
    heard: list[pb.DecisionReply] = []
    waiting = threading.Thread(target=lambda: heard.append(desk.commit(xid, pb.WAIT_SETTLED)))
    waiting.start()
    wait_until(lambda: len(stock.commanded) == 1, what="the command")
    desk.force(xid, True, desk.status(xid).version)
    waiting.join(3)
    assert [(reply.status, reply.settled) for reply in heard] == [(pb.COMMITTED, True)]


def test_force_of_an_undecided_transaction(desk: Desk) -> None:
    done, open_ = desk.prepared(STOCK, BALANCE), desk.begin()
    desk.register(open_, "nobody:serves@9")
    with pytest.raises(CannotForceError, match="1 of 1 branches"):
        desk.force(open_, True, desk.status(open_).version)
    assert desk.status(open_).status == pb.ACTIVE
    told = desk.force(open_, False, desk.status(open_).version)
    assert (told.decision, told.reason) == ("ROLLBACK", "FORCED")
    committed = desk.force(done, True, desk.status(done).version)
    assert (committed.decision, committed.reason, committed.status) == ("COMMIT", "FORCED", pb.COMMITTING)
    last = desk.force(open_, False, told.version)
    assert (last.status, [b.status for b in last.branches]) == (pb.ROLLED_BACK, ["FORCED"])
    assert [a.act for a in desk.show(open_).acts] == ["FORCE_ROLLBACK", "FORCE_ROLLBACK"]


def test_refused_acts_change_nothing_and_leave_no_audit(desk: Desk, stock: Participant) -> None:
    parked = desk.parked(stock)
    refused: dict[str, Callable[[], object]] = {
        "CANNOT_FORCE": lambda: desk.force(parked.xid, False, parked.version),
        "VERSION_CHANGED": lambda: desk.retry(parked.xid, parked.version - 1),
        "INVALID_ARGUMENT": lambda: desk.force(parked.xid, True, parked.version, reason=""),
        "XID_MALFORMED": lambda: desk.retry("nonsense", 1),
        "XID_EPOCH_UNKNOWN": lambda: desk.retry("default.000000001.00000001", 1),
    }
    for code, act in refused.items():
        with pytest.raises(TxcoordError) as caught:
            act()
        assert caught.value.code == code
    with pytest.raises(InvalidArgumentError, match="version"):
        desk.retry(parked.xid, 0)
    after = desk.show(parked.xid)
    assert (after.transaction, list(after.acts)) == (parked, [])


def test_a_finished_transaction_cannot_be_forced(desk: Desk, stock: Participant) -> None:
    xid = desk.prepared(STOCK)
    desk.commit(xid, pb.WAIT_SETTLED)
    ended = desk.reaches(xid, pb.COMMITTED)
    with pytest.raises(CannotForceError, match="finished"):
        desk.force(xid, True, ended.version)


def test_of_many_operators_with_one_version_one_acts(coordinator: CoordinatorProcess, desk: Desk, stock: Participant) -> None:
    parked = desk.parked(stock)
    outcomes: list[str] = []

    def act() -> None:
        with Desk(coordinator.address) as mine:
            try:
                mine.retry(parked.xid, parked.version)
                outcomes.append("done")
            except TxcoordError as error:
                outcomes.append(error.code)

    threads = [threading.Thread(target=act) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["VERSION_CHANGED"] * 7 + ["done"]
    assert len(desk.show(parked.xid).acts) == 1


def test_lists_are_filtered_and_paged(coordinator: CoordinatorProcess, stock: Participant) -> None:
    with Desk(coordinator.address, service="lists") as desk:
        xids = [desk.prepared("nobody:lists@1") for _ in range(5)]
        rowless = desk.begin(key="lists:7")
        assert desk.list(service="lists") == [rowless, *reversed(xids)]
        reply = desk.call("List", op.ListRequest(service="lists", limit=2), op.ListReply, "Operator")
        assert ([t.xid for t in reply.transactions], reply.more) == ([rowless, xids[4]], True)
        assert desk.list(service="lists", limit=2, after=xids[4]) == [xids[3], xids[2]]
        reply = desk.call("List", op.ListRequest(service="lists", after=xids[1]), op.ListReply, "Operator")
        assert ([t.xid for t in reply.transactions], reply.more) == ([xids[0]], False)
        assert reply.transactions[0].explanation_code == "UNDECIDED"
        desk.rollback(xids[0])
        desk.rollback(rowless)
        assert desk.list(service="lists", statuses=[pb.ROLLING_BACK]) == [xids[0]]
        assert desk.list(service="lists", statuses=[pb.ROLLED_BACK]) == [rowless]
        assert desk.list(service="lists", statuses=[pb.ROLLED_BACK, pb.ROLLING_BACK, pb.ACTIVE]) == [rowless, *reversed(xids)]
        assert desk.list(key="lists:7") == [rowless], "with a key the finished ones too"
        assert desk.list(service="lists", overdue=True) == []
        assert desk.show(key="lists:7").transaction.xid == rowless
        with pytest.raises(InvalidArgumentError, match="next page"):
            desk.list(limit=501)


def test_finished_ones_are_listed_with_their_branches(desk: Desk, stock: Participant) -> None:
    xid = desk.prepared(STOCK)
    desk.commit(xid)
    desk.reaches(xid, pb.COMMITTED)
    request = op.ListRequest(statuses=[pb.COMMITTED], limit=1)
    (newest,) = desk.call("List", request, op.ListReply, "Operator").transactions
    assert (newest.xid, [b.resource for b in newest.branches]) == (xid, [STOCK])


def test_locks_with_holder_and_waiters(desk: Desk) -> None:
    holder, other = desk.begin(), desk.begin()
    desk.register(holder, "db@locks", pb.AT, lock_keys=["a", "b"])
    waiting = threading.Thread(
        target=lambda: desk.register(other, "db@locks", pb.AT, lock_keys=["b"], lock_wait_ms=5_000), daemon=True
    )
    waiting.start()
    wait_until(lambda: desk.overview().locks_waited == 1, what="the wait")
    shown = [(lock.key, lock.xid, list(lock.waiters)) for lock in desk.locks(resource="db@locks").locks]
    assert shown == [("b", holder, [other]), ("a", holder, [])]
    assert [lock.key for lock in desk.locks(xid=other).locks] == ["b"]
    assert sorted(lock.key for lock in desk.locks(xid=holder).locks) == ["a", "b"]
    assert desk.locks(resource="db@locks", limit=1).more
    desk.rollback(holder)
    desk.force(holder, False, desk.status(holder).version)
    waiting.join(5)
    assert [lock.xid for lock in desk.locks(resource="db@locks").locks] == [other]


def test_what_fails_ten_times_is_overdue_until_it_settles(tmp_path: Path) -> None:
    with ExitStack() as stack:
        coordinator = stack.enter_context(CoordinatorProcess(f"sqlite:///{tmp_path}/store.db"))
        desk = stack.enter_context(Desk(coordinator.address))
        stock = stack.enter_context(Participant(coordinator.address, STOCK, result=pb.COMMAND_RETRY))
        xid = desk.prepared(STOCK)
        desk.commit(xid)
        for _ in range(9):
            tried = desk.status(xid).branches[0].attempts
            desk.retry(xid, desk.status(xid).version)  # not to wait out the pauses between tries
            wait_until(lambda tried=tried: desk.status(xid).branches[0].attempts > tried, what="another try")
        wait_until(lambda: desk.list(overdue=True) == [xid], what="the alarm")
        assert desk.overview().overdue == 1
        assert desk.show(xid).transaction.overdue
        assert coordinator.log().count("failed 10 times") == 1
        coordinator.kill()
        coordinator.start()
        wait_until(lambda: answers(desk), what="the restart")
        assert desk.list(overdue=True) == [xid], "known over a restart"
        stack.enter_context(Participant(coordinator.address, STOCK))
        desk.retry(xid, desk.status(xid).version)
        desk.reaches(xid, pb.COMMITTED)
        assert (desk.list(overdue=True), desk.overview().overdue) == ([], 0)
        assert stock.commanded


def test_a_parked_branch_stays_parked_over_a_restart(tmp_path: Path) -> None:
    with ExitStack() as stack:
        coordinator = stack.enter_context(CoordinatorProcess(f"sqlite:///{tmp_path}/store.db"))
        desk = stack.enter_context(Desk(coordinator.address))
        with Participant(coordinator.address, STOCK) as stock:
            parked = desk.parked(stock)
        coordinator.kill()
        coordinator.start()
        wait_until(lambda: answers(desk), what="the restart")
        stock = stack.enter_context(Participant(coordinator.address, STOCK))
        other = desk.prepared(STOCK)
        desk.commit(other)
        desk.reaches(other, pb.COMMITTED)
        assert len(stock.commanded) == 1, "only the other one: nobody has ordered a retry"
        after = desk.status(parked.xid)
        assert (after.version, after.explanation, after.branches) == (parked.version, parked.explanation, parked.branches)


def answers(desk: Desk) -> bool:
    try:
        return desk.overview().epoch > 0
    except (TxcoordError, grpc.RpcError):
        return False


@pytest.mark.parametrize("database", ["sqlite", "postgres", "mariadb"])
def test_the_audit_is_in_the_store(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if database == "sqlite":
        store = f"sqlite:///{tmp_path}/store.db"
    else:
        fresh: FreshUrl = request.getfixturevalue(f"fresh_{database}_url")
        store = fresh()
    reason = "Zeile 4711 von Hand ergänzt \N{HEAVY CHECK MARK}"
    with CoordinatorProcess(store) as coordinator, Desk(coordinator.address) as desk:
        with Participant(coordinator.address, STOCK) as stock:
            parked = desk.parked(stock)
            desk.retry(parked.xid, parked.version)
            again = desk.reaches(parked.xid, pb.PARKED)
            wait_until(lambda: len(stock.commanded) == 2, what="the retry")
        told = desk.force(parked.xid, True, again.version, reason)
        assert told.status == pb.COMMITTED
        rows = audit(store)  # after the answer, so it is durable
        assert rows == [
            (parked.xid, parked.version, "RETRY", "order", ""),
            (parked.xid, again.version, "FORCE_COMMIT", "order", reason),
        ]
        shown = desk.show(parked.xid)
        assert [(a.version, a.act, a.actor, a.reason) for a in shown.acts] == [row[1:] for row in rows]
        assert abs(shown.acts[0].at - desk.overview().now) < 60_000
        assert desk.list(statuses=[pb.COMMITTED], service="order") == [parked.xid]


def test_the_service_is_in_reflection_and_health(coordinator: CoordinatorProcess) -> None:
    with Stub(coordinator.address) as stub:
        health = stub.raw(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest(service="txcoord.v1.Operator").SerializeToString(),
            health_pb2.HealthCheckResponse,
        )
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    with grpc.insecure_channel(coordinator.address) as channel:
        method = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        (answer,) = method(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    assert "txcoord.v1.Operator" in [s.name for s in answer.list_services_response.service]
