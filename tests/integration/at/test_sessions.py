"""How local transactions of every shape take part: savepoints, autocommit, streams, several engines, sessions begun earlier."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, bindparam, create_engine, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from txcoord_proto.errors import ConfigurationError, LocalTransactionOpenError, TransactionEndedError, UnsupportedSqlError
from txcoord_rm import enroll
from txcoord_sdk import Client, connect
from txcoord_sdk.testing import wait_until

from tests.integration.at.world import FILL, Undo, World

ACCOUNT = Table(
    "account", MetaData(), Column("id", Integer, primary_key=True), Column("owner", String(20)), Column("balance", Integer)
)
START = [(1, "ann", 100), (2, "bob", 100), (3, "cid", 100)]


def add(amount: int, where: str = "id = 1") -> Callable[[Session], Any]:
    def work(session: Session) -> int:
        done: Any = session.execute(text(f"UPDATE account SET balance = balance + :amount WHERE {where}"), {"amount": amount})
        return int(done.rowcount)

    return work


def all_of(world: World) -> list[tuple[Any, ...]]:
    return world.rows("SELECT id, owner, balance FROM account ORDER BY id")


# ---------------------------------------------------------------- savepoints


@pytest.mark.parametrize("world", ["postgres18+psycopg", "postgres18+asyncpg", "postgres+psycopg"], indirect=True)
def test_settings_that_would_falsify_images_are_found_again_after_a_savepoint(accounts: World) -> None:
    def work(session: Session) -> None:
        cursor = session.connection().connection.cursor()
        cursor.execute("SET LOCAL DateStyle = 'SQL, DMY'")  # below us: nothing sees it
        session.execute(text("SAVEPOINT here"))
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="DateStyle"):
                session.execute(text("UPDATE account SET balance = 1 WHERE id = 1"))
            session.execute(text("ROLLBACK TO SAVEPOINT here"))

    accounts.globally(work)
    assert accounts.rows("SELECT balance FROM account WHERE id = 1") == [(100,)]


def test_a_savepoint_that_is_rolled_back_leaves_nothing_to_undo(accounts: World) -> None:
    def work(session: Session) -> None:
        first = session.begin_nested()
        add(1)(session)
        first.rollback()
        add(10, "id = 2")(session)
        outer = session.begin_nested()
        add(100, "id = 2")(session)
        inner = session.begin_nested()
        add(1000, "id = 2")(session)
        inner.rollback()
        outer.commit()

    accounts.globally(work)
    assert [balance for _, _, balance in all_of(accounts)] == [100, 210, 100]
    accounts.globally(work, undo=True)
    assert [balance for _, _, balance in all_of(accounts)] == [100, 210, 100]


def test_savepoints_between_statements_whose_rows_are_not_known_before(accounts: World) -> None:
    """Such a statement leaves a savepoint of ours open: it must not get in the way of the application's."""

    def work(session: Session) -> None:
        add(1, "owner = 'ann'")(session)
        add(2, "owner = 'bob'")(session)
        outer = session.begin_nested()
        add(4, "owner = 'ann'")(session)
        inner = session.begin_nested()
        add(8, "owner = 'ann'")(session)
        add(16, "owner = 'bob'")(session)
        inner.rollback()
        add(32, "owner = 'cid'")(session)
        outer.commit()
        add(64, "owner = 'cid'")(session)
        session.execute(text("SAVEPOINT a"))
        add(128, "owner = 'bob'")(session)
        session.execute(text("ROLLBACK TO SAVEPOINT a"))
        session.execute(text("RELEASE SAVEPOINT a"))
        add(256, "owner = 'bob'")(session)

    accounts.globally(work, undo=True)
    assert all_of(accounts) == START
    accounts.globally(work)
    assert [balance for _, _, balance in all_of(accounts)] == [105, 358, 196]


def test_a_savepoint_may_come_first(accounts: World) -> None:
    def work(session: Session) -> None:
        with session.begin_nested():
            add(10)(session)
        session.rollback()

    accounts.globally(work)
    assert all_of(accounts) == START
    assert accounts.undo_rows() == []


