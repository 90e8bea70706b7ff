"""XA mode within what the database, its pool and the deadline allow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import Session
from txcoord_proto.errors import ConfigurationError, DeadlinePassedError
from txcoord_rm import enroll
from txcoord_rm.xa.kept import kept
from txcoord_sdk import Client, current_headers, joined, tcc
from txcoord_sdk.context import entered
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.at.world import World
from tests.integration.xa.book import balances, pay, prepared
from tests.integration.xa.conftest import PLAIN, SYNC
from tests.servers.fixtures import FreshUrl
from tests.servers.postgres import POSTGRES
from tests.servers.recipe import Launch


def test_a_server_that_prepares_nothing_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, connected: Callable[..., Client]
) -> None:
    assert POSTGRES.launch is not None
    launch = POSTGRES.launch

    def without(directory: Path, port: int) -> Launch:
        plain = launch(directory, port)
        return replace(plain, command=(*plain.command, "-c", "max_prepared_transactions=0"))

    servers: Any = import_module("tests.servers.running")
    monkeypatch.delenv(POSTGRES.variable, raising=False)
    monkeypatch.setitem(servers.RECIPES, "postgres", replace(POSTGRES, launch=without, image=None))
    with servers.running("postgres") as server:
        engine = create_engine(server.url.replace("postgresql:", "postgresql+psycopg:"))
        client = connected()
        enroll(engine, client, mode="xa")
        with client, engine.begin() as connection:
            connection.execute(text("CREATE TABLE t (v integer)"))
        for _ in range(2):
            with client.global_transaction(), engine.connect() as connection:
                assert connection.execute(text("SELECT count(*) FROM t")).scalar_one() == 0
                with pytest.raises(ConfigurationError, match="set max_prepared_transactions to at least") as caught:
                    connection.execute(text("INSERT INTO t VALUES (1)"))
                assert "mode='at'" in str(caught.value)
        client.close()
        engine.dispose()


@pytest.fixture(params=[driver for driver in SYNC])
def small(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[World]:
    """With a pool of one connection."""
    server, driver = request.param.split("+")
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{server}_url")
    plain = fresh(PLAIN[server])
    url = plain.replace(f"+{PLAIN[server]}", f"+{driver}")
    made = World(connected(), coordinator.address, url, plain, "xa", pool_size=1, max_overflow=0, pool_timeout=5)
    made.script("CREATE TABLE account (id integer PRIMARY KEY, balance integer)", "INSERT INTO account VALUES (1, 100), (2, 100)")
    yield made
    made.close()


@pytest.mark.parametrize("undo", [False, True])
def test_a_pool_of_one(small: World, undo: bool) -> None:
    for _ in range(3):
        small.globally(pay(1, 1), pay(2, 1), undo=undo)
    assert balances(small) == ([100, 100] if undo else [103, 103])
    assert len(kept) == 0
    with small.engine.connect() as connection, small.client.global_transaction():
        connection.execute(text("UPDATE account SET balance = 7 WHERE id = 1"))
        connection.commit()
        assert connection.execute(text("SELECT count(*) FROM account")).scalar_one() == 2, "the connection can be used on"
    assert balances(small)[0] == 7


def test_a_statement_waits_no_longer_than_the_deadline(sync_world: World) -> None:
    with sync_world.outside.connect() as holder:
        holder.execute(text("UPDATE account SET balance = 0 WHERE id = 1"))
        transaction = sync_world.client.new_transaction("late", 1.5, "", 0)
        began = time.monotonic()
        with entered(transaction), Session(sync_world.engine) as session:
            pay(2, 1)(session)
            with pytest.raises(DeadlinePassedError) as caught:
                pay(1, 1)(session)
            assert caught.value.retryable
        assert time.monotonic() - began < 6
        holder.rollback()
    assert balances(sync_world) == [100, 100, 100]
    assert prepared(sync_world) == []
    sync_world.globally(pay(1, 1), pay(2, 1))
    assert balances(sync_world) == [101, 101, 100]


def test_it_is_not_prepared_after_the_deadline(sync_world: World) -> None:
    transaction = sync_world.client.new_transaction("late", 0.8, "", 0)
    with entered(transaction), Session(sync_world.engine) as session:
        pay(1, 1)(session)
        time.sleep(0.9)
        with pytest.raises(Exception, match=r"deadline|terminat|gone away|Lost|closed|server has"):
            session.commit()
    wait_until(lambda: balances(sync_world) == [100, 100, 100], 10)
    assert prepared(sync_world) == []


def test_one_that_joined_hears_of_the_deadline(sync_world: World) -> None:
    with sync_world.client.global_transaction(timeout=20.0):
        headers = {name: value for name, value in current_headers().items() if name.lower() == "txcoord-xid"}
        with joined(headers, client=sync_world.client) as transaction, Session(sync_world.engine) as session:
            assert transaction is not None
            assert transaction.deadline == float("inf")
            pay(1, 1)(session)
            assert transaction.deadline < time.monotonic() + 21
            session.commit()
    assert balances(sync_world) == [101, 100, 100]


def test_a_try_of_tcc_has_a_local_transaction_of_its_own(sync_world: World) -> None:
    @tcc(f"reserve-{sync_world.resource.database.id}", client=sync_world.client)
    def reserve(connection: Connection, amount: int) -> None:
        connection.execute(text("UPDATE account SET balance = balance - :amount WHERE id = 3"), {"amount": amount})

    @reserve.confirm
    def _(connection: Connection, amount: int) -> None:
        pass

    @reserve.cancel
    def _back(connection: Connection, amount: int) -> None:
        connection.execute(text("UPDATE account SET balance = balance + :amount WHERE id = 3"), {"amount": amount})

    def both(session: Session) -> Any:
        pay(1, 1)(session)
        reserve(session.connection(), amount=5)

    with pytest.raises(ConfigurationError, match="something else takes part"):
        sync_world.globally(both)
    assert balances(sync_world) == [100, 100, 100]
    assert prepared(sync_world) == []
    sync_world.globally(pay(1, 1), lambda session: reserve(session.connection(), amount=5))
    assert balances(sync_world) == [101, 100, 95]
