"""Schedules in which a local transaction could commit what is not undone, or lose what it has done, without a word."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session
from txcoord_proto.errors import ConfigurationError, TxcoordError, UnsupportedSqlError
from txcoord_rm import enroll
from txcoord_sdk import Client, tcc
from txcoord_sdk.local_transaction import open_state
from txcoord_sdk.testing import wait_until

from tests.integration.at.test_locks import Holder, pay, waits
from tests.integration.at.test_sessions import START, add, all_of
from tests.integration.at.world import Undo, World


def test_an_insert_after_a_locking_read_of_its_key_is_undone(accounts: World) -> None:
    if accounts.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no locking clause")

    def work(session: Session) -> None:
        assert session.execute(text("SELECT id FROM account WHERE id = 10 FOR UPDATE")).all() == []
        session.execute(text("INSERT INTO account VALUES (10, 'joe', 7)"))

    accounts.globally(work, undo=True)
    assert all_of(accounts) == START


def test_a_locking_clause_is_refused_where_there_is_none(accounts: World) -> None:
    if accounts.engine.dialect.name != "sqlite":
        pytest.skip("there they are captured")
    with pytest.raises(UnsupportedSqlError, match="with_for_update"):
        accounts.globally(lambda session: session.execute(text("SELECT id FROM account WHERE id = 10 FOR UPDATE")).all())


def test_a_local_transaction_that_the_database_has_given_up_is_not_reported_done(accounts: World) -> None:
    def work(session: Session) -> None:
        connection = session.connection()
        connection.execute(text("UPDATE account SET balance = balance - 10 WHERE id = 1"))
        with contextlib.suppress(DBAPIError):
            connection.execute(text("SELECT nonsense FROM account"))

    given_up = accounts.engine.dialect.name == "postgresql"
    with pytest.raises(DBAPIError, match="aborted") if given_up else contextlib.nullcontext():
        accounts.globally(work)
    assert all_of(accounts)[0] == (1, "ann", 100 if given_up else 90)


def test_many_calls_of_a_function_that_writes_are_refused(bank: World) -> None:
    if bank.engine.dialect.name != "postgresql":
        pytest.skip("functions that write are PostgreSQL's here")
    bank.script(
        "CREATE FUNCTION pay(integer, integer) RETURNS void LANGUAGE sql AS "
        "'UPDATE account SET balance = balance + $2 WHERE id = $1'"
    )

    def work(session: Session) -> None:
        session.connection().exec_driver_sql("SELECT pay(%s, %s)", [(1, 5), (2, 5)])

    with pytest.raises(UnsupportedSqlError, match="pay"):
        bank.globally(work)
    assert all_of(bank) == START


def _all_or_nothing_behind_a_holder(bank: World, pool: ThreadPoolExecutor, work: Callable[[Session], None]) -> None:
    """What `work` does to account 1, which another transaction holds, and to account 2 stays together."""
    holder = Holder(bank, pool, pay(1, 10))
    second = pool.submit(bank.globally, work)
    with contextlib.suppress(AssertionError):
        waits(bank, second)
    holder.end()
    try:
        second.result(20)
    except TxcoordError:
        assert all_of(bank) == [(1, "ann", 110), (2, "bob", 100), (3, "cid", 100)]
    else:
        assert all_of(bank) == [(1, "ann", 111), (2, "bea", 100), (3, "cid", 100)]


def test_a_redone_first_statement_keeps_what_was_written_below(bank: World, pool: ThreadPoolExecutor) -> None:
    def work(session: Session) -> None:
        raw: Any = session.connection().connection
        cursor = raw.cursor()
        cursor.execute("UPDATE account SET owner = 'bea' WHERE id = 2")
        cursor.close()
        session.execute(text("UPDATE account SET balance = balance + 1 WHERE id + 0 = 1"))

    _all_or_nothing_behind_a_holder(bank, pool, work)


def test_a_redone_first_statement_keeps_the_try_before_it(bank: World, pool: ThreadPoolExecutor) -> None:
    @tcc("rename", client=bank.client)
    def rename(session: Session) -> None:
        session.execute(text("UPDATE account SET owner = 'bea' WHERE id = 2"))

    @rename.confirm
    def _confirm(session: Session) -> None:
        """Nothing to do."""

    @rename.cancel
    def _cancel(session: Session) -> None:
        session.execute(text("UPDATE account SET owner = 'bob' WHERE id = 2"))

    def work(session: Session) -> None:
        rename(session)
        session.execute(text("UPDATE account SET balance = balance + 1 WHERE id + 0 = 1"))

    bank.resource.lock_wait = 0.5
    _all_or_nothing_behind_a_holder(bank, pool, work)


def test_a_commit_of_one_statement_that_is_refused_leaves_nothing_open(bank: World) -> None:
    if bank.engine.dialect.name != "sqlite":
        pytest.skip("a failed COMMIT leaves the transaction open on SQLite only")
    engine = bank.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, contextlib.ExitStack() as within:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
        within.enter_context(bank.client.global_transaction(name="auto"))
        with bank.outside.connect() as reader:
            rows = reader.exec_driver_sql("SELECT id FROM account")
            assert rows.fetchone() is not None
            with pytest.raises(OperationalError, match="locked"):
                add(7)(Session(connection))
            rows.close()
        connection.commit()
        assert all_of(bank) == START
        connection.execute(text("UPDATE account SET balance = 1 WHERE id = 1"))
    assert all_of(bank)[0] == (1, "ann", 1)


def test_no_deadline_ends_a_local_transaction_in_the_middle_of_its_first_statement(bank: World) -> None:
    if bank.engine.dialect.name != "sqlite":
        pytest.skip("elsewhere the database ends it")
    seen: list[tuple[str, bool]] = []

    def note(sql: str) -> None:
        state = open_state(connection)
        seen.append((sql, state is not None and state.busy))

    with bank.client.global_transaction(timeout=20), Session(bank.engine) as session:
        connection = session.connection()
        raw: Any = connection.connection.dbapi_connection
        raw.set_trace_callback(note)
        session.execute(text("UPDATE account SET balance = 1 WHERE id = 1"))
        raw.set_trace_callback(None)
        state = open_state(connection)
        assert state is not None
        assert not state.busy, "the thread that ends it at its deadline may do so between statements"
        session.commit()
    began = [sql for sql, _ in seen].index("BEGIN IMMEDIATE")
    assert len(seen) > began + 5
    assert [sql for sql, busy in seen[began:] if not busy] == [], "after a rollback here the rest would commit by itself"


def test_limits_of_one_statement_end_with_it(bank: World) -> None:
    if bank.engine.dialect.name not in ("mysql", "mariadb"):
        pytest.skip("limits are the session's on MariaDB")
    limits = "SELECT @@SESSION.wait_timeout, @@SESSION.innodb_lock_wait_timeout"
    engine = bank.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        before = connection.exec_driver_sql(limits).one()
        with bank.client.global_transaction(name="auto", timeout=20):
            add(7)(Session(connection))
        assert connection.exec_driver_sql(limits).one() == before


def test_limits_end_with_a_local_transaction_of_which_a_part_was_rolled_back(bank: World) -> None:
    if bank.engine.dialect.name not in ("mysql", "mariadb"):
        pytest.skip("limits are the session's on MariaDB")
    limits = "SELECT @@SESSION.wait_timeout, @@SESSION.innodb_lock_wait_timeout"
    with bank.engine.connect() as connection:
        before = connection.exec_driver_sql(limits).one()
        connection.commit()
        with bank.client.global_transaction(name="part", timeout=20):
            connection.execute(text("UPDATE account SET balance = 1 WHERE id = 1"))
            connection.begin_nested().rollback()
            connection.commit()
        assert connection.exec_driver_sql(limits).one() == before


def test_a_driver_that_commits_each_statement_is_refused(bank: World, connected: Callable[..., Client]) -> None:
    if bank.engine.dialect.name == "sqlite":
        pytest.skip("there a statement begins what it needs")
    engine, client = create_engine(bank.url, connect_args={"autocommit": True}), connected()
    enroll(engine, client)

    def run() -> None:
        with client.global_transaction(name="auto"), engine.begin() as connection:
            connection.execute(text("UPDATE account SET balance = 1 WHERE id = 1"))

    with pytest.raises(ConfigurationError, match="commits each statement"):
        run()
    assert all_of(bank) == START
    engine.dispose()


@pytest.mark.parametrize("local_writes", ["check", "refuse"])
def test_second_phases_are_no_local_writes(bank: World, connected: Callable[..., Client], local_writes: str) -> None:
    bank.client.close()
    engine, client = create_engine(bank.url), connected()
    enroll(engine, client, local_writes=local_writes)
    client.start()

    def run(fail: bool) -> None:
        with client.global_transaction(name="strict") as bank.last, Session(engine) as session:
            add(7)(session)
            session.commit()
            if fail:
                raise Undo

    with pytest.raises(Undo):
        run(fail=True)
    assert all_of(bank) == START
    run(fail=False)
    wait_until(lambda: all(state != "IMAGE" for _, _, state in bank.undo_rows()), what="the second phase of the commit")
    engine.dispose()


def test_sqlalchemys_own_way_to_begin_on_sqlite(bank: World) -> None:
    if bank.engine.dialect.name != "sqlite":
        pytest.skip("other drivers begin by themselves")
    bank.engine.dispose()
    event.listen(bank.engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
    event.listen(bank.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    bank.globally(add(1), undo=True)
    assert all_of(bank) == START
    bank.globally(add(1))
    assert all_of(bank)[0] == (1, "ann", 101)
