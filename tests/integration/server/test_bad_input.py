"""Whatever is sent, the answer is a typed error that says what to do, and nothing has changed."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from txcoord_proto.errors import TxcoordError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.server.stub import BALANCE, STOCK, Stub

UNKNOWN = "default.000000001.00000001"


@pytest.fixture(scope="module")
def coordinator() -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess(options=("--max-transactions-per-client", "50")) as running:
        yield running


@pytest.fixture
def stub(coordinator: CoordinatorProcess) -> Iterator[Stub]:
    with Stub(coordinator.address) as stub:
        yield stub


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("Begin", pb.BeginRequest(name="n" * 129), "INVALID_ARGUMENT"),
        ("Begin", pb.BeginRequest(name="n\0"), "INVALID_ARGUMENT"),
        ("Begin", pb.BeginRequest(name="n", timeout_ms=2**31), "INVALID_ARGUMENT"),
        ("Begin", pb.BeginRequest(name="n", key="k" * 129), "INVALID_ARGUMENT"),
        ("Register", pb.RegisterRequest(xid="nonsense", branch_id=1, type=pb.TCC, resource=STOCK), "XID_MALFORMED"),
        ("Register", pb.RegisterRequest(xid=UNKNOWN, branch_id=1, type=pb.TCC, resource=STOCK), "XID_EPOCH_UNKNOWN"),
        ("Register", pb.RegisterRequest(xid=UNKNOWN, branch_id=1, resource=STOCK), "INVALID_ARGUMENT"),
        ("Commit", pb.CommitRequest(xid=""), "XID_MALFORMED"),
        ("Commit", pb.CommitRequest(xid=UNKNOWN), "XID_EPOCH_UNKNOWN"),
        ("Rollback", pb.RollbackRequest(xid="a:b:c"), "XID_MALFORMED"),
        ("SetRollbackOnly", pb.RollbackOnlyRequest(xid="x"), "XID_MALFORMED"),
        ("Report", pb.ReportRequest(xid=UNKNOWN, branch_id=1), "INVALID_ARGUMENT"),
        ("Status", pb.StatusRequest(xid="\u202e"), "XID_MALFORMED"),
        ("Status", pb.StatusRequest(key="no such key"), "XID_UNKNOWN"),
        ("AllocateBranchIds", pb.AllocateBranchIdsRequest(count=0), "INVALID_ARGUMENT"),
        ("AllocateBranchIds", pb.AllocateBranchIdsRequest(count=2**31), "INVALID_ARGUMENT"),
        ("Settled", pb.SettledQuery(xids=["x"] * 10_001), "INVALID_ARGUMENT"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_request(stub: Stub, method: str, request_: pb.BeginRequest, code: str) -> None:
    with pytest.raises(TxcoordError) as caught:
        stub.call(method, request_, pb.ReportReply)
    assert caught.value.code == code
    assert len(caught.value.message) > 20


@pytest.mark.parametrize("data", [b"\xff" * 10, b"\x0a\x05ab", b"\x00" * 1000, bytes(range(256))])
@pytest.mark.parametrize("method", ["Begin", "Register", "Commit", "Status", "Settled"])
def test_bytes_that_are_no_message(stub: Stub, method: str, data: bytes) -> None:
    with pytest.raises((TxcoordError, grpc.RpcError)) as caught:
        stub.raw(f"/txcoord.v1.Coordinator/{method}", data, pb.ReportReply)
    error = caught.value
    assert getattr(error, "code", None) in ("INVALID_ARGUMENT", "XID_MALFORMED") or isinstance(error, TxcoordError)


def test_a_message_above_the_limit(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.raw("/txcoord.v1.Coordinator/Begin", b"\x0a\x80\x80\x80\x04" + b"x" * (8 << 20), pb.BeginReply)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.begin()


def test_what_is_decided_stays_decided(stub: Stub) -> None:
    committed, rolled_back = stub.prepared(), stub.prepared()
    assert stub.commit(committed).status == pb.COMMITTING
    assert stub.commit(committed).status == pb.COMMITTING, "a repeated commit hears the same"
    assert stub.rollback(rolled_back).status == pb.ROLLING_BACK
    assert stub.commit(rolled_back).status == pb.ROLLING_BACK
    with pytest.raises(TxcoordError) as caught:
        stub.rollback(committed)
    assert caught.value.code == "ALREADY_COMMITTED"
    with pytest.raises(TxcoordError) as caught:
        stub.register(committed, BALANCE)
    assert caught.value.code == "NOT_ACTIVE"


def test_somebody_elses_transaction(coordinator: CoordinatorProcess, stub: Stub) -> None:
    xid = stub.prepared()
    with Stub(coordinator.address, service="stock") as other:
        for act in (other.commit, other.rollback):
            with pytest.raises(TxcoordError) as caught:
                act(xid)
            assert caught.value.code == "WRONG_OWNER"
    assert stub.status(xid).status == pb.ACTIVE


def test_a_branch_id_that_is_taken(stub: Stub) -> None:
    xid = stub.begin()
    branch = stub.register(xid, STOCK)
    assert stub.register(xid, STOCK, id=branch) == branch
    with pytest.raises(TxcoordError) as caught:
        stub.register(xid, BALANCE, id=branch)
    assert caught.value.code == "BRANCH_MISMATCH"
    assert len(stub.status(xid).branches) == 1


def test_a_flood_of_begins(coordinator: CoordinatorProcess) -> None:
    with Stub(coordinator.address, service="flood") as flood:
        for _ in range(50):
            flood.begin(timeout_ms=60_000)
        with pytest.raises(TxcoordError) as caught:
            flood.begin()
        assert caught.value.code == "TOO_MANY_TRANSACTIONS"
    with Stub(coordinator.address, service="calm") as calm:
        assert calm.begin()


def test_a_held_lock_and_its_holder(stub: Stub) -> None:
    holder, other = stub.begin(), stub.begin()
    stub.register(holder, "db@1", pb.AT, lock_keys=["row-1"])
    with pytest.raises(TxcoordError) as caught:
        stub.register(other, "db@1", pb.AT, lock_keys=["row-1"])
    assert (caught.value.code, caught.value.details["holder"]) == ("LOCK_CONFLICT", holder)
    query = pb.LockQuery(resource="db@1", lock_keys=["row-1"], xid=other)
    assert stub.call("QueryLocks", query, pb.LockReply).holder == holder


def test_listening_beyond_loopback_needs_tls_and_a_token() -> None:
    exposed = CoordinatorProcess(options=("--listen", "0.0.0.0:0"))
    with pytest.raises(RuntimeError, match="needs TLS"):
        exposed.start()
    exposed.close()


def test_unsafe_stores_and_urls_are_refused() -> None:
    for url, text in (("oracle://x/y", "no store"), ("sqlite:///:memory:", "must be a file")):
        wrong = CoordinatorProcess(url)
        with pytest.raises(RuntimeError, match=text):
            wrong.start()
        wrong.close()
