"""The store is gone, silent, slow or full: nothing is told that is not durable, health says so, and it recovers by itself."""

from __future__ import annotations

import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from sqlalchemy import create_engine, text
from txcoord_proto.errors import NotLeaderError, NotReadyError, StoreUnavailableError, TxcoordError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.xid import Xid
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.server.stub import Stub
from tests.integration.server.test_leadership import leads
from tests.servers import Direction, Server, TcpProxy

DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "sqlite": "sqlite"}


@contextmanager
def asked_to_commit(stub: Stub, xid: str) -> Iterator[Future[pb.DecisionReply]]:
    """A commit that is under way in a thread."""
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(stub.call, "Commit", pb.CommitRequest(xid=xid, wait=pb.WAIT_DECIDED), pb.DecisionReply, timeout=30)


def status_in(url: str, xid: str) -> str:
    """What the store itself says of a transaction."""
    scheme, rest = url.split(":", 1)
    engine = create_engine(f"{DRIVERS[scheme]}:{rest}")
    with engine.connect() as connection:
        found = connection.scalar(text("SELECT status FROM txc_global WHERE xid = :xid"), {"xid": xid})
    engine.dispose()
    return str(found)


def commit_again(coordinator: CoordinatorProcess, xid: str) -> pb.DecisionReply:
    """Ask for commit until somebody answers, as a client does."""
    until = time.monotonic() + 30
    while True:
        try:
            with Stub(coordinator.address) as stub:
                return stub.commit(xid)
        except (NotLeaderError, NotReadyError, StoreUnavailableError, grpc.RpcError):
            assert time.monotonic() < until
            time.sleep(0.05)


def gone(proxy: TcpProxy) -> None:
    """The database's machine is down."""
    proxy.refuse()
    proxy.cut()


def silent(proxy: TcpProxy) -> None:
    """The database's machine stands still: connections stay, nothing comes back."""
    proxy.black_hole()


@pytest.mark.parametrize("fault", [gone, silent])
def test_while_the_database_is_gone_nothing_is_told_and_health_says_so(
    proxy: TcpProxy, server_url: str, fault: Callable[[TcpProxy], None]
) -> None:
    with CoordinatorProcess(proxy.url) as coordinator, Stub(coordinator.address) as stub:
        xid = stub.prepared()
        wait_until(stub.serving, 5, "health")
        fault(proxy)
        with asked_to_commit(stub, xid) as answer:
            wait_until(lambda: not stub.serving(), 8, "the health check")
            assert status_in(server_url, xid) == "ACTIVE"
            assert not (answer.done() and answer.exception() is None), "an answer without a durable decision"
            log = coordinator.log()
            assert "the store" in log
            proxy.heal()
            wait_until(stub.serving, 20, "the recovery")
        told = commit_again(coordinator, xid)
        assert (told.status, told.decision) == (pb.COMMITTING, "COMMIT")
        assert status_in(server_url, xid) == "COMMITTING"
        assert stub.begin(), "and it goes on"


def test_a_commit_whose_answer_is_lost_is_told_to_nobody_and_read_from_the_rows(proxy: TcpProxy, server_url: str) -> None:
    with CoordinatorProcess(proxy.url) as coordinator, Stub(coordinator.address) as stub:
        xid = stub.prepared()
        proxy.black_hole(Direction.TO_CLIENT)
        with asked_to_commit(stub, xid) as answer:
            wait_until(lambda: status_in(server_url, xid) == "COMMITTING", 10, "the decision in the store")
            time.sleep(0.3)
            assert not answer.done(), "its commit has not returned"
            proxy.cut()
            proxy.heal()
            with pytest.raises(NotLeaderError):
                answer.result(20)
        told = commit_again(coordinator, xid)
        assert told.decision == "COMMIT"
        wait_until(lambda: leads(coordinator), 10, "the new epoch")
        assert Xid.parse(stub.begin()).epoch > Xid.parse(xid).epoch
        assert "the outcome of a commit is unknown" in coordinator.log()


def test_connections_that_are_cut_cost_time_and_nothing_else(proxy: TcpProxy) -> None:
    with CoordinatorProcess(proxy.url) as coordinator:
        told = []
        for _ in range(10):
            wait_until(lambda: leads(coordinator), 10, "a leader")
            with Stub(coordinator.address) as stub:
                xid = stub.prepared()
            proxy.cut()
            assert commit_again(coordinator, xid).decision == "COMMIT"
            told.append(xid)
        with Stub(coordinator.address) as stub:
            assert [stub.status(xid).decision for xid in told] == ["COMMIT"] * 10


def test_a_slow_database_is_only_slow(proxy: TcpProxy) -> None:
    with CoordinatorProcess(proxy.url) as coordinator, Stub(coordinator.address) as stub:
        proxy.delay(0.2)
        started = time.monotonic()
        xid = stub.prepared()
        assert stub.commit(xid).status == pb.COMMITTING
        assert time.monotonic() - started > 1
        assert stub.serving()
        assert leads(coordinator)


