"""Bytes that are no request, and settings that are none: a typed error that says what to do, and nothing has changed.

What each operation refuses, over both transports, is in `tests/contract/transport`; floods and clients that do not read in
`test_clients`; tokens in `test_security`; XIDs that are no longer kept in `test_retention`.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.message import Message
from txcoord_proto.errors import InvalidArgumentError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.server.stub import STOCK, Stub

METHODS = {
    "Begin": pb.BeginRequest(name="n"),
    "Register": pb.RegisterRequest(branch_id=1, type=pb.TCC, resource=STOCK, begin=pb.BeginRequest(name="n")),
    "Report": pb.ReportRequest(xid="x", branch_id=1, result=pb.PHASE_ONE_DONE),
    "Commit": pb.CommitRequest(xid="x"),
    "Rollback": pb.RollbackRequest(xid="x"),
    "SetRollbackOnly": pb.RollbackOnlyRequest(xid="x"),
    "Status": pb.StatusRequest(xid="x"),
    "QueryLocks": pb.LockQuery(resource=STOCK, lock_keys=["a"]),
    "Settled": pb.SettledQuery(xids=["x"]),
    "AllocateBranchIds": pb.AllocateBranchIdsRequest(count=1),
}


@pytest.fixture(scope="module")
def coordinator() -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess() as running:
        yield running


@pytest.fixture
def stub(coordinator: CoordinatorProcess) -> Iterator[Stub]:
    with Stub(coordinator.address) as stub:
        yield stub


@pytest.mark.parametrize("data", [b"\xff" * 10, b"\x0a\x05ab", b"\x00" * 1000, bytes(range(256))])
@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message(stub: Stub, method: str, data: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="not a valid message") as caught:
        stub.raw(f"/txcoord.v1.Coordinator/{method}", data, pb.ReportReply)
    cause = caught.value.__cause__
    assert isinstance(cause, grpc.RpcError)
    assert cause.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(("method", "message"), METHODS.items(), ids=METHODS)
def test_messages_cut_short(stub: Stub, method: str, message: Message) -> None:
    data = message.SerializeToString()
    xid = stub.prepared()
    with pytest.raises(InvalidArgumentError):
        stub.raw(f"/txcoord.v1.Coordinator/{method}", data[:-1], pb.ReportReply)
    assert stub.status(xid).status == pb.ACTIVE


def test_a_message_above_the_limit(stub: Stub) -> None:
    xid = stub.prepared()
    with pytest.raises(grpc.RpcError) as caught:
        stub.raw("/txcoord.v1.Coordinator/Begin", b"\x0a\x80\x80\x80\x04" + b"x" * (8 << 20), pb.BeginReply)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.commit(xid).decision == "COMMIT"


def test_a_method_that_there_is_not(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.raw("/txcoord.v1.Coordinator/Forget", b"", pb.BeginReply)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("url", "why"),
    [("oracle://x/y", "no store"), ("sqlite:///:memory:", "must be a file"), ("not a url", "cannot be read")],
)
def test_stores_that_are_none(url: str, why: str) -> None:
    wrong = CoordinatorProcess(url)
    with pytest.raises(RuntimeError, match=why) as caught:
        wrong.start()
    assert "Traceback" not in str(caught.value)
    wrong.close()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--lease-ttl", "0.1"), "at least 500 ms"),
        (("--group", "a.b"), "letters, digits"),
        (("--keep-committed-for", "-1"), "negative"),
        (("--tls-cert", __file__), "both a certificate and its key"),
        (("--listen", "localhost"), "--listen localhost: HOST:PORT"),
        (("--listen", "127.0.0.1:x"), "--listen 127.0.0.1:x: HOST:PORT"),
        (("--metrics", "127.0.0.1"), "--metrics 127.0.0.1: HOST:PORT"),
        (("--port", "65536"), "--port"),
        (("--log-level", "loud"), "'loud' is not one of"),
        (("--max-transactions", "-1"), "--max-transactions"),
        (("--max-transactions-per-client", "0"), "--max-transactions-per-client"),
    ],
)
def test_options_outside_their_ranges(options: tuple[str, ...], why: str) -> None:
    wrong = CoordinatorProcess(options=options)
    with pytest.raises(RuntimeError, match=why) as caught:
        wrong.start()
    assert "Traceback" not in str(caught.value)
    wrong.close()
