"""A local transaction does not outlive its deadline: not idle, not busy, not waiting, and nobody else is hit by that."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from txcoord_proto.errors import ConfigurationError, DeadlinePassedError, RolledBackError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk import Client, current_headers, joined, tcc
from txcoord_sdk.dialects import dialect_of
from txcoord_sdk.fence import fence
from txcoord_sdk.fence.fence import RepeatedTryError
from txcoord_sdk.local_state import LocalState, Reaper
from txcoord_sdk.local_transaction import WatchedDialect, limit, watch
from txcoord_sdk.schema import prepare
from txcoord_sdk.testing import wait_until

from tests.integration.tcc.conftest import fences, move, stock
from tests.integration.tcc.drivers import Driver
from tests.integration.tcc.test_branches import reserve_on
from tests.integration.tcc.test_local_transaction import DRIVERS, Recorder, rows, sync_url, write

__all__ = ["driver"]
from tests.integration.tcc.test_local_transaction import driver


def in_seconds(seconds: float) -> float:
    return time.monotonic() + seconds


def write_elsewhere(driver: Driver, statement: str) -> None:
    """On a connection of its own, which waits for locks."""
    url = driver._url.replace(f"{driver.name}:", "sqlite:") if driver.backend == "sqlite" else sync_url(driver)
    engine = create_engine(url)
    with engine.begin() as other:
        other.execute(text(statement))
    engine.dispose()


def test_an_idle_one_gives_its_locks_back(driver: Driver) -> None:
    def work(connection: Connection) -> None:
        write(connection, 1)
        connection.commit()
        limit(connection, in_seconds(0.8))
        connection.execute(text("UPDATE t SET v = 100 WHERE id = 1"))
        recorder = Recorder(connection)
        started = time.monotonic()
        write_elsewhere(driver, "UPDATE t SET v = v + 1 WHERE id = 1")
        assert 0.4 < time.monotonic() - started < 4
        assert recorder.told == []
        with pytest.raises(DeadlinePassedError, match="does not go on: roll it back"):
            write(connection, 2)
        connection.rollback()
        assert recorder.told == ["rolled back"]

    def then(connection: Connection) -> None:
        assert connection.scalar(text("SELECT v FROM t")) == 1
        assert rows(connection) == [1]

    driver.run(watch, work, then)


def test_a_commit_after_the_deadline_is_none(driver: Driver) -> None:
    def work(connection: Connection) -> None:
        limit(connection, in_seconds(0.3))
        write(connection, 1)
        recorder = Recorder(connection)
        time.sleep(2.5 if driver.backend == "mysql" else 0.8)
        with pytest.raises((DBAPIError, DeadlinePassedError)):
            connection.commit()
        assert recorder.told in (["asked", "rolled back"], ["asked", "unknown"])

    driver.run(watch, work, lambda c: _is(rows(c), []))


def _is(found: object, expected: object) -> None:
    assert found == expected


LIMITS = {
    "sqlite": ["PRAGMA busy_timeout"],
    "postgresql": ["SHOW idle_in_transaction_session_timeout", "SHOW statement_timeout"],
    "mysql": ["SELECT @@wait_timeout", "SELECT @@innodb_lock_wait_timeout"],
}


def limits(connection: Connection) -> list[str]:
    return [str(connection.exec_driver_sql(question).scalar()) for question in LIMITS[connection.dialect.name]]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_the_next_transaction_has_the_applications_limits(driver: Driver, how: str) -> None:
    own = {"postgresql": "SET statement_timeout = '77s'", "mysql": "SET innodb_lock_wait_timeout = 77"}.get(driver.backend)

    def work(connection: Connection) -> None:
        if own is not None:
            connection.exec_driver_sql(own)
            connection.commit()
        before = limits(connection)
        connection.commit()
        for _ in range(2):  # also when it has been limited before
            limit(connection, in_seconds(40))
            limit(connection, in_seconds(30))  # two tries in one
            inside = limits(connection)
            if driver.backend != "sqlite":
                assert all(inside[n] != before[n] for n in range(2)), inside
            getattr(connection, how)()
            assert limits(connection) == before
            connection.commit()

    driver.run(watch, work)


def test_lower_limits_stay(driver: Driver) -> None:
    if driver.backend == "sqlite":
        pytest.skip("SQLite has no such limits")
    own = "SET statement_timeout = '7s'" if driver.backend == "postgresql" else "SET innodb_lock_wait_timeout = 7"

    def work(connection: Connection) -> None:
        connection.exec_driver_sql(own)
        connection.commit()
        limit(connection, in_seconds(40))
        assert limits(connection)[1] in ("7s", "7")

    driver.run(watch, work)


def test_they_hold_again_after_the_savepoint_in_which_they_were_set(driver: Driver) -> None:
    def work(connection: Connection) -> None:
        write(connection, 1)
        inner = connection.begin_nested()
        limit(connection, in_seconds(30))
        inner.rollback()
        limit(connection, in_seconds(30))
        if driver.backend == "postgresql":
            assert all(value != "0" for value in limits(connection))
        connection.commit()

    driver.run(watch, work, lambda c: _is(rows(c), [1]))


def test_a_try_waits_for_its_own_row_no_longer_than_that(driver: Driver) -> None:
    """The statement that tells the database of the limit writes the row, too, where one can do both."""
    if driver.backend == "sqlite":
        pytest.skip("SQLite waits for its one writer as the driver was told")
    elsewhere = create_engine(sync_url(driver))

    def work(connection: Connection) -> None:
        prepare(connection)
        connection.commit()
        with elsewhere.connect() as other:
            fence.tried(other, "x", 1, "r")
            started = time.monotonic()
            with pytest.raises(DBAPIError):
                fence.tried(connection, "x", 1, "r", in_seconds(0.8))
            assert 0.4 < time.monotonic() - started < 4
            connection.rollback()
        fence.tried(connection, "x", 1, "r", in_seconds(30))
        if driver.backend == "postgresql":
            assert all(value != "0" for value in limits(connection))
        with pytest.raises(RepeatedTryError):
            fence.tried(connection, "x", 1, "r", in_seconds(30))
        connection.rollback()

    driver.run(watch, work)
    elsewhere.dispose()


ENDS = ["COMMIT", "  rollback", "-- why\nCOMMIT", "/* a\nb */ BEGIN", "START TRANSACTION", "END"]
MYSQL_ENDS = ["ALTER TABLE t ADD x INT", "TRUNCATE t", "create table u (id int)", "LOCK TABLES t WRITE"]


def test_statements_that_end_it_unseen_are_refused(driver: Driver) -> None:
    def work(connection: Connection) -> None:
        write(connection, 1)
        limit(connection, in_seconds(30))
        recorder = Recorder(connection)
        for statement in ENDS + (MYSQL_ENDS if driver.backend == "mysql" else []):
            with pytest.raises(ConfigurationError, match="ends a local transaction that takes part"):
                connection.exec_driver_sql(statement)
        connection.exec_driver_sql("CREATE TEMPORARY TABLE scratch (id INTEGER)")
        connection.rollback()
        assert recorder.told == ["rolled back"]
        connection.exec_driver_sql("CREATE TABLE later (id INTEGER)")  # nobody's

    driver.run(watch, work, lambda c: _is(rows(c), []))


def test_a_savepoint_of_the_users_own_puts_it_in_doubt(driver: Driver) -> None:
    """What enlisted after it is gone with it, and is not told."""

    def work(connection: Connection) -> None:
        write(connection, 1)
        limit(connection, in_seconds(30))
        connection.exec_driver_sql("SAVEPOINT mine")
        write(connection, 2)
        recorder = Recorder(connection, row=2)
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT mine")
        with pytest.raises(DeadlinePassedError, match="my row is gone"):
            connection.commit()
        assert recorder.told == ["asked in doubt", "rolled back"]

    driver.run(watch, work, lambda c: _is(rows(c), []))


# ---------------------------------------------------------------- through the whole SDK


def test_a_session_that_its_owner_forgot_does_not_hold_up_the_cancel(client: Client, engine: Engine) -> None:
    client.bind(engine)
    reserve = reserve_on(client)
    told: list[float] = []

    def order() -> None:
        with client.global_transaction(name="order", timeout=1.5) as transaction, Session(engine) as session:
            reserve(session, 3)
            started = time.monotonic()
            while client.status(transaction.known_xid).status != pb.ROLLED_BACK and time.monotonic() - started < 12:
                time.sleep(0.05)
            told.append(time.monotonic() - started)
            with pytest.raises(DeadlinePassedError):
                reserve(session, 1)

    with pytest.raises(RolledBackError):
        order()
    assert told[0] < 8, "it is settled although the session is open"
    assert stock(engine) == (10, 0, 0)
    assert fences(engine) == ["SUSPENDED"]


def test_a_try_that_waits_beyond_the_deadline_is_told_so_whatever_the_database_calls_it(client: Client, engine: Engine) -> None:
    client.bind(engine)
    reserve = reserve_on(client)
    client.databases.get().prepare()

    def order(other: Connection) -> None:
        with client.global_transaction(name="order", timeout=1.2):
            try:
                reserve(quantity=1)
            finally:
                if engine.dialect.name == "sqlite":  # where the cancel, which the rollback waits for, needs the same lock
                    other.rollback()

    with engine.connect() as other:
        move(other, 0, 0, 1)  # holds the row
        started = time.monotonic()
        with pytest.raises(DeadlinePassedError) as caught:
            order(other)
        assert time.monotonic() - started < (12 if engine.dialect.name == "sqlite" else 6)
        if engine.dialect.name != "sqlite":  # which is tried again, and refused then
            assert isinstance(caught.value.__cause__, DBAPIError)
        other.rollback()
    assert stock(engine) == (10, 0, 0)


def test_a_driver_that_commits_by_itself_is_refused(connected: Callable[..., Client], url: str, tmp_path: Path) -> None:
    plain = create_engine(url)
    with plain.begin() as connection:
        connection.execute(text("CREATE TABLE stock (sku VARCHAR(20) PRIMARY KEY, free INT, reserved INT, sold INT)"))
    plain.dispose()
    arguments: dict[str, Any] = {"isolation_level": None} if url.startswith("sqlite") else {"autocommit": True}
    engine = create_engine(url, connect_args=arguments)
    client = connected()
    client.bind(engine)
    reserve = reserve_on(client)

    def order() -> None:
        with client.global_transaction(name="order"):
            reserve()

    with pytest.raises(ConfigurationError, match="commits each statement by itself"):
        order()
    engine.dispose()


@pytest.mark.parametrize(("fails", "end"), [(False, (9, 0, 1)), (True, (10, 0, 0))])
def test_without_a_row_a_failed_statement_makes_it_uncertain(
    client: Client, sqlite_engine: Engine, fails: bool, end: tuple[int, int, int]
) -> None:
    client.bind(sqlite_engine)

    @tcc("bare", client=client, fence=None)
    def bare(conn: Connection) -> None:
        move(conn, -1, 1, 0)
        if fails:
            with pytest.raises(DBAPIError):
                move(conn, -100, 0, 0)

    @bare.confirm
    def _confirm(conn: Connection) -> None:
        move(conn, 0, -1, 1)

    @bare.cancel
    def _cancel(conn: Connection) -> None:
        move(conn, 1, -1, 0)

    def order() -> None:
        with client.global_transaction(name="order"):
            bare()

    if fails:
        with pytest.raises(RolledBackError, match="BRANCH_UNKNOWN"):
            order()
    else:
        order()
    wait_until(lambda: stock(sqlite_engine) == end, what="the second phase")


def test_a_caller_that_does_not_say_the_deadline(connected: Callable[..., Client], sqlite_engine: Engine) -> None:
    order, stocks = connected(), connected()
    stocks.bind(sqlite_engine)
    reserve = reserve_on(stocks)
    transaction = order.new_transaction("order", 1.5, "", 0)
    begun = time.monotonic()
    with Session(sqlite_engine) as session:
        with joined({"txcoord-xid": transaction.xid()}, client=stocks) as taken_part:
            reserve(session, quantity=3)
            assert 0 < int(current_headers()["txcoord-timeout-ms"]) <= 1500
        assert taken_part is not None
        assert taken_part.deadline <= begun + 1.5 + 0.2, "the deadline that the coordinator told"
        wait_until(lambda: time.monotonic() > taken_part.deadline, what="the deadline")
        with pytest.raises((DBAPIError, DeadlinePassedError)):
            session.commit()
    assert stock(sqlite_engine) == (10, 0, 0)


# ---------------------------------------------------------------- the thread that ends SQLite's


def sqlite_state(path: Path) -> tuple[sqlite3.Connection, LocalState]:
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER)")
    connection.execute("INSERT INTO t VALUES (1)")
    return connection, LocalState(connection, dialect_of("sqlite"))


def test_the_reaper_ends_what_is_open_in_order_and_nothing_else(tmp_path: Path) -> None:
    reaper = Reaper()
    first, late = sqlite_state(tmp_path / "a.db")
    second, early = sqlite_state(tmp_path / "b.db")
    third, ended = sqlite_state(tmp_path / "c.db")
    ended.closed()  # its connection has gone on to somebody else
    reaper.watch(late, in_seconds(0.5))
    reaper.watch(early, in_seconds(0.2))
    reaper.watch(ended, in_seconds(0.1))
    time.sleep(0.35)
    assert (first.in_transaction, second.in_transaction, third.in_transaction) == (True, False, True)
    time.sleep(0.4)
    assert (first.in_transaction, third.in_transaction) == (False, True)
    assert not any(thread.name == "txcoord-deadlines" and thread.is_alive() for thread in mine(reaper))
    with pytest.raises(DeadlinePassedError):
        late.check_alive()
    ended.check_alive()
    for connection in (first, second, third):
        connection.close()


def mine(reaper: Reaper) -> list[threading.Thread]:
    return [] if not reaper._runs else threading.enumerate()


def test_what_is_forgotten_is_not_kept_until_its_deadline(tmp_path: Path) -> None:
    reaper = Reaper()
    connection, state = sqlite_state(tmp_path / "a.db")
    reaper.watch(state, in_seconds(1000))
    del state
    other, second = sqlite_state(tmp_path / "b.db")
    reaper.watch(second, in_seconds(0.1))
    time.sleep(0.3)
    assert reaper._due == []
    assert connection.in_transaction
    connection.close()
    other.close()


def test_a_statement_that_runs_is_interrupted_and_ends_first(tmp_path: Path) -> None:
    """Two threads must not work on one connection."""
    reaper = Reaper()
    connection, state = sqlite_state(tmp_path / "a.db")
    state.check("INSERT")
    reaper.watch(state, in_seconds(0.1))
    time.sleep(0.3)
    assert connection.in_transaction, "it is running"
    state.busy = False
    time.sleep(0.3)
    assert not connection.in_transaction
    connection.close()


def test_who_ends_one_at_its_deadline_does_not_wait_and_nobody_gets_the_connection(tmp_path: Path) -> None:
    """The statement that waits for a lock cannot be interrupted before it has it; an event loop must not wait for that."""
    engine = create_engine(f"sqlite:///{tmp_path}/a.db")
    watch(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
    with engine.connect() as connection:
        limit(connection, in_seconds(100))
        connection.execute(text("INSERT INTO t VALUES (1)"))
        raw = connection.connection.dbapi_connection
        assert isinstance(connection.dialect, WatchedDialect)
        with connection.dialect._txcoord_open[id(raw)].lock:  # as the thread holds it meanwhile
            started = time.monotonic()
            connection.rollback()
            assert time.monotonic() - started < 1
    with engine.connect() as connection:
        assert connection.connection.dbapi_connection is not raw
    engine.dispose()


def test_without_a_limit_nothing_is_refused() -> None:
    state = LocalState(object(), dialect_of("sqlite"))
    assert state.deadline == math.inf
    state.check("SELECT 1")
    assert DRIVERS
