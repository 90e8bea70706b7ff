"""What is kept how long, and what is said of what is kept no longer."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from txcoord_proto.errors import ExpiredXidError, TxcoordError, UnknownXidError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.xid import Xid, epoch_prefix, mint
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.server.stream import Stream
from tests.integration.server.stub import STOCK, Stub
from tests.integration.server.test_leadership import leads

OPTIONS = ("--keep-committed", "5", "--keep-committed-for", "1.5", "--keep-keyed", "3")


def expired(stub: Stub, xid: str) -> bool:
    try:
        stub.status(xid)
    except ExpiredXidError:
        return True
    return False


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(TxcoordError) as caught:
        act()
    assert caught.value.retryable
    return caught.value.code


def everything_is_said_of(stub: Stub, gone: str) -> None:
    """An XID whose outcome is no longer kept: finished, and never "aborted"."""
    assert refusal(lambda: stub.commit(gone)) == "XID_EXPIRED"
    assert refusal(lambda: stub.rollback(gone)) == "XID_EXPIRED"
    assert refusal(lambda: stub.register(gone)) == "XID_EXPIRED"
    assert refusal(lambda: stub.status(gone)) == "XID_EXPIRED"
    settled = stub.call("Settled", pb.SettledQuery(xids=[gone]), pb.SettledReply)
    assert list(settled.settlements) == [pb.EXPIRED]


def never_minted(xid: str) -> str:
    """An XID of the same epoch that nobody has begun."""
    parsed = Xid.parse(xid)
    return mint(epoch_prefix(parsed.group, parsed.epoch), parsed.sequence + 1_000_000)


def committed(stub: Stub, key: str = "") -> str:
    """A transaction that is committed at once; one that took long has a time of its own."""
    xid = stub.begin(key=key)
    stub.commit(xid)
    return xid


def test_what_leaves_and_what_stays(url: str) -> None:
    with CoordinatorProcess(url, options=OPTIONS) as coordinator:
        with Stub(coordinator.address) as stub:
            waiting = stub.prepared("nobody:serves@1")
            stub.commit(waiting)
            rolled_back = stub.prepared("nobody:serves@1")
            stub.rollback(rolled_back)
            parked = stub.prepared(STOCK)
            stub.commit(parked)
            with Stream(coordinator.address, resources=[STOCK]) as participant:
                while not (batch := participant.read()).commands:
                    pass
                told = pb.AnswerRequest(xid=parked, branch_id=batch.commands[0].branch_ids[0], result=pb.COMMAND_PARK, code="X")
                participant.send(answer=told)
                wait_until(lambda: stub.status(parked).status == pb.PARKED, 5, "parking")
            keyed = [committed(stub, f"order:{n}") for n in range(6)]
            plain = [committed(stub) for _ in range(12)]
            active = stub.prepared()
            wait_until(lambda: all(expired(stub, xid) for xid in plain[:6]), 15, "the purge")
            assert [stub.status(xid).status for xid in keyed] == [pb.COMMITTED] * 6, "they have a time of their own"
            newest = [committed(stub, f"order:{n}") for n in range(10, 13)]
            wait_until(lambda: all(expired(stub, xid) for xid in keyed), 15, "the purge of old keyed ones")
            everything_is_said_of(stub, plain[0])
            assert stub.status(plain[-1]).status == pb.COMMITTED, "among the newest"
            assert [stub.status(xid).status for xid in newest] == [pb.COMMITTED] * 3, "the newest with a key"
            assert stub.status(key="order:12").xid == newest[2]
            unfinished = [stub.status(xid).status for xid in (waiting, rolled_back, parked, active)]
            assert unfinished == [pb.COMMITTING, pb.ROLLING_BACK, pb.PARKED, pb.ACTIVE]
            with pytest.raises(UnknownXidError):
                stub.status(never_minted(active))
        coordinator.kill()
        coordinator.start()
        wait_until(lambda: leads(coordinator), 5, "the restart")
        with Stub(coordinator.address) as stub:
            everything_is_said_of(stub, plain[0])
            with pytest.raises(UnknownXidError):
                stub.status(never_minted(active))
            time.sleep(4.0)
            assert stub.status(plain[-1]).status == pb.COMMITTED, "a restart does not make it older: it is among the newest"
            for _ in range(12):
                committed(stub)
            wait_until(lambda: all(expired(stub, xid) for xid in plain), 20, "the purge of the earlier epoch")
            assert stub.status(parked).status == pb.PARKED
            assert stub.status(waiting).status == pb.COMMITTING
            assert stub.status(active).branches[0].status == "DONE"
