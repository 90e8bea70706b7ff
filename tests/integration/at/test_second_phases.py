"""AT's second phases with a real coordinator: branches registered by hand, rows put back, records gone, locks free."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from txcoord_proto.errors import ExpiredXidError
from txcoord_proto.status import BranchType, PhaseOne
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_rm.at.participant import ONLY_LOCKS, serve_second_phases
from txcoord_rm.commands.undo import undo_command
from txcoord_sdk import Client, GlobalTransaction, connect
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.testing import CoordinatorProcess, wait_until
from txcoord_server.cli import main as txcoord

from tests.contract.rm.branches import log, phase_one, plain, rows
from tests.servers.fixtures import FreshUrl


@pytest.fixture(scope="module")
def coordinator() -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess() as process:
        yield process


class Shop:
    """A service that writes in a database, and whose second phases somebody does.

    Attributes:
        url: Of the database.
        engine: The application's.
        client: Of the service, which decides.
        resource: Of the database.
    """

    def __init__(self, url: str, address: str) -> None:
        self.url, self.address = url, address
        self.engine: Engine = create_engine(url)
        self.client: Client = connect(address, service="shop")
        self.resource = ""
        plain(
            self.engine,
            "CREATE TABLE acct (id int PRIMARY KEY, bal numeric NOT NULL)",
            "INSERT INTO acct SELECT n, n * 100 FROM generate_series(1, 40) AS n",
        )
        self.before = self.rows()

    def serve(self, driver: str = "psycopg") -> None:
        """Do the second phases in this process."""
        url = self.url.replace("+psycopg", f"+{driver}")
        self.client.bind(create_engine(url) if driver == "psycopg" else create_async_engine(url))
        served: list[str] = []
        self.client.start()
        serve_second_phases(self.client, self.client.databases.get(), served.append)
        wait_until(lambda: served, what="the resource")
        (self.resource,) = served

    def rows(self) -> list[str]:
        return rows(self.engine, "acct")

    def branch(self, transaction: GlobalTransaction, *statements: str, locks: tuple[str, ...] = ()) -> int:
        """Phase one of a branch, done and reported."""
        branch_id = transaction.register(Registration(BranchType.AT, self.resource, locks))
        phase_one(self.engine, transaction.known_xid, branch_id, *statements)
        transaction.report(branch_id, PhaseOne.DONE)
        return branch_id

    def found(self, transaction: GlobalTransaction) -> pb.Transaction:
        return self.client.status(transaction.known_xid)

    def locks(self) -> list[str]:
        """Keys of all locks that are held on its resource."""
        shown = CliRunner().invoke(
            txcoord, ["locks", "--resource", self.resource, "--address", self.address, "--json"], catch_exceptions=False
        )
        return sorted(lock["key"] for lock in json.loads(shown.stdout)["locks"])

    def close(self) -> None:
        self.client.close()
        self.engine.dispose()


@pytest.fixture
def shop(fresh_postgres18_url: FreshUrl, coordinator: CoordinatorProcess) -> Iterator[Shop]:
    made = Shop(fresh_postgres18_url("psycopg"), coordinator.address)
    yield made
    made.close()


def begun(shop: Shop) -> GlobalTransaction:
    return shop.client.new_transaction("order", 60, "", 0)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_rolled_back_and_committed(shop: Shop, driver: str) -> None:
    shop.serve(driver)
    undone, done = begun(shop), begun(shop)
    shop.branch(undone, "UPDATE acct SET bal = 1 WHERE id = 1", "DELETE FROM acct WHERE id = 2", locks=("acct(1)", "acct(2)"))
    shop.branch(undone, "UPDATE acct SET bal = 2 WHERE id = 1")
    more = undone.register(Registration(BranchType.AT, shop.resource, ("acct(more)",), ONLY_LOCKS))
    undone.report(more, PhaseOne.DONE)
    shop.branch(done, "UPDATE acct SET bal = 3 WHERE id = 3", locks=("acct(3)",))
    assert shop.locks() == ["acct(1)", "acct(2)", "acct(3)", "acct(more)"]
    undone.rollback()
    assert undone.settled
    assert sorted(set(shop.before) ^ set(shop.rows())) == ["(3,3)", "(3,300)"]
    assert shop.locks() == ["acct(3)"]
    done.commit()
    wait_until(lambda: shop.found(done).status == pb.COMMITTED, what="the end of the commit")
    assert shop.locks() == []
    assert sorted(set(shop.before) ^ set(shop.rows())) == ["(3,3)", "(3,300)"]
    assert {(xid, state) for xid, _, _, state in log(shop.engine)} == {(undone.known_xid, "UNDONE")}


def test_commits_of_many_transactions_are_all_acknowledged(shop: Shop) -> None:
    shop.serve()
    ended = []
    for number in range(1, 41):
        transaction = begun(shop)
        shop.branch(transaction, f"UPDATE acct SET bal = bal + 1 WHERE id = {number}", locks=(f"acct({number})",))
        transaction.commit()
        ended.append(transaction)
    wait_until(lambda: all(_is_committed(shop, transaction) for transaction in ended), what="the end of all")
    assert log(shop.engine) == []
    assert shop.locks() == []


def _is_committed(shop: Shop, transaction: GlobalTransaction) -> bool:
    try:
        return shop.found(transaction).status == pb.COMMITTED
    except ExpiredXidError:
        return True


Act = Callable[[Shop, str], None]


def _put_right_by_hand(shop: Shop, xid: str) -> None:
    plain(shop.engine, "UPDATE acct SET bal = 1 WHERE id = 1")


def _by(act: str) -> Act:
    def run(shop: Shop, xid: str) -> None:
        words = [act, xid, "--database", shop.url, "--address", shop.address, "--reason", "ticket 4711", "--yes"]
        done = CliRunner().invoke(undo_command, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output

    return run


@pytest.mark.parametrize(
    ("act", "left"),
    [(_put_right_by_hand, "100"), (_by("force-restore"), "100"), (_by("accept-current"), "77")],
    ids=["retry", "force-restore", "accept-current"],
)
def test_a_parked_rollback_ends_by_what_an_operator_does(shop: Shop, act: Act, left: str) -> None:
    shop.serve()
    transaction = begun(shop)
    shop.branch(transaction, "UPDATE acct SET bal = 1 WHERE id = 1", locks=("acct(1)",))
    plain(shop.engine, "UPDATE acct SET bal = 77 WHERE id = 1")
    transaction.rollback()
    parked = shop.found(transaction)
    assert parked.status == pb.PARKED
    assert parked.branches[0].error_code == "ROWS_DIFFER"
    assert "public.acct(id=1).bal: was 100, became 1, is 77" in parked.branches[0].error
    assert shop.locks() == ["acct(1)"], "nobody else may write it meanwhile"
    act(shop, transaction.known_xid)
    assert shop.found(transaction).status == pb.PARKED, "the coordinator has not been told"
    retried = CliRunner().invoke(txcoord, ["retry", transaction.known_xid, "--address", shop.address, "--yes"])
    assert retried.exit_code == 0, retried.output
    wait_until(lambda: shop.found(transaction).status == pb.ROLLED_BACK, what="the end of the rollback")
    assert f"(1,{left})" in shop.rows()
    assert shop.locks() == []


def test_only_what_is_decided_rollback_is_undone_by_hand(shop: Shop) -> None:
    shop.serve()
    transaction = begun(shop)
    shop.branch(transaction, "UPDATE acct SET bal = 1 WHERE id = 1")
    words = [transaction.known_xid, "--database", shop.url, "--address", shop.address, "--reason", "x", "--yes"]
    refused = CliRunner().invoke(undo_command, ["force-restore", *words])
    assert refused.exit_code == 1
    assert "is not decided yet: only what is decided ROLLBACK is undone" in refused.output
    transaction.rollback()


_SERVE = "from txcoord_rm.commands.serve import serve_command; serve_command()"


def test_the_daemon_does_it_while_the_service_is_down(shop: Shop, coordinator: CoordinatorProcess) -> None:
    shop.serve()
    shop.client.close()
    resource = shop.resource
    command = [sys.executable, "-c", _SERVE, shop.url, "--address", shop.address, "--json"]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        assert daemon.stdout is not None
        ready: Any = json.loads(daemon.stdout.readline())
        assert ready == {"resource": resource, "service": "txcoord-agent", "coordinator": shop.address}
        shop.client = connect(shop.address, service="shop")
        transaction = begun(shop)
        shop.branch(transaction, "UPDATE acct SET bal = 1 WHERE id = 1", locks=("acct(1)",))
        transaction.rollback()
        assert transaction.settled
        assert shop.rows() == shop.before
        daemon.send_signal(signal.SIGTERM)
        _, complaints = daemon.communicate(timeout=20)
        assert daemon.returncode == 0, complaints
        assert "Traceback" not in complaints
    finally:
        daemon.kill()
        daemon.communicate()
