"""Connections of asyncpg without SQLAlchemy take part as the engine's do."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import io
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from txcoord_proto.errors import (
    ConfigurationError,
    DeadlinePassedError,
    LocalTransactionOpenError,
    LockConflictError,
    LockTimeoutError,
    RolledBackError,
    UnsupportedSqlError,
)
from txcoord_rm import enroll, isolation, mode, wrap

from tests.integration.at.world import ACCOUNTS, Undo, World
from tests.integration.at.wrapped import START, accounts, target, within
from tests.integration.at.wrapped_asyncpg import UPDATE, balance, every, inside, outside, until, wrapped
from tests.servers.fixtures import FreshUrl


@every
def test_a_rollback_puts_every_row_back(pg: World) -> None:
    async def work(conn: Any) -> None:
        async with conn.transaction():
            assert conn.is_in_transaction()
            assert await conn.execute(UPDATE, -10, 1) == "UPDATE 1"
            assert await conn.execute("DELETE FROM account WHERE id = 2;") == "DELETE 1"
            await conn.executemany("INSERT INTO account VALUES ($1, $2, $3)", [(4, "dan", 1), (5, "eve", 2)])
        assert not conn.is_in_transaction()
        assert accounts(pg) == [(1, "ann", 90), (3, "cid", 100), (4, "dan", 1), (5, "eve", 2)]

    inside(pg, work)
    assert accounts(pg) == START
    assert pg.status() == "ROLLED_BACK"


def test_a_commit_keeps_them(pg: World) -> None:
    async def work(conn: Any) -> None:
        async with conn.transaction():
            await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")

    inside(pg, work, undo=False)
    assert accounts(pg)[0] == (1, "ann", 1)
    assert pg.statuses()
    within(pg, until(lambda: pg.undo_rows() == []))


@every
def test_each_statement_outside_a_transaction_is_a_branch(pg: World) -> None:
    async def work(conn: Any) -> None:
        assert await conn.execute("UPDATE account SET balance = 1 WHERE id = 1") == "UPDATE 1"
        assert accounts(pg)[0] == (1, "ann", 1)
        assert await conn.fetchval("DELETE FROM account WHERE balance = 1 RETURNING owner") == "ann"
        await conn.executemany("INSERT INTO account VALUES ($1, $2, 0)", [(4, "dan"), (5, "eve")])
        assert not conn.is_in_transaction()
        assert [row[0] for row in accounts(pg)] == [2, 3, 4, 5]
        with pytest.raises(asyncpg.UniqueViolationError):
            await conn.executemany("INSERT INTO account VALUES ($1, $2, 0)", [(6, "fay"), (4, "dan")])
        assert [row[0] for row in accounts(pg)] == [2, 3, 4, 5]

    inside(pg, work)
    assert len(pg.statuses()) >= 3
    assert accounts(pg) == START


def test_it_is_one_world_with_the_engine(pg: World) -> None:
    async def work(conn: Any) -> None:
        assert pg.aengine is not None
        async with pg.aengine.begin() as other:
            await other.exec_driver_sql("UPDATE account SET balance = 1 WHERE id = 1")
        async with conn.transaction():
            await conn.execute(UPDATE, 5, 1)

    inside(pg, work)
    assert accounts(pg) == START


@every
def test_savepoints(pg: World) -> None:
    async def work(conn: Any) -> None:
        async with conn.transaction():
            await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
            with contextlib.suppress(ZeroDivisionError):
                async with conn.transaction():
                    await conn.execute("UPDATE account SET balance = 2 WHERE id = 2")
                    raise ZeroDivisionError
            with contextlib.suppress(asyncpg.UniqueViolationError):
                async with conn.transaction():
                    await conn.execute("INSERT INTO account VALUES (3, 'cid', 1)")
            async with conn.transaction():
                await conn.execute("UPDATE account SET balance = 3 WHERE id = 3")
            inner = conn.transaction()
            await inner.start()
            await conn.execute("DELETE FROM account")
            await inner.rollback()

    inside(pg, work, undo=False)
    assert accounts(pg) == [(1, "ann", 1), (2, "bob", 100), (3, "cid", 3)]
    pg.script("UPDATE account SET balance = 100")
    inside(pg, work)
    assert accounts(pg) == START


def test_a_savepoint_that_wrote_first_takes_its_branch_with_it(pg: World) -> None:
    async def work(conn: Any) -> None:
        async with conn.transaction():
            with contextlib.suppress(ZeroDivisionError):
                async with conn.transaction():
                    await conn.execute("UPDATE account SET balance = 2 WHERE id = 2")
                    raise ZeroDivisionError
            await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")

    inside(pg, work)
    assert accounts(pg) == START
    inside(pg, work, undo=False)
    assert accounts(pg)[:2] == [(1, "ann", 1), (2, "bob", 100)]


def test_a_failed_statement_is_the_drivers_error_and_the_commit_that_follows_commits_nothing(pg: World) -> None:
    async def work(conn: Any) -> None:
        async with conn.transaction():
            await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
            with pytest.raises(asyncpg.UniqueViolationError) as caught:
                await conn.execute("INSERT INTO account VALUES (2, 'bob', 1)")
            assert caught.value.constraint_name == "account_pkey"
            with pytest.raises(asyncpg.InFailedSQLTransactionError):
                await conn.fetch("SELECT 1")

    async def caught(conn: Any) -> None:
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await work(conn)
        assert await conn.fetchval("SELECT 1") == 1

    inside(pg, caught, undo=False)
    assert accounts(pg) == START


def test_what_has_only_read_joins_and_what_has_written_is_refused(pg: World) -> None:
    async def work(conn: Any) -> None:
        await conn.execute("UPDATE account SET balance = 100 WHERE id = 1")  # committed, so it matters no more
        transaction = conn.transaction()
        await transaction.start()
        await conn.fetch("SELECT * FROM account")
        with contextlib.suppress(Undo):
            async with pg.client.global_transaction(name="test"):
                await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
                await transaction.commit()
                assert balance(pg) == 1
                raise Undo
        assert accounts(pg) == START
        writes: dict[str, Callable[[], Awaitable[Any]]] = {
            "execute": lambda: conn.execute("UPDATE account SET balance = 1 WHERE id = 2"),
            "copy": lambda: conn.copy_records_to_table("account", records=[(4, "dan", 4)]),
            "cursor": lambda: conn.cursor("DELETE FROM account WHERE id = 3 RETURNING id"),
        }
        for write in writes.values():
            transaction = conn.transaction()
            await transaction.start()
            await write()
            async with pg.client.global_transaction(name="test"):
                with pytest.raises(ConfigurationError, match="has written before"):
                    await conn.execute("UPDATE account SET balance = 1 WHERE id = 2")
            await transaction.rollback()
        assert accounts(pg) == START

    outside(pg, work)


def test_a_row_of_another_global_transaction_is_waited_for_and_refused(pg: World) -> None:
    async def work(conn: Any) -> None:
        impatient = create_async_engine(pg.url)
        enroll(impatient, pg.client, name="impatient", lock_wait=0.2)
        other = wrap(await asyncpg.connect(target(pg)), impatient)
        async with pg.client.global_transaction(name="test"):
            await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
            with pytest.raises((LockConflictError, LockTimeoutError)):
                await asyncio.create_task(elsewhere(other), context=contextvars.Context())
        assert balance(pg) == 1
        await elsewhere(other)
        assert balance(pg) == 2
        await other.close()
        await impatient.dispose()

    async def elsewhere(other: Any) -> None:
        async with pg.client.global_transaction(name="other"), other.transaction():
            await other.execute("UPDATE account SET balance = 2 WHERE id = 1")

    outside(pg, work)


def test_another_database_is_refused(pg: World, fresh_postgres_url: FreshUrl) -> None:
    async def work() -> None:
        elsewhere = await asyncpg.connect(fresh_postgres_url())
        await elsewhere.execute(ACCOUNTS)
        conn = wrapped(pg, elsewhere)
        async with pg.client.global_transaction(name="test"):
            with pytest.raises(ConfigurationError, match="not connected to the database"):
                await conn.execute("INSERT INTO account VALUES (1, 'ann', 1)")
        assert await conn.fetchval("SELECT count(*) FROM account") == 0
        await conn.close()

    within(pg, work())


def test_global_reads_are_global_reads(pg: World) -> None:
    async def work(conn: Any) -> None:
        other = await asyncpg.connect(target(pg))
        async with conn.transaction():
            with isolation("read_committed"):
                assert await conn.fetch("SELECT balance FROM account WHERE id = 1") == [(100,)]
                with pytest.raises(asyncpg.LockNotAvailableError):
                    await other.execute("SELECT FROM account WHERE id = 1 FOR UPDATE NOWAIT")
                with pytest.raises(UnsupportedSqlError, match="aggregates"):
                    await conn.fetchval("SELECT sum(balance) FROM account")
                with pytest.raises(UnsupportedSqlError, match="COPY"):
                    await conn.copy_from_query("SELECT * FROM account", output=io.BytesIO())
                assert [row[0] async for row in conn.cursor("SELECT id FROM account WHERE id = 2")] == [2]
            assert await conn.fetchval("SELECT sum(balance) FROM account") == 300
        await other.close()

    inside(pg, work)


@pytest.mark.parametrize("then", ["execute", "leave"])
def test_a_local_transaction_that_was_ended_behind_it_is_not_committed_globally(pg: World, then: str) -> None:
    async def work() -> None:
        raw = await asyncpg.connect(target(pg))
        conn = wrapped(pg, raw)
        with pytest.raises(RolledBackError):
            await ended_behind(conn, raw)
        await raw.close()

    async def ended_behind(conn: Any, raw: Any) -> None:
        async with pg.client.global_transaction(name="test"):
            with contextlib.suppress(ConfigurationError):
                async with conn.transaction():
                    await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
                    await raw.execute("COMMIT")
                    if then == "execute":
                        await conn.execute("SELECT 1")

    within(pg, work())
    within(pg, until(lambda: accounts(pg) == START))


def test_what_does_not_fit_is_refused(pg: World) -> None:
    async def work(conn: Any) -> None:
        assert pg.aengine is not None
        raw = conn._attached.driver
        with pytest.raises(ConfigurationError, match="not enrolled"):
            wrap(raw, create_async_engine(pg.url))
        with pytest.raises(ConfigurationError, match="does not fit"):
            wrap(object(), pg.aengine)
        async with raw.transaction():
            with pytest.raises(ConfigurationError, match="is open"):
                wrap(raw, pg.aengine)
        async with pg.client.global_transaction(name="test"):
            with mode("xa"), pytest.raises(ConfigurationError, match="mode 'at' only"):
                await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
            async with conn.transaction(), raw.transaction():
                with pytest.raises(asyncpg.InterfaceError):
                    await conn.transaction().commit()

    outside(pg, work)
    assert accounts(pg) == START


def test_it_does_not_outlive_the_deadline(pg: World) -> None:
    async def work(conn: Any) -> None:
        async with pg.client.global_transaction(name="test", timeout=0.5), conn.transaction():
            await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
            await asyncio.sleep(0.7)
            await conn.execute("UPDATE account SET balance = 1 WHERE id = 2")

    async def refused(conn: Any) -> None:
        with pytest.raises(DeadlinePassedError):
            await work(conn)

    outside(pg, refused)
    assert accounts(pg) == START


def test_what_goes_back_to_its_pool_uncommitted_is_not_committed_globally(pg: World) -> None:
    async def work(pool: Any) -> None:
        async with pg.client.global_transaction(name="test"), pool.acquire() as raw:
            conn = wrapped(pg, raw)
            await conn.transaction().start()
            await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")

    async def refused() -> None:
        async with asyncpg.create_pool(target(pg), min_size=1, max_size=1) as pool:
            with pytest.raises(LocalTransactionOpenError):
                await work(pool)
            async with pool.acquire() as raw:
                assert await wrapped(pg, raw).execute("UPDATE account SET balance = 100 WHERE id = 1") == "UPDATE 1"

    within(pg, refused())
    assert accounts(pg) == START
