"""SIGTERM: what is under way is answered, and the standby leads at once. And a leader that stands still inside its commit."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import grpc
import pytest
from txcoord_proto.errors import NotLeaderError, TxcoordError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.server.conftest import Start
from tests.integration.server.stream import Stream
from tests.integration.server.stub import STOCK, Stub
from tests.integration.server.test_leadership import leader_named_by, leads


class Committer(threading.Thread):
    """Commits one transaction after the other until its coordinator serves it no more; remembers what it was told."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.told: list[str] = []
        self.end: Exception | None = None

    def run(self) -> None:
        try:
            with Stub(self.address) as stub:
                while True:
                    xid = stub.prepared("nobody:serves@1")
                    assert stub.commit(xid).decision == "COMMIT"
                    self.told.append(xid)
        except (TxcoordError, grpc.RpcError) as error:
            self.end = error


def test_sigterm_under_load_loses_nothing_and_hands_over_at_once(start: Start) -> None:
    first, second = start("first"), start("second")
    committers = [Committer(first.address) for _ in range(8)]
    for committer in committers:
        committer.start()
    wait_until(lambda: all(c.told for c in committers), 10, "the load")
    started = time.monotonic()
    first.terminate()
    ended = time.monotonic() - started
    wait_until(lambda: leads(second), 5, "the takeover")
    took = time.monotonic() - started
    print(f"ended after {ended:.2f} s, taken over after {took:.2f} s")
    for committer in committers:
        committer.join(10)
        assert isinstance(committer.end, (NotLeaderError, grpc.RpcError)), committer.end
    assert took <= 2.5, "the lease of 3 s has not run out"
    with Stub(second.address) as stub:
        told = [xid for committer in committers for xid in committer.told]
        assert [stub.status(xid).decision for xid in told] == ["COMMIT"] * len(told)


def test_sigterm_answers_who_waits(start: Start) -> None:
    only = start("only")
    with Stub(only.address) as stub, Stream(only.address) as stream:
        unary, over_stream = stub.prepared("nobody:serves@1"), stub.prepared("nobody:serves@1")
        stream.send(commit=pb.CommitRequest(xid=over_stream, wait=pb.WAIT_SETTLED))
        answers: list[object] = []
        waiting = threading.Thread(target=_commit_and_wait, args=(only.address, unary, answers))
        waiting.start()
        wait_until(lambda: stub.status(unary).status == pb.COMMITTING, 5, "the decision")
        started = time.monotonic()
        only.terminate()
        assert time.monotonic() - started < 4, "it does not wait for the settlement of others"
        waiting.join(5)
        assert [type(answer) for answer in answers] == [NotLeaderError], "its decision is durable, its settlement is not known"
        events = [event for batch in _until_the_end(stream) for event in batch.events]
        assert events[-1].HasField("moved")
    only.start()
    with Stub(only.address) as stub:
        assert [stub.status(xid).decision for xid in (unary, over_stream)] == ["COMMIT", "COMMIT"]


def _commit_and_wait(address: str, xid: str, answers: list[object]) -> None:
    try:
        with Stub(address) as stub:
            answers.append(stub.commit(xid, pb.WAIT_SETTLED))
    except (TxcoordError, grpc.RpcError) as error:
        answers.append(error)


def _until_the_end(stream: Stream) -> list[pb.ServerBatch]:
    heard = []
    try:
        for batch in stream.batches():
            heard.append(batch)
    except grpc.RpcError:
        pass
    return heard


def test_clients_of_a_leader_that_was_fenced_follow(start: Start) -> None:
    first, second = start("first"), start("second")
    with Stream(first.address, resources=[STOCK]) as stream:
        first.pause()
        wait_until(lambda: leads(second), 8, "the takeover")
        first.resume()
        events = [event for batch in _until_the_end(stream) for event in batch.events]
        assert events[-1].HasField("moved"), "it is told that its coordinator stepped down"
    wait_until(lambda: leader_named_by(first) == second.address, 5, "its naming of the new leader")
    with Stream(first.address, greet=False) as late:
        late.hello()
        with pytest.raises(NotLeaderError) as caught:
            late.event()
        assert caught.value.details["leader"] == second.address


def write_locked(path: Path) -> bool:
    """Whether somebody holds SQLite's write lock at this moment."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return True
    finally:
        connection.close()
    return False


def test_on_sqlite_a_leader_stopped_inside_its_commit_blocks_and_the_standby_says_so(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with (
        CoordinatorProcess(f"sqlite:///{path}", options=("--node", "first")) as first,
        CoordinatorProcess(f"sqlite:///{path}", options=("--node", "second")) as second,
    ):
        committers = [Committer(first.address) for _ in range(8)]
        for committer in committers:
            committer.start()
        for _ in range(1_000):
            first.pause()
            if write_locked(path):
                break
            first.resume()
            time.sleep(0.001)
        else:
            pytest.fail("it was never stopped inside a commit")
        try:
            wait_until(lambda: "first stands still inside a commit" in second.log(), 12, "the standby's words")
            assert not leads(second), "nobody can write to the store"
            with Stub(second.address) as stub:
                assert not stub.serving()
                with pytest.raises(NotLeaderError, match="stands still inside a commit"):
                    stub.begin()
        finally:
            first.resume()
        wait_until(lambda: leads(first) or leads(second), 10, "somebody's leading again")
        leader = first if leads(first) else second
        with Stub(leader.address) as stub:
            told = [xid for committer in committers for xid in committer.told]
            assert all(stub.status(xid).decision == "COMMIT" for xid in told)
        first.kill()
        second.kill()
        for committer in committers:
            committer.join(15)
