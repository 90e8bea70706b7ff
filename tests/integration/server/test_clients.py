"""Clients that do not behave: they do not read, flood, hold large data, or end; the coordinator stays as it is for the others."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from txcoord_proto.errors import TooManyTransactionsError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.benchmarks.stuck import resident
from tests.integration.server.stream import Stream
from tests.integration.server.stub import STOCK, Stub

MIB = 1 << 20


@pytest.fixture
def coordinator() -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess() as running:
        yield running


def test_a_client_that_stops_reading_is_cut_off_and_finds_everything_again(coordinator: CoordinatorProcess) -> None:
    with Stub(coordinator.address) as stub, Stream(coordinator.address, instance="deaf", resources=[STOCK]) as deaf:
        xid = stub.prepared(STOCK)
        before = resident(coordinator.pid)
        refused = "x" * 2_000  # each is refused with a text of its own
        question = pb.ClientBatch(requests=[pb.Request(id=n, commit=pb.CommitRequest(xid=refused)) for n in range(1, 1_001)])
        most = before
        for _ in range(300):
            deaf.write(question)
            time.sleep(0.01)
            most = max(most, resident(coordinator.pid))
            if "does not read" in coordinator.log():
                break
        else:
            wait_until(lambda: "does not read" in coordinator.log(), 20, "the end of its stream")
        assert "deaf does not read what it is sent" in coordinator.log()
        print(f"{before:.0f} MiB before, {most:.0f} at most")
        assert most - before < 150
        assert stub.commit(xid).status == pb.COMMITTING
    with Stream(coordinator.address, instance="healed", resources=[STOCK]) as healed:
        while not (batch := healed.read()).commands:
            pass
        assert [list(commands.xids) for commands in batch.commands] == [[xid]]


def test_commands_with_large_arguments_travel_in_batches_that_arrive(coordinator: CoordinatorProcess) -> None:
    with Stub(coordinator.address) as stub:
        xids = []
        for n in range(40):
            xid = stub.begin()
            stub.report(xid, stub.register(xid, STOCK, arguments=bytes([n]) * MIB))
            stub.commit(xid)
            xids.append(xid)
        several = stub.begin()
        for _ in range(5):
            stub.register(several, STOCK, arguments=b"r" * MIB)
        stub.rollback(several)
        with Stream(coordinator.address, resources=[STOCK]) as participant:
            done: dict[str, int] = {}
            while len(done) < 41:
                batch = participant.read()
                assert batch.ByteSize() < 6 * MIB
                for commands in batch.commands:
                    for xid, arguments in zip(commands.xids, commands.arguments):
                        done[xid] = done.get(xid, 0) + len(arguments)
                    participant.write(pb.ClientBatch(done_xids=commands.xids, done_branches=commands.branch_ids))
            assert done == {**dict.fromkeys(xids, MIB), several: 5 * MIB}
            wait_until(lambda: stub.status(several).status == pb.ROLLED_BACK, 5, "the last settlement")
        assert all(stub.status(xid).status == pb.COMMITTED for xid in xids)


@pytest.mark.parametrize("option", ["--max-transactions", "--max-transactions-per-client"])
def test_a_flood_of_begins(option: str) -> None:
    with CoordinatorProcess(options=(option, "50")) as coordinator:  # noqa: SIM117 - the clients end first
        with Stub(coordinator.address, service="flood") as flood, Stream(coordinator.address, service="flood") as stream:
            kept = flood.prepared()
            xids = [flood.begin(timeout_ms=60_000) for _ in range(49)]
            with pytest.raises(TooManyTransactionsError, match="max_transactions"):
                flood.begin()
            stream.send(begin=pb.BeginRequest(name="n"))
            with pytest.raises(TooManyTransactionsError):
                stream.event()
            stream.send(
                register=pb.RegisterRequest(
                    branch_id=next(stream.branch_ids), type=pb.TCC, resource=STOCK, begin=pb.BeginRequest(name="n")
                )
            )
            with pytest.raises(TooManyTransactionsError):
                stream.event()
            with Stub(coordinator.address, service="calm") as calm:
                if option == "--max-transactions":
                    with pytest.raises(TooManyTransactionsError, match="coordinator's limit"):
                        calm.begin()
                else:
                    assert calm.begin(), "others are not held up"
            flood.rollback(xids[0])
            assert flood.begin(), "room again"
            assert flood.commit(kept).status == pb.COMMITTING, "what was open goes on"


def test_many_resources_of_many_clients_leave_nothing_behind(coordinator: CoordinatorProcess) -> None:
    for start in range(3):
        with Stream(coordinator.address, resources=[f"s{start}:a{n}@1" for n in range(1_000)]) as stream:
            stream.send(serve=pb.ServeRequest(resources=["one:more@1"]))
            with pytest.raises(Exception, match="at most 1000"):
                stream.event()
