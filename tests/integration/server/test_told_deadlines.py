"""How long a transaction has, told with a registration over both ways in."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.server.stream import Stream
from tests.integration.server.stub import STOCK, Stub


@pytest.fixture(scope="module")
def coordinator() -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess() as running:
        yield running


def request(branch: int, **fields: object) -> pb.RegisterRequest:
    return pb.RegisterRequest(branch_id=branch, type=pb.TCC, resource=STOCK, **fields)  # type: ignore[arg-type]


def test_a_unary_registration_tells_it_always(coordinator: CoordinatorProcess) -> None:
    with Stub(coordinator.address) as stub:
        xid = stub.begin(timeout_ms=20_000)
        ids = stub.call("AllocateBranchIds", pb.AllocateBranchIdsRequest(count=2), pb.BranchIdBlock)
        first = stub.call("Register", request(ids.first, xid=xid), pb.RegisterReply)
        assert first.xid == xid
        assert 10_000 < first.timeout_left_ms <= 20_000
        time.sleep(0.05)
        again = stub.call("Register", request(ids.first, xid=xid), pb.RegisterReply)
        assert 10_000 < again.timeout_left_ms < first.timeout_left_ms
        begins = request(ids.first + 1, begin=pb.BeginRequest(name="order", timeout_ms=5000))
        begun = stub.call("Register", begins, pb.RegisterReply)
        assert stub.status(begun.xid).branches[0].id == ids.first + 1
        assert 1000 < begun.timeout_left_ms <= 5000


@pytest.mark.parametrize("tell", [True, False])
def test_over_the_stream_who_asks_is_told(coordinator: CoordinatorProcess, tell: bool) -> None:
    with Stub(coordinator.address) as stub, Stream(coordinator.address) as stream:
        xid = stub.begin(timeout_ms=20_000)
        branch = next(stream.branch_ids)
        for _ in range(2):  # also when it is repeated
            sent = stream.send(register=request(branch, xid=xid, tell_timeout=tell))
            while not ((answered := stream.read()).ok or answered.events):
                pass
            assert list(answered.ok) == ([] if tell else [sent])
            assert [(event.id, event.registered.xid) for event in answered.events] == ([(sent, xid)] if tell else [])
            assert all(10_000 < event.registered.timeout_left_ms <= 20_000 for event in answered.events)
