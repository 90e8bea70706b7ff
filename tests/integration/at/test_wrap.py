"""Connections of psycopg without SQLAlchemy take part as the engine's do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row, namedtuple_row
from sqlalchemy import create_engine
from txcoord_proto.errors import ConfigurationError, LockConflictError, LockTimeoutError, RolledBackError, UnsupportedSqlError
from txcoord_rm import enroll, isolation, wrap
from txcoord_sdk import Client
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.at.world import ACCOUNTS, Undo, World
from tests.integration.at.wrapped import START, accounts, target, within, world_of
from tests.servers.fixtures import FreshUrl


@pytest.fixture(params=["postgres18", "postgres"])
def world(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[World]:
    yield from world_of(request, connected, coordinator, request.param, "psycopg")


@pytest.fixture(params=["postgres18", "postgres"])
def aworld(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[World]:
    yield from world_of(request, connected, coordinator, request.param, "psycopg_async")


def connect(world: World, **options: Any) -> Any:
    return wrap(psycopg.connect(target(world), **options), world.engine)


async def aconnect(world: World) -> Any:
    assert world.aengine is not None
    return wrap(await psycopg.AsyncConnection.connect(target(world)), world.aengine)


def undone(world: World, work: Callable[[], None]) -> None:
    """Do it in a global transaction that is rolled back."""
    with contextlib.suppress(Undo), world.client.global_transaction(name="test") as world.last:
        work()
        raise Undo


def test_a_rollback_puts_every_row_back(world: World) -> None:
    def work() -> None:
        with conn.cursor() as cur:
            cur.execute("UPDATE account SET balance = balance - %s WHERE id = %s", (10, 1))
            assert (cur.rowcount, cur.description) == (1, None)
            cur.execute("DELETE FROM account WHERE id = %(id)s", {"id": 2})
            cur.executemany("INSERT INTO account VALUES (%s, %s, %s)", [(4, "dan", 1), (5, "eve", 2)])
        conn.commit()
        assert accounts(world) == [(1, "ann", 90), (3, "cid", 100), (4, "dan", 1), (5, "eve", 2)]

    with connect(world) as conn:
        undone(world, work)
    assert accounts(world) == START
    assert world.status() == "ROLLED_BACK"


def test_a_commit_keeps_them(world: World) -> None:
    with connect(world) as conn, world.client.global_transaction(name="test") as world.last:
        conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
        conn.commit()
    assert accounts(world)[0] == (1, "ann", 1)
    assert world.statuses()
    wait_until(lambda: world.undo_rows() == [], what="the undo records are gone")


def test_it_is_one_world_with_the_engine(world: World) -> None:
    def work() -> None:
        with world.engine.begin() as other:
            other.exec_driver_sql("UPDATE account SET balance = 1 WHERE id = 1")
        with conn.transaction():
            conn.execute("UPDATE account SET balance = balance + 5 WHERE id = 1")

    with connect(world) as conn:
        undone(world, work)
    assert accounts(world) == START


def test_another_database_is_refused(world: World, fresh_postgres_url: FreshUrl) -> None:
    with psycopg.connect(fresh_postgres_url()) as elsewhere:
        elsewhere.execute(ACCOUNTS)
        elsewhere.commit()
        conn = wrap(elsewhere, world.engine)
        with (
            world.client.global_transaction(name="test"),
            pytest.raises(ConfigurationError, match="not connected to the database"),
        ):
            conn.execute("INSERT INTO account VALUES (1, 'ann', 1)")
        assert conn.execute("SELECT count(*) FROM account").fetchone() == (0,)


def test_global_reads_are_global_reads(world: World) -> None:
    with connect(world) as conn:
        with world.client.global_transaction(name="test"), isolation("read_committed"):
            assert conn.execute("SELECT balance FROM account WHERE id = 1").fetchall() == [(100,)]
            with psycopg.connect(target(world)) as other, pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("SELECT FROM account WHERE id = 1 FOR UPDATE NOWAIT")
            conn.rollback()
        with world.client.global_transaction(name="test"), isolation("read_committed"):
            with pytest.raises(UnsupportedSqlError, match="aggregates"):
                conn.execute("SELECT sum(balance) FROM account")
            conn.rollback()
        assert conn.execute("SELECT sum(balance) FROM account").fetchone() == (300,)


def test_rows_have_the_form_that_was_asked_for(world: World) -> None:
    update = "UPDATE account SET balance = balance + 1 RETURNING id, balance AS now"

    def work() -> None:
        assert sorted(conn.execute(update)) == [(1, 101), (2, 101), (3, 101)]
        dicts = conn.cursor(row_factory=dict_row).execute(update)
        assert sorted(row["now"] for row in dicts.fetchmany(2) + dicts.fetchall()) == [102, 102, 102]
        one = conn.cursor(row_factory=namedtuple_row).execute(f"{update}, owner").fetchone()
        assert one.now == 103
        with pytest.raises(psycopg.ProgrammingError):
            conn.execute("UPDATE account SET balance = 0").fetchone()
        conn.rollback()
        assert conn.execute("SELECT count(*) FROM account").fetchone() == (3,)
        conn.commit()

    with connect(world) as conn:
        undone(world, work)
    with connect(world, row_factory=dict_row) as conn:
        undone(world, lambda: conn.execute("UPDATE account SET balance = 7 WHERE id = 1") and conn.commit())
    assert accounts(world) == START


@pytest.mark.parametrize("autocommit", [False, True])
def test_savepoints(world: World, autocommit: bool) -> None:
    def work() -> None:
        with conn.transaction():
            conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
            with contextlib.suppress(ZeroDivisionError), conn.transaction():
                conn.execute("UPDATE account SET balance = 2 WHERE id = 2")
                raise ZeroDivisionError
            with conn.transaction("mine"):
                conn.execute("UPDATE account SET balance = 3 WHERE id = 3")
            with conn.transaction(force_rollback=True):
                conn.execute("DELETE FROM account")
            with conn.transaction():
                conn.execute("DELETE FROM account")
                raise psycopg.Rollback
        assert conn.autocommit is autocommit

    with connect(world, autocommit=autocommit) as conn:
        with world.client.global_transaction(name="test"):
            work()
        after = [(1, "ann", 1), (2, "bob", 100), (3, "cid", 3)]
        assert accounts(world) == after
        world.script("UPDATE account SET balance = 100")
        undone(world, work)
    assert accounts(world) == START


def test_each_statement_of_an_autocommit_connection_is_a_branch(world: World) -> None:
    def work() -> None:
        conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
        assert accounts(world)[0] == (1, "ann", 1)
        conn.execute("DELETE FROM account WHERE id = 1")
        assert len(accounts(world)) == 2

    with connect(world, autocommit=True) as conn:
        undone(world, work)
        assert len(world.statuses()) == 2
    assert accounts(world) == START


def test_what_nobody_could_undo_is_refused_before_it_runs(world: World) -> None:
    def work() -> None:
        cur = conn.cursor()
        with pytest.raises(UnsupportedSqlError, match="COPY"):
            cur.copy("COPY account FROM STDIN")
        with pytest.raises(UnsupportedSqlError, match="one by one"):
            conn.pipeline()
        with pytest.raises(UnsupportedSqlError):
            conn.execute("TRUNCATE account")
        with pytest.raises(UnsupportedSqlError, match="returning=True"):
            cur.executemany("DELETE FROM account WHERE id = %s RETURNING id", [(1,)], returning=True)
        conn.rollback()

    with connect(world) as conn:
        undone(world, work)
    with connect(world, cursor_factory=psycopg.RawCursor) as conn:
        undone(world, lambda: refused(conn))
    assert accounts(world) == START


def refused(conn: Any) -> None:
    with pytest.raises(UnsupportedSqlError, match="raw cursor"):
        conn.execute("DELETE FROM account WHERE id = $1", [1])


def test_outside_a_global_transaction_the_driver_does_everything(world: World) -> None:
    with connect(world) as conn:
        with conn.cursor() as cur, cur.copy("COPY account FROM STDIN") as copy:
            copy.write_row((4, "dan", 4))
        with conn.pipeline():
            conn.execute("UPDATE account SET balance = 0 WHERE id = 4")
        assert conn.execute("UPDATE account SET balance = 5 WHERE id = 4").statusmessage == "UPDATE 1"
        query = psycopg.sql.SQL("SELECT {} FROM account WHERE id = 4").format(psycopg.sql.Identifier("balance"))
        asked = conn.execute(query)
        assert asked._query.query == b'SELECT "balance" FROM account WHERE id = 4'
        assert asked.fetchall() == [(5,)]
        assert list(conn.cursor().stream("SELECT id FROM account ORDER BY id")) == [(1,), (2,), (3,), (4,)]
    assert accounts(world)[-1] == (4, "dan", 5)
    assert world.undo_rows() == []


def test_an_error_in_a_statement_is_the_drivers_and_the_commit_that_follows_commits_nothing(world: World) -> None:
    def work() -> None:
        conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute("INSERT INTO account VALUES (2, 'bob', 1)")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            conn.execute("UPDATE account SET balance = 1 WHERE id = 3")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            conn.commit()

    with connect(world) as conn:
        undone(world, work)
        assert conn.execute("SELECT 1").fetchone() == (1,)
    assert accounts(world) == START


def test_what_has_only_read_joins_and_what_has_written_is_refused(world: World) -> None:
    with connect(world) as conn:
        conn.execute("SELECT * FROM account")
        undone(world, lambda: conn.execute("UPDATE account SET balance = 1 WHERE id = 1") and conn.commit())
        assert accounts(world) == START
        writes: list[Callable[[], object]] = [
            lambda: conn.execute("UPDATE account SET balance = 1 WHERE id = 1"),
            lambda: list(conn.cursor().stream("DELETE FROM account WHERE id = 1 RETURNING id")),
            lambda: copied(conn.cursor()),
        ]
        for write in writes:
            write()
            with pytest.raises(ConfigurationError, match="has written before"), world.client.global_transaction(name="test"):
                conn.execute("UPDATE account SET balance = 1 WHERE id = 2")
            conn.rollback()
    assert accounts(world) == START


def copied(cur: Any) -> None:
    with cur.copy("COPY account FROM STDIN") as copy:
        copy.write_row((4, "dan", 4))


def test_a_row_of_another_global_transaction_is_waited_for_and_refused(world: World, pool: ThreadPoolExecutor) -> None:
    impatient = create_engine(world.url)
    enroll(impatient, world.client, name="impatient", lock_wait=0.2)

    def other() -> None:
        with (
            wrap(psycopg.connect(target(world)), impatient) as conn,
            world.client.global_transaction(name="other"),
        ):
            conn.execute("UPDATE account SET balance = 2 WHERE id = 1")
            conn.commit()

    with connect(world) as conn, world.client.global_transaction(name="test"):
        conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
        conn.commit()
        with pytest.raises((LockConflictError, LockTimeoutError)):
            pool.submit(other).result(20)
    assert accounts(world)[0] == (1, "ann", 1)
    pool.submit(other).result(20)
    assert accounts(world)[0] == (1, "ann", 2)
    impatient.dispose()


@pytest.mark.parametrize("then", ["commit", "rollback", "execute", "wrap"])
def test_a_local_transaction_that_was_ended_behind_it_is_not_committed_globally(world: World, then: str) -> None:
    def leave_it() -> None:
        with world.client.global_transaction(name="test") as world.last:
            conn = wrap(raw, world.engine)
            conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
            raw.commit()
            goes_on = {"wrap": lambda: wrap(raw, world.engine), "execute": lambda: conn.execute("SELECT 1")}
            with contextlib.suppress(ConfigurationError):
                goes_on.get(then, lambda: getattr(conn, then)())()

    with psycopg.connect(target(world)) as raw, pytest.raises(RolledBackError):
        leave_it()
    wait_until(lambda: accounts(world) == START, what="the row is put back")


def test_what_does_not_fit_is_refused(world: World) -> None:
    with psycopg.connect(target(world)) as raw:
        with pytest.raises(ConfigurationError, match="not enrolled"):
            wrap(raw, world.outside)
        with pytest.raises(ConfigurationError, match="does not fit"):
            wrap(object(), world.engine)
        raw.execute("SELECT 1")
        with pytest.raises(ConfigurationError, match="is open"):
            wrap(raw, world.engine)


# ---------------------------------------------------------------- asynchronous


def test_an_asynchronous_connection(aworld: World) -> None:
    async def work(conn: Any) -> None:
        async with conn.transaction():
            done = await conn.execute("UPDATE account SET balance = balance - %s WHERE id = 1 RETURNING balance", (10,))
            assert [row async for row in done] == [(90,)]
            with contextlib.suppress(ZeroDivisionError):
                async with conn.transaction():
                    await conn.execute("DELETE FROM account")
                    raise ZeroDivisionError
            async with conn.cursor(row_factory=dict_row) as cur:
                await cur.executemany("INSERT INTO account VALUES (%s, %s, 0)", [(4, "dan"), (5, "eve")])
                await cur.execute("SELECT balance FROM account WHERE id = 4")
                assert await cur.fetchone() == {"balance": 0}
                with pytest.raises(UnsupportedSqlError, match="COPY"):
                    cur.copy("COPY account FROM STDIN")
        await conn.set_autocommit(True)
        await conn.execute("DELETE FROM account WHERE id = 2")
        await conn.set_autocommit(False)
        with pytest.raises(psycopg.errors.UniqueViolation):
            await conn.execute("INSERT INTO account VALUES (3, 'cid', 1)")
        await conn.rollback()

    async def cancelled() -> None:
        async with await aconnect(aworld) as conn, aworld.client.global_transaction(name="test"):
            await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(conn.execute("SELECT pg_sleep(20)"), 0.3)
            with pytest.raises(psycopg.errors.InFailedSqlTransaction):
                await conn.commit()

    async def run(undo: bool) -> None:
        async with await aconnect(aworld) as conn, aworld.client.global_transaction(name="test"):
            await work(conn)
            if undo:
                raise Undo

    async def outside() -> None:
        async with await aconnect(aworld) as conn:
            async with conn.cursor() as cur, cur.copy("COPY account FROM STDIN") as copy:
                await copy.write_row((6, "fay", 6))
            assert [row async for row in conn.cursor().stream("SELECT max(id) FROM account")] == [(6,)]

    within(aworld, run(True), Undo)
    assert accounts(aworld) == START
    within(aworld, cancelled())
    assert accounts(aworld) == START
    within(aworld, run(False))
    assert accounts(aworld) == [(1, "ann", 90), (3, "cid", 100), (4, "dan", 0), (5, "eve", 0)]
    within(aworld, outside())
    assert accounts(aworld)[-1] == (6, "fay", 6)
