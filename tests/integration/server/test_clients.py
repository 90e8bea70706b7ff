"""Clients that do not behave: they do not read, flood, hold large data, or end; the coordinator stays as it is for the others."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import grpc
import pytest
from txcoord_proto.errors import StoreUnavailableError, TooManyTransactionsError
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


def test_a_store_that_takes_no_commits_does_not_grow_the_coordinator(tmp_path: Path) -> None:
    """What cannot be answered is not read any more; once the store is back, everybody hears."""
    store, questions = tmp_path / "store.db", 75
    with ExitStack() as stack:
        coordinator = stack.enter_context(CoordinatorProcess(f"sqlite:///{store}"))
        stub = stack.enter_context(Stub(coordinator.address))
        curious = stack.enter_context(Stream(coordinator.address, instance="curious"))
        prefix = stub.begin().rpartition(".")[0]
        xids = [f"{prefix}.{n:08d}" for n in range(10_000)]
        before = resident(coordinator.pid)

        def no_more_is_taken() -> bool:
            try:
                stub.call("Settled", pb.SettledQuery(xids=xids[:1]), pb.SettledReply, timeout=0.5)
            except StoreUnavailableError as error:
                return "answers wait for the store" in error.message
            except grpc.RpcError:
                return False  # it was taken, and has no answer
            return False

        with closing(sqlite3.connect(store, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for n in range(questions):
                curious.write(pb.ClientBatch(requests=[pb.Request(id=1_000 + n, settled=pb.SettledQuery(xids=xids))]))
            wait_until(no_more_is_taken, 30, "the refusal of more")
            time.sleep(1.0)  # without a bound it would go on growing
            most = resident(coordinator.pid)
            other.execute("ROLLBACK")
        print(f"{before:.0f} MiB before, {most:.0f} at most")
        assert most - before < 40
        answered = 0
        while answered < questions:
            answered += sum(event.HasField("settled") for event in curious.read().events)
        assert stub.commit(stub.begin()).status == pb.COMMITTED


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
            with pytest.raises(TooManyTransactionsError, match=f" raise {option}$"):
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
