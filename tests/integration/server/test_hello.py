"""How a stream opens, and how it ends: versions, epochs, what is malformed, too large or unknown."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import grpc
import pytest
from txcoord_proto.errors import InvalidArgumentError, NotLeaderError, ProtocolError, TxcoordError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.xid import Xid
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.server.desk import Desk
from tests.integration.server.stream import Stream
from tests.integration.server.stub import STOCK, Stub
from tests.integration.server.test_leadership import leads

NO_MESSAGES = (b"\xff" * 10, b"\x0a\x05ab", b"\x00" * 100, bytes(range(256)))


@pytest.fixture(scope="module")
def coordinator() -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess() as running:
        yield running


def refused(coordinator: CoordinatorProcess, **hello: object) -> TxcoordError:
    """The error with which a hello is answered; the stream ends with it."""
    with Stream(coordinator.address, greet=False) as stream:
        stream.hello(**hello)
        with pytest.raises(TxcoordError) as caught:
            stream.event()
        assert stream.end() is not grpc.StatusCode.OK
        return caught.value


def test_the_welcome_says_what_the_client_needs(coordinator: CoordinatorProcess) -> None:
    with Stream(coordinator.address, protocol_min=1, protocol_max=7) as stream, Stub(coordinator.address) as stub:
        welcome = stream.welcome
        assert (welcome.protocol, welcome.group) == (1, "default"), "of the client's range the one that both speak"
        assert Xid.parse(stub.begin()).epoch == welcome.epoch
        assert welcome.branch_ids.count > 0
        assert welcome.max_message_bytes == 4 << 20


@pytest.mark.parametrize(("oldest", "newest"), [(2, 9), (0, 0)], ids=["too new", "too old"])
def test_a_client_that_speaks_another_version(coordinator: CoordinatorProcess, oldest: int, newest: int) -> None:
    error = refused(coordinator, protocol_min=oldest, protocol_max=newest)
    assert isinstance(error, ProtocolError)
    assert f"protocol {oldest} to {newest}, this coordinator 1: upgrade the older" in error.message


def test_a_client_that_has_seen_a_newer_leader(coordinator: CoordinatorProcess) -> None:
    error = refused(coordinator, epoch_seen=1 << 60)
    assert isinstance(error, NotLeaderError)
    assert error.details["epoch"] == str(1 << 60)


def test_a_client_that_has_seen_more_commits_is_witness_of_a_store_that_lost_some(coordinator: CoordinatorProcess) -> None:
    with Stream(coordinator.address) as first:
        epoch = first.welcome.epoch
    with Stream(coordinator.address, epoch_seen=epoch, commit_seq_seen=0):
        assert "lost acknowledged commits" not in coordinator.log()
    with Stream(coordinator.address, epoch_seen=epoch, commit_seq_seen=1 << 40):
        assert f"a client has seen group commit {1 << 40} of epoch {epoch}" in coordinator.log()
    with Stream(coordinator.address, epoch_seen=1, commit_seq_seen=1 << 41):  # of a leader before
        assert f"a client has seen group commit {1 << 41} of epoch 1," in coordinator.log()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"service": "s" * 129}, "INVALID_ARGUMENT"),
        ({"service": "s\0"}, "INVALID_ARGUMENT"),
        ({"resources": ["with blank"]}, "INVALID_ARGUMENT"),
        ({"resources": ["r" * 201]}, "INVALID_ARGUMENT"),
        ({"resources": [f"r{n}" for n in range(1_001)]}, "INVALID_ARGUMENT"),
    ],
)
def test_a_bad_hello(coordinator: CoordinatorProcess, fields: dict[str, object], code: str) -> None:
    assert refused(coordinator, **fields).code == code


def test_a_first_message_that_is_no_hello(coordinator: CoordinatorProcess) -> None:
    for first in (pb.ClientBatch(), pb.ClientBatch(requests=[pb.Request(id=1, begin=pb.BeginRequest(name="n"))])):
        with Stream(coordinator.address, greet=False) as stream:
            stream.write(first)
            with pytest.raises(ProtocolError, match="must be its hello"):
                stream.event()
            assert stream.end() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("data", NO_MESSAGES)
@pytest.mark.parametrize("greet", [True, False])
def test_bytes_that_are_no_message_end_the_stream(coordinator: CoordinatorProcess, greet: bool, data: bytes) -> None:
    with Stream(coordinator.address, greet=greet) as stream:
        stream.raw(data)
        assert stream.end() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_above_the_limit_ends_the_stream(coordinator: CoordinatorProcess) -> None:
    with Stream(coordinator.address) as stream:
        stream.raw(b"x" * ((4 << 20) + 1))
        assert stream.end() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with Stub(coordinator.address) as stub:
        assert stub.begin(), "and nobody else's"


def test_what_a_newer_client_asks_is_refused_and_changes_nothing(coordinator: CoordinatorProcess) -> None:
    with Stream(coordinator.address) as stream, Stub(coordinator.address) as stub:
        xid = stub.prepared()
        unknown_kind = b"\x08\x2a" + b"\xfa\x01\x02\x08\x01"  # id 42, and field 31 of a later version
        stream.raw(b"\x0a" + bytes([len(unknown_kind)]) + unknown_kind)
        with pytest.raises(ProtocolError):
            stream.event()
        stream.send(id=0, commit=pb.CommitRequest(xid=xid))
        with pytest.raises(ProtocolError, match="without an id"):
            stream.event()
        stream.hello()
        with pytest.raises(ProtocolError):
            stream.event()
        branch = next(stream.branch_ids)
        new_type: pb.BranchType = 99  # type: ignore[assignment]
        stream.send(register=pb.RegisterRequest(xid=xid, branch_id=branch, type=new_type, resource=STOCK))
        with pytest.raises(InvalidArgumentError, match="upgrade the coordinator"):
            stream.event()
        found = stub.status(xid)
        assert (found.status, len(found.branches)) == (pb.ACTIVE, 2)
        begun = stream.send(begin=pb.BeginRequest(name="n"))
        assert list(stream.read().begun) == [begun], "the stream goes on"


def test_reports_and_their_branches_must_be_pairs(coordinator: CoordinatorProcess) -> None:
    with Stream(coordinator.address) as stream:
        stream.write(pb.ClientBatch(reported_xids=["x"], reported_branches=[1, 2]))
        assert stream.end() is grpc.StatusCode.INVALID_ARGUMENT
    with Stream(coordinator.address) as stream:
        stream.write(pb.ClientBatch(done_xids=["x"]))
        assert stream.end() is grpc.StatusCode.INVALID_ARGUMENT


def test_batches_keep_to_the_cap_that_the_welcome_names(coordinator: CoordinatorProcess) -> None:
    with Stream(coordinator.address) as stream:
        cap = stream.welcome.max_batch
        assert cap > 0, "SQLite has one"
        stream.write(pb.ClientBatch(requests=[pb.Request(id=n, begin=pb.BeginRequest(name="n")) for n in range(1, 4 * cap)]))
        heard: list[int] = []
        while len(heard) < 4 * cap - 1:
            batch = stream.read()
            assert len(batch.begun) <= cap
            heard += batch.begun
        assert sorted(heard) == list(range(1, 4 * cap))


def blocks(coordinator: CoordinatorProcess) -> list[range]:
    """Branch ids that were granted, by hello, over the stream and to a unary client."""
    with Stream(coordinator.address) as stream, Stub(coordinator.address) as stub:
        stream.send(allocate=pb.AllocateBranchIdsRequest(count=100_000))
        granted = [
            stream.welcome.branch_ids,
            stream.event().branch_ids,
            stub.call("AllocateBranchIds", pb.AllocateBranchIdsRequest(count=7), pb.BranchIdBlock),
        ]
    return [range(block.first, block.first + block.count) for block in granted]


def test_no_branch_id_is_granted_twice_over_restarts_and_takeovers(tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    granted: list[range] = []
    with CoordinatorProcess(url) as first:
        for _ in range(3):
            granted += blocks(first)
            first.kill()
            first.start()
        with CoordinatorProcess(url) as second:
            granted += blocks(first)
            first.kill()
            wait_until(lambda: leads(second), 10, "the takeover")
            granted += blocks(second)
        first.start()
        granted += blocks(first)
    granted.sort(key=lambda block: block.start)
    assert all(a.stop <= b.start for a, b in pairwise(granted))
    assert granted[0].start > 0


def test_what_is_refused_behind_the_hello_leaves_nobody_connected(coordinator: CoordinatorProcess) -> None:
    hello = pb.Hello(protocol_min=1, protocol_max=1, service="odd", resources=["odd:action@1"])
    with Desk(coordinator.address) as desk, Stream(coordinator.address, greet=False) as stream:
        stream.write(pb.ClientBatch(requests=[pb.Request(id=1, hello=hello)], done_xids=["x"]))
        assert stream.end() is not grpc.StatusCode.OK
        wait_until(lambda: "odd:action@1" not in served(desk), what="the end of its session")


def served(desk: Desk) -> list[str]:
    """Resources that somebody serves."""
    return [r.resource for r in desk.overview().resources if r.sessions]