@pytest.mark.parametrize("name", ["postgres", "mariadb"])
def test_a_database_that_is_killed_and_started_again(name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(name)
    url: str = request.getfixturevalue(f"fresh_{name}_url")()
    with CoordinatorProcess(url) as coordinator, CoordinatorProcess(url) as standby, Stub(coordinator.address) as stub:
        told = [stub.prepared() for _ in range(5)]
        for xid in told:
            assert stub.commit(xid).status == pb.COMMITTING
        server.kill()
        try:
            wait_until(lambda: not stub.serving(), 8, "the health check")
        finally:
            server.restart()
        wait_until(lambda: leads(coordinator) or leads(standby), 20, "somebody's leading")
        leader, other = (coordinator, standby) if leads(coordinator) else (standby, coordinator)
        with Stub(leader.address) as asked:
            assert [asked.status(xid).decision for xid in told] == ["COMMIT"] * 5
        leader.kill()
        wait_until(lambda: leads(other), 10, "the other's takeover: it found its way back to the store, too")


def test_a_standby_takes_over_from_a_leader_that_has_lost_the_database(proxy: TcpProxy, server_url: str) -> None:
    with CoordinatorProcess(proxy.url) as first, CoordinatorProcess(server_url) as second, Stub(first.address) as stub:
        xid = stub.prepared()
        started = time.monotonic()
        silent(proxy)
        wait_until(lambda: leads(second), 12, "the takeover")
        assert time.monotonic() - started <= 5.0
        assert commit_again(second, xid).decision == "COMMIT"
        proxy.heal()
        wait_until(lambda: not leads(first), 15, "the old leader's stepping down")
        with pytest.raises(TxcoordError):
            stub.commit(xid)
        assert leads(second)


def test_a_start_without_the_database_waits_for_it_and_says_so(proxy: TcpProxy) -> None:
    proxy.refuse()
    coordinator = CoordinatorProcess(proxy.url, options=("--lease-ttl", "1"))
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(coordinator.start)
        try:
            wait_until(lambda: "the store cannot be reached" in coordinator.log(), 15, "the log line")
            assert not starting.done()
        finally:
            proxy.heal()
            starting.result(30)
    with Stub(coordinator.address) as stub:
        wait_until(stub.serving, 5, "health")
        assert stub.begin()
    coordinator.close()


@pytest.mark.parametrize("fault", [gone, silent])
def test_sigterm_ends_a_coordinator_whose_database_is_gone(proxy: TcpProxy, fault: Callable[[TcpProxy], None]) -> None:
    with CoordinatorProcess(proxy.url) as coordinator, Stub(coordinator.address) as stub:
        stub.prepared()
        fault(proxy)
        wait_until(lambda: not stub.serving(), 8, "the health check")
        started = time.monotonic()
        coordinator.terminate()
        assert time.monotonic() - started < 9.5, "it was not SIGKILL that ended it"


def limit_files(coordinator: CoordinatorProcess, size: int) -> None:
    """No file of the coordinator may grow beyond `size`, as if its disk were full."""
    resource.prlimit(coordinator.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with CoordinatorProcess(url) as coordinator, Stub(coordinator.address) as stub:
        told = stub.prepared()
        assert stub.commit(told).status == pb.COMMITTING
        xid = stub.prepared()
        limit_files(coordinator, 4096)
        with asked_to_commit(stub, xid) as answer:
            wait_until(lambda: not stub.serving(), 8, "the health check")
            assert not (answer.done() and answer.exception() is None), "an answer without a durable decision"
            assert status_in(url, xid) == "ACTIVE"
            limit_files(coordinator, resource.RLIM_INFINITY)
            wait_until(stub.serving, 10, "the recovery")
        assert commit_again(coordinator, xid).decision == "COMMIT"
        assert status_in(url, xid) == "COMMITTING"
        assert stub.status(told).decision == "COMMIT"
        assert "the store" in coordinator.log()


def test_another_program_that_holds_the_write_lock_of_an_sqlite_store(tmp_path: Path) -> None:
    with CoordinatorProcess(f"sqlite:///{tmp_path}/store.db") as coordinator, Stub(coordinator.address) as stub:
        xid = stub.prepared()
        holder = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        wait_until(lambda: not stub.serving(), 8, "the health check")
        slowest = 0.0
        for _ in range(30):
            asked = time.monotonic()
            assert not stub.serving()
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.1)
        assert slowest < 1.0, "it waits for the lock beside its loop, not in it"
        assert "database is locked" in coordinator.log()
        holder.execute("ROLLBACK")
        holder.close()
        wait_until(stub.serving, 8, "the recovery")
        assert stub.commit(xid).decision == "COMMIT"