def test_savepoints_in_text(accounts: World) -> None:
    def work(session: Session) -> None:
        add(10)(session)
        session.execute(text("SAVEPOINT a"))
        add(1)(session)
        session.execute(text("ROLLBACK TO SAVEPOINT a"))
        add(5)(session)
        session.execute(text("RELEASE SAVEPOINT a"))

    accounts.globally(work, undo=True)
    assert all_of(accounts) == START
    accounts.globally(work)
    assert all_of(accounts)[0] == (1, "ann", 115)


# ---------------------------------------------------------------- what runs


def test_what_touches_no_row_needs_no_branch(accounts: World) -> None:
    assert accounts.globally(add(1, "balance > 1000")) == [0]
    assert accounts.statuses() == []


def test_a_statement_with_many_rows_of_parameters(accounts: World) -> None:
    table = ACCOUNT

    def work(session: Session) -> None:
        connection = session.connection()
        connection.execute(insert(table), [{"id": n, "owner": f"o{n}", "balance": n} for n in range(10, 30)])
        changes = [{"of": n, "by": n} for n in range(1, 20)]
        done = connection.execute(
            update(table).where(table.c.id == bindparam("of")).values(balance=table.c.balance + bindparam("by")), changes
        )
        assert done.rowcount in (13, -1)
        connection.execute(table.delete().where(table.c.id == bindparam("of")), [{"of": n} for n in (2, 11)])

    accounts.globally(work)
    after = all_of(accounts)
    assert [row[0] for row in after] == [1, 3, 10, *range(12, 30)]
    assert after[2] == (10, "o10", 20)
    accounts.script("DELETE FROM account", FILL)
    accounts.globally(work, undo=True)
    assert all_of(accounts) == START


def test_reads_may_stream(accounts: World) -> None:
    def work(session: Session) -> int:
        add(1)(session)
        streaming = {"stream_results": True, "yield_per": 2}
        rows = session.execute(text("SELECT id FROM account ORDER BY id"), execution_options=streaming)
        seen = [row[0] for row in rows]
        add(1)(session)
        return sum(seen)

    assert accounts.globally(work, undo=True) == [6]
    assert all_of(accounts) == START


@pytest.mark.parametrize("sql", ["COMMIT", "DROP TABLE account", "DELETE FROM account; SELECT 1", "TRUNCATE account"])
def test_what_cannot_be_undone_is_refused_and_changes_nothing(accounts: World, sql: str) -> None:
    def work(session: Session) -> None:
        add(1)(session)
        session.connection().exec_driver_sql(sql)

    with pytest.raises((UnsupportedSqlError, ConfigurationError)) as caught:
        accounts.globally(work)
    assert sql.split(maxsplit=1)[0] in str(caught.value)
    assert all_of(accounts) == START


def test_a_connection_that_commits_each_statement(bank: World) -> None:
    engine = bank.engine.execution_options(isolation_level="AUTOCOMMIT")

    def run(fail: bool) -> None:
        with bank.client.global_transaction(name="auto"), engine.connect() as connection:
            connection.execute(text("UPDATE account SET balance = 1 WHERE id = 1"))
            connection.execute(text("DELETE FROM account WHERE owner = 'bob'"))
            assert bank.rows("SELECT count(*) FROM account") == [(2,)], "committed at once"
            if fail:
                raise Undo

    with pytest.raises(Undo):
        run(fail=True)
    assert all_of(bank) == START
    run(fail=False)
    assert all_of(bank) == [(1, "ann", 1), (3, "cid", 100)]


# ---------------------------------------------------------------- joining


def test_a_local_transaction_that_has_only_read_joins(bank: World) -> None:
    with Session(bank.engine) as session:
        assert session.scalar(text("SELECT count(*) FROM account")) == 3
        with contextlib.suppress(Undo), bank.client.global_transaction(name="late"):
            add(7)(session)
            session.commit()
            raise Undo
    assert all_of(bank) == START


def test_one_that_has_written_is_refused_by_name(bank: World) -> None:
    with Session(bank.engine) as session:
        add(7)(session)
        with pytest.raises(ConfigurationError, match="UPDATE account SET balance"), bank.client.global_transaction(name="late"):
            add(7)(session)
        session.commit()
        with bank.client.global_transaction(name="then"):
            add(1)(session)
            session.commit()
    assert all_of(bank)[0] == (1, "ann", 108)


