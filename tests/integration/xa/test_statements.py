"""Which statements run in XA mode, and what becomes of local transactions that are none to be prepared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from txcoord_proto.errors import ConfigurationError, TransactionEndedError, UnsupportedSqlError
from txcoord_rm import enroll, isolation, mode
from txcoord_sdk import Client

from tests.integration.at.world import Undo, World
from tests.integration.xa.book import balances, fences, pay, prepared


def read(session: Session) -> int:
    return int(session.execute(text("SELECT sum(balance) FROM account WHERE id IN (1, 2)")).scalar_one())


def test_what_has_only_read_is_no_branch(world: World) -> None:
    assert world.globally(read, read) == [200, 200]
    assert world.statuses() == []
    assert fences(world) == []
    assert world.globally(read, pay(1, 5), read) == [200, None, 200]
    assert world.statuses() == ["SETTLED"]
    assert balances(world) == [105, 100, 100]


def test_what_locks_rows_holds_them_until_the_end(sync_world: World) -> None:
    held: list[bool] = []

    def lock(session: Session) -> None:
        session.execute(text("SELECT * FROM account WHERE id = 1 FOR UPDATE"))

    def look(_: Session) -> None:
        with sync_world.outside.connect() as connection:
            rows = connection.exec_driver_sql("SELECT * FROM account WHERE id = 1 FOR UPDATE SKIP LOCKED").all()
            held.append(rows == [])

    sync_world.globally(lock, look)
    assert held == [True]
    assert sync_world.statuses() == ["SETTLED"]
    sync_world.globally(look)
    assert held == [True, False]


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT", "ROLLBACK", "START TRANSACTION", "BEGIN", "XA END 'x'", "commit /* now */ ;",
        "UPDATE account SET balance = 0; COMMIT", "PREPARE TRANSACTION 'mine'", "COMMIT PREPARED 'mine'", "END",
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_what_ends_the_local_transaction_is_refused(sync_world: World, statement: str, first: bool) -> None:
    def work(session: Session) -> None:
        if not first:
            pay(1, 10)(session)
        session.execute(text(statement))

    with pytest.raises((UnsupportedSqlError, ConfigurationError), match=r"local transaction|several statements"):
        sync_world.globally(work)
    assert balances(sync_world) == [100, 100, 100]
    assert prepared(sync_world) == []


def test_ddl_that_commits_is_refused_and_other_ddl_is_undone(sync_world: World) -> None:
    def create(session: Session) -> None:
        session.execute(text("CREATE TABLE other (id integer)"))

    if sync_world.outside.dialect.name == "postgresql":
        sync_world.globally(create, undo=True)
        with pytest.raises(Exception, match="other"):
            sync_world.rows("SELECT * FROM other")
        sync_world.globally(create)
        assert sync_world.rows("SELECT * FROM other") == []
    else:
        with pytest.raises(UnsupportedSqlError, match="commits before it"):
            sync_world.globally(create)


def test_savepoints(world: World) -> None:
    def work(session: Session) -> None:
        pay(1, 10)(session)
        inner = session.begin_nested()
        pay(2, 50)(session)
        inner.rollback()
        with session.begin_nested():
            pay(3, 7)(session)

    world.globally(work)
    assert balances(world) == [110, 100, 107]
    assert world.statuses() == ["SETTLED"]
    assert fences(world) == ["TRIED"]


def test_all_that_was_written_is_rolled_back_to_a_savepoint(world: World) -> None:
    def work(session: Session) -> None:
        inner = session.begin_nested()
        pay(2, 50)(session)
        inner.rollback()
        read(session)

    world.globally(work, pay(1, 1))
    assert balances(world) == [101, 100, 100]
    assert prepared(world) == []


def test_written_again_after_a_savepoint_was_rolled_back(world: World) -> None:
    def work(session: Session) -> None:
        read(session)
        inner = session.begin_nested()
        pay(2, 50)(session)
        inner.rollback()
        pay(1, 1)(session)

    world.globally(work)
    assert balances(world) == [101, 100, 100]
    assert prepared(world) == []


def test_executemany_and_returned_rows(world: World) -> None:
    def work(session: Session) -> list[Any]:
        rows = [{"id": n, "owner": f"new{n}", "balance": n} for n in range(10, 20)]
        session.execute(text("INSERT INTO account VALUES (:id, :owner, :balance)"), rows)
        changed: Any = session.execute(text("UPDATE account SET balance = balance + 1 WHERE id >= 10"))
        assert changed.rowcount == 10
        return list(session.execute(text("SELECT count(*) FROM account")).scalars())

    assert world.globally(work) == [[13]]
    assert len(balances(world)) == 13


def test_it_joins_what_has_only_read(sync_world: World) -> None:
    with Session(sync_world.engine) as session:
        assert read(session) == 200
        with sync_world.client.global_transaction():
            assert read(session) == 200
            pay(1, 10)(session)
            session.commit()
            assert balances(sync_world) == [100, 100, 100]
    assert balances(sync_world) == [110, 100, 100]


def test_what_has_written_before_is_refused(sync_world: World) -> None:
    with Session(sync_world.engine) as session:
        pay(1, 10)(session)
        with sync_world.client.global_transaction(), pytest.raises(ConfigurationError, match="has written before"):
            pay(2, 10)(session)
    assert balances(sync_world) == [100, 100, 100]


def test_what_has_only_read_goes_on_without_the_global_transaction(sync_world: World) -> None:
    with Session(sync_world.engine) as session:
        with sync_world.client.global_transaction():
            assert read(session) == 200
        pay(1, 10)(session)
        session.commit()
    assert balances(sync_world) == [110, 100, 100]
    assert fences(sync_world) == []


def test_what_has_written_belongs_to_its_global_transaction(sync_world: World) -> None:
    with Session(sync_world.engine) as session:
        try:
            with sync_world.client.global_transaction():
                pay(1, 10)(session)
                raise Undo
        except Undo:
            pass
        with sync_world.client.global_transaction(), pytest.raises(TransactionEndedError, match="belongs to"):
            pay(2, 10)(session)
    assert balances(sync_world) == [100, 100, 100]


def test_autocommit_cannot_write(sync_world: World) -> None:
    with sync_world.client.global_transaction(), sync_world.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        assert connection.execute(text("SELECT count(*) FROM account")).scalar_one() == 3
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            connection.execute(text("UPDATE account SET balance = 0"))
    assert balances(sync_world) == [100, 100, 100]


def test_twophase_of_the_session_is_refused(sync_world: World) -> None:
    with sync_world.client.global_transaction(), Session(sync_world.engine, twophase=True) as session:
        with pytest.raises(ConfigurationError, match="twophase"):
            pay(1, 10)(session)
        session.rollback()
    assert balances(sync_world) == [100, 100, 100]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE TEMPORARY TABLE mine (id integer)", "temporary"),
        ("LISTEN mine", "LISTEN"),
        ("DECLARE mine CURSOR WITH HOLD FOR SELECT 1", "WITH HOLD"),
        ("SELECT pg_export_snapshot()", "snapshots"),
    ],
)
def test_what_postgresql_does_not_prepare_is_rolled_back(sync_world: World, statement: str, reason: str) -> None:
    if sync_world.outside.dialect.name != "postgresql":
        pytest.skip("it is PostgreSQL that refuses these")

    def work(session: Session) -> None:
        pay(1, 10)(session)
        session.execute(text(statement))

    with pytest.raises(UnsupportedSqlError, match="cannot prepare") as caught:
        sync_world.globally(work)
    assert reason in str(caught.value)
    assert balances(sync_world) == [100, 100, 100]
    assert prepared(sync_world) == []
    sync_world.globally(pay(1, 1))
    assert balances(sync_world) == [101, 100, 100]


def test_sqlite_is_refused(connected: Callable[..., Client], tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match="SQLite commits in one step"):
        enroll(create_engine(f"sqlite:///{tmp_path}/x.db"), connected(), mode="xa")


def test_a_mode_that_is_none_is_refused(connected: Callable[..., Client], fresh_postgres_url: Any) -> None:
    engine = create_engine(fresh_postgres_url("psycopg"))
    with pytest.raises(ConfigurationError, match="'saga'"):
        enroll(engine, connected(), mode="saga")
    with pytest.raises(ConfigurationError, match="'tcc'"):
        mode("tcc")
    client = connected()
    enroll(engine, client, mode="xa")
    enroll(engine, client, mode="xa")
    with pytest.raises(ConfigurationError, match="enrolled in mode 'xa' already"):
        enroll(engine, client)


def test_read_committed_is_refused_without_global_locks(world: World) -> None:
    def work(session: Session) -> None:
        with isolation("read_committed"):
            session.execute(text("SELECT * FROM account"))

    with pytest.raises(ConfigurationError, match="mode='xa'"):
        world.globally(work)
