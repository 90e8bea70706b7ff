"""Two coordinators on one store: who leads when one is killed, stands still, or ends; and what is kept."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc
import pytest
from txcoord_proto.errors import NotLeaderError, NotReadyError, TxcoordError, UnknownXidError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.server.conftest import Start
from tests.integration.server.stub import Stub


def leads(coordinator: CoordinatorProcess) -> bool:
    try:
        with Stub(coordinator.address) as stub:
            stub.begin()
    except (TxcoordError, grpc.RpcError):
        return False
    return True


def leader_named_by(coordinator: CoordinatorProcess) -> str:
    with Stub(coordinator.address) as stub, pytest.raises(NotLeaderError) as caught:
        stub.begin()
    return caught.value.details.get("leader", "")


def takeover(standby: CoordinatorProcess, act: Callable[[], None]) -> float:
    """Seconds from `act` until the standby leads."""
    assert not leads(standby)
    started = time.monotonic()
    act()
    wait_until(lambda: leads(standby), 15, "the takeover")
    return time.monotonic() - started


def decisions(coordinator: CoordinatorProcess, count: int = 20) -> tuple[list[str], str]:
    """XIDs that were told to be committed, and one that is not decided."""
    with Stub(coordinator.address) as stub:
        told = [stub.prepared() for _ in range(count)]
        for xid in told:
            assert stub.commit(xid).status == pb.COMMITTING
        return told, stub.prepared()


def check_kept(coordinator: CoordinatorProcess, told: list[str], open_xid: str) -> None:
    with Stub(coordinator.address) as stub:
        for xid in told:
            found = stub.status(xid)
            assert (found.decision, [b.status for b in found.branches]) == ("COMMIT", ["DONE", "DONE"])
        assert stub.status(open_xid).status == pb.ACTIVE
        assert stub.commit(open_xid).status == pb.COMMITTING, "a running transaction survives a takeover"


def test_a_killed_leader_is_replaced_and_nothing_told_is_lost(start: Start) -> None:
    first, second = start("first"), start("second")
    kept = decisions(first)
    assert takeover(second, first.kill) <= 2.5
    check_kept(second, *kept)


def test_a_leader_that_stands_still_is_replaced_and_fenced(start: Start) -> None:
    first, second = start("first"), start("second")
    kept = decisions(first)
    assert takeover(second, first.pause) <= 5.0
    check_kept(second, *kept)
    first.resume()
    wait_until(lambda: not leads(first), 10, "the old leader's stepping down")
    wait_until(lambda: leader_named_by(first) == second.address, 5, "its naming of the new leader")
    assert leads(second)


def test_a_leader_that_ends_hands_over_at_once(start: Start) -> None:
    first, second = start("first"), start("second")
    kept = decisions(first)
    assert takeover(second, first.terminate) <= 2.5
    check_kept(second, *kept)


def test_a_short_pause_changes_nothing(start: Start) -> None:
    first, second = start("first"), start("second")
    told, _ = decisions(first, 3)
    first.pause()
    time.sleep(1.0)
    first.resume()
    time.sleep(1.0)
    assert leads(first)
    assert not leads(second)
    with Stub(first.address) as stub:
        assert all(stub.status(xid).decision == "COMMIT" for xid in told)


def test_a_restart_finds_everything(start: Start) -> None:
    only = start("only")
    kept = decisions(only)
    only.kill()
    only.start()
    wait_until(lambda: leads(only), 5, "the restart")
    check_kept(only, *kept)


def test_a_begun_transaction_without_branches_is_aborted_by_a_restart(start: Start) -> None:
    only = start("only")
    with Stub(only.address) as stub:
        xid = stub.begin()
    only.kill()
    only.start()
    wait_until(lambda: leads(only), 5, "the restart")
    with Stub(only.address) as stub, pytest.raises(UnknownXidError):
        stub.commit(xid)


def test_while_nobody_leads_a_standby_says_so(start: Start) -> None:
    first, second = start("first"), start("second")
    with Stub(second.address) as stub, pytest.raises((NotLeaderError, NotReadyError), match="standby"):
        stub.begin()
    assert leads(first)