def test_a_local_transaction_belongs_to_one_global_one(bank: World) -> None:
    with Session(bank.engine) as session:
        with pytest.raises(LocalTransactionOpenError), bank.client.global_transaction(name="one"):
            add(7)(session)
        with pytest.raises(TransactionEndedError):
            add(7)(session)
        with bank.client.global_transaction(name="two"):
            with pytest.raises(TransactionEndedError):
                add(7)(session)
            session.rollback()
            add(1)(session)
            session.commit()
    assert all_of(bank)[0] == (1, "ann", 101)


def test_two_engines_are_two_branches(bank: World) -> None:
    other = create_engine(bank.url)
    enroll(other, bank.client, name="second")
    with contextlib.suppress(Undo), bank.client.global_transaction(name="both") as bank.last:
        for engine, where in ((bank.engine, "id = 1"), (other, "id = 2")):
            with Session(engine) as session:
                add(7, where)(session)
                session.commit()
        raise Undo
    assert all_of(bank) == START
    assert bank.statuses() == ["SETTLED", "SETTLED"]
    other.dispose()


def test_outside_a_global_transaction_nothing_is_different(accounts: World) -> None:
    def work(session: Session) -> Any:
        result: Any = session.execute(select(text("1")))
        return result.context.cursor

    outside, (inside,) = accounts.locally(work), accounts.globally(work)
    assert type(outside).__module__.partition(".")[0] != "txcoord_rm"
    assert type(inside).__module__.partition(".")[0] == "txcoord_rm"


# ---------------------------------------------------------------- failures


def test_a_commit_that_the_database_refuses(bank: World) -> None:
    if bank.engine.dialect.name != "postgresql":
        pytest.skip("only PostgreSQL checks at COMMIT and ends the transaction with it")
    bank.script(
        "CREATE TABLE parent (id integer PRIMARY KEY)",
        "CREATE TABLE child (id integer PRIMARY KEY, parent integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
    )

    def work(session: Session) -> None:
        add(1)(session)
        session.execute(text("INSERT INTO child VALUES (1, 99)"))

    with pytest.raises(IntegrityError):
        bank.globally(work)
    assert all_of(bank) == START
    assert bank.undo_rows() == []


def test_a_foreign_write_parks_the_rollback_and_is_not_lost(accounts: World) -> None:
    with_dirt = _dirty(accounts, "UPDATE account SET balance = 5 WHERE id = 1")
    accounts.globally(add(1), with_dirt, undo=True)
    wait_until(lambda: accounts.status() == "PARKED", what="the parked rollback")
    assert all_of(accounts)[0] == (1, "ann", 5)
    assert "balance" in accounts.explanation()


def test_a_foreign_write_of_another_column_is_kept(accounts: World) -> None:
    accounts.globally(add(1), _dirty(accounts, "UPDATE account SET owner = 'eve' WHERE id = 1"), undo=True)
    wait_until(lambda: accounts.status() == "ROLLED_BACK", what="the rollback")
    assert all_of(accounts)[0] == (1, "eve", 100)


def _dirty(world: World, sql: str) -> Callable[[Session], None]:
    """What somebody does meanwhile who knows nothing of global transactions."""

    def work(_: Session) -> None:
        world.script(sql)

    return work


def test_without_a_coordinator_nothing_is_written(bank: World) -> None:
    lost = connect("127.0.0.1:1", service="lonely", failover_wait=0.5)
    engine: Engine = create_engine(bank.url)
    enroll(engine, lost)
    began = time.monotonic()

    def work() -> None:
        with lost.global_transaction(name="lonely"), Session(engine) as session:
            add(1)(session)
            session.commit()

    with pytest.raises(Exception) as caught:  # noqa: PT011 - its code is looked at
        work()
    assert getattr(caught.value, "retryable", False), repr(caught.value)
    assert time.monotonic() - began < 20
    assert all_of(bank) == START
    lost.close()
    engine.dispose()


def test_enrolling_again_and_with_another_client(bank: World, connected: Callable[..., Client]) -> None:
    enroll(bank.engine, bank.client)
    with pytest.raises(ConfigurationError, match="another client"):
        enroll(bank.engine, connected())


def test_a_database_in_memory_is_refused(connected: Callable[..., Client]) -> None:
    with pytest.raises(ConfigurationError, match="in memory"):
        enroll(create_engine("sqlite://"), connected())
