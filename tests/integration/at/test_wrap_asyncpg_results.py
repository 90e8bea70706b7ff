"""What a wrapped connection of asyncpg gives is what the plain one gives, and what it cannot give is refused."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from txcoord_proto.errors import ConfigurationError, LockConflictError, UnsupportedSqlError
from txcoord_rm import global_lock

from tests.integration.at.world import Undo, World
from tests.integration.at.wrapped import START, accounts, target, within
from tests.integration.at.wrapped_asyncpg import UPDATE, every, inside, outside, wrapped

RESULTS = [
    "UPDATE account SET balance = balance + 1 RETURNING id, balance AS now",
    "UPDATE account SET balance = balance + 1 WHERE id = 1 RETURNING *",
    "UPDATE account SET balance = balance + 1 WHERE id = 1 RETURNING balance + 1, owner || 'x', id, id",
    "UPDATE account SET balance = balance + 1 WHERE id = 9 RETURNING id",
    "UPDATE account SET balance = balance + 1",
    "DELETE FROM account WHERE id = 2 RETURNING owner",
    "INSERT INTO account VALUES (7, 'gus', 7), (8, 'hal', 8) RETURNING id AS \"Number\"",
    "INSERT INTO account VALUES (1, 'ann', 1) ON CONFLICT DO NOTHING",
    "WITH low AS (SELECT 1 AS id) DELETE FROM account USING low WHERE account.id = low.id",
    "SELECT id, owner FROM account ORDER BY id FOR UPDATE",
    "SELECT id, owner FROM account ORDER BY id",
    "SHOW server_version_num",
]


@every
def test_results_are_those_of_the_plain_driver(pg: World) -> None:
    async def results(conn: Any, query: str) -> list[Any]:
        found: list[Any] = []
        for how in (
            lambda: conn.execute(query),
            lambda: conn.fetch(query),
            lambda: conn.fetchrow(query),
            lambda: conn.fetchval(query),
            lambda: conn.fetch(query, record_class=Mine),
            lambda: prepared(conn, query),
        ):
            transaction = conn.transaction()
            await transaction.start()
            found.append(shown(await how()))
            await transaction.rollback()
        return found

    async def prepared(conn: Any, query: str) -> Any:
        statement = await conn.prepare(query)
        rows = await statement.fetch()
        return [statement.get_statusmsg(), *rows]

    async def work(conn: Any) -> None:
        for query in RESULTS:
            plain = await results(conn._attached.driver, query)
            async with pg.client.global_transaction(name="test"):
                assert await results(conn, query) == plain

    outside(pg, work)
    assert accounts(pg) == START


class Mine(asyncpg.Record):  # type: ignore[misc]  # asyncpg has no types
    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def shown(found: Any) -> Any:
    """All that there is to see of a result."""
    if isinstance(found, list):
        return [shown(row) for row in found]
    if not isinstance(found, asyncpg.Record):
        return found
    assert isinstance(found, Mine) is hasattr(found, next(iter(found.keys())))
    return [
        type(found).__name__,
        repr(found),
        len(found),
        tuple(found),
        list(found.keys()),
        list(found.values()),
        list(found.items()),
        dict(found),
        found[0],
        found[-1],
        found[:2],
        found.get("id"),
        found.get("txcoord_keys", "none"),
        "id" in found,
        hash(found),
    ]


def test_records_compare_as_the_drivers_do(pg: World) -> None:
    async def work(conn: Any) -> None:
        rows = await conn.fetch("UPDATE account SET balance = 0 RETURNING id, owner")
        plain = await conn.fetch("SELECT id, owner FROM account")
        assert sorted(rows) == sorted(plain) == [(1, "ann"), (2, "bob"), (3, "cid")]
        assert plain[0] in rows
        assert rows[0] in plain
        assert rows[0] not in ((1, "bob"), [1, "ann"])
        assert {rows[0], tuple(rows[0])} == {tuple(rows[0])}
        assert sorted(rows, reverse=True)[0] > (2, "bob") >= sorted(rows)[1] >= (2, "bob")
        with pytest.raises(KeyError):
            rows[0]["txcoord_keys"]
        with pytest.raises(IndexError):
            rows[0][2]
        with pytest.raises(IndexError):
            rows[0][-3]

    inside(pg, work)


def test_many_rows_of_arguments(pg: World) -> None:
    async def work(conn: Any) -> None:
        for _ in "ab":
            await conn.executemany(UPDATE, ((n, n) for n in (1, 2, 3)))
        statement = await conn.prepare(UPDATE)
        await statement.executemany([(10, 1), (10, 2)])
        assert [row[2] for row in accounts(pg)] == [112, 114, 106]
        with pytest.raises(UnsupportedSqlError, match="for each row"):
            await conn.fetchmany(f"{UPDATE} RETURNING id", [(1, 1)])
        assert await conn.fetchmany("SELECT $1::integer + 1", [(1,), (2,)]) == [(2,), (3,)]

    inside(pg, work)
    assert accounts(pg) == START


@every
def test_cursors_read_at_the_server_and_keep_what_was_captured(pg: World) -> None:
    async def work(conn: Any) -> None:
        with pytest.raises(asyncpg.NoActiveSQLTransactionError):
            await conn.cursor("SELECT id FROM account")
        async with conn.transaction():
            query = "SELECT g FROM generate_series(1, $1) AS g"
            assert [row["g"] async for row in conn.cursor(query, 120, prefetch=7)] == list(range(1, 121))
            cursor = await conn.cursor(query, 10)
            assert await cursor.fetchrow() == (1,)
            assert await cursor.forward(2) == 2
            assert await cursor.fetch(3) == [(4,), (5,), (6,)]
            assert len(await cursor.fetch(20)) == 4
            assert await cursor.fetchrow() is None
            statement = await conn.prepare("UPDATE account SET balance = 0 RETURNING id")
            cursor = await statement.cursor()
            assert sorted([*(await cursor.fetch(2)), await cursor.fetchrow()]) == [(1,), (2,), (3,)]
            assert await cursor.fetchrow() is None
            locked = "SELECT id FROM account ORDER BY id FOR UPDATE"
            assert [row["id"] async for row in conn.cursor(locked, record_class=Mine)] == [1, 2, 3]
            with pytest.raises(asyncpg.InterfaceError):
                await conn.cursor(query, 1, prefetch=3)
            with pytest.raises(UnsupportedSqlError):
                await conn.cursor("TRUNCATE account")

    inside(pg, work)
    assert accounts(pg) == START


def test_what_nobody_could_undo_is_refused_before_it_runs(pg: World) -> None:
    async def work(conn: Any) -> None:
        refused: dict[str, list[Callable[[], Awaitable[Any]]]] = {
            "COPY": [
                lambda: conn.copy_records_to_table("account", records=[(4, "dan", 4)]),
                lambda: conn.copy_to_table("account", source=io.BytesIO(b"4\tdan\t4\n")),
                lambda: conn.copy_from_query("DELETE FROM account RETURNING id", output=io.BytesIO()),
                lambda: conn.copy_from_query("SELECT * FROM account FOR UPDATE", output=io.BytesIO()),
            ],
            "several statements": [lambda: conn.execute("UPDATE account SET balance = 0; DELETE FROM account")],
            "unseen": [lambda: conn.execute("BEGIN"), lambda: conn.execute("COMMIT")],
            "TRUNCATE": [lambda: conn.execute("TRUNCATE account"), lambda: conn.fetch("TRUNCATE account")],
            "analyze=True": [lambda: explained("UPDATE account SET balance = 0")],
        }

        async def explained(query: str) -> None:
            await (await conn.prepare(query)).explain(analyze=True)

        for match, attempts in refused.items():
            for attempt in attempts:
                with pytest.raises(UnsupportedSqlError, match=match):
                    await attempt()
        output = io.BytesIO()
        assert await conn.copy_from_query("SELECT id FROM account WHERE id = $1", 2, output=output) == "COPY 1"
        assert await conn.copy_from_table("account", output=output) == "COPY 3"
        assert output.getvalue().count(b"\n") == 4
        plan = await (await conn.prepare("UPDATE account SET balance = 0")).explain()
        assert plan[0]["Plan"]["Node Type"] == "ModifyTable"

    async def in_block(conn: Any) -> None:
        async with conn.transaction():
            await work(conn)

    inside(pg, work)
    inside(pg, in_block, undo=False)
    assert accounts(pg) == START


def test_outside_a_global_transaction_the_driver_does_everything(pg: World) -> None:
    async def work(conn: Any) -> None:
        raw = conn._attached.driver
        queries: list[str] = []
        raw.add_query_logger(lambda record: queries.append(record.query))
        assert (
            await conn.execute("INSERT INTO account VALUES (4, 'dan', 4); UPDATE account SET balance = 5 WHERE id = 4")
            == "UPDATE 1"
        )
        assert await conn.copy_records_to_table("account", records=[(5, "eve", 5)]) == "COPY 1"
        assert await conn.copy_to_table("account", source=io.BytesIO(b"6\tfay\t6\n")) == "COPY 1"
        assert await conn.fetchmany(f"{UPDATE} RETURNING id", [(0, 4), (0, 5)]) == [(4,), (5,)]
        async with conn.transaction(isolation="serializable", readonly=True):
            assert await conn.fetchval("SHOW transaction_isolation") == "serializable"
            assert await conn.fetchval("SHOW transaction_read_only") == "on"
            with pytest.raises(asyncpg.InterfaceError, match="isolation level"):
                await conn.transaction(isolation="read_committed").start()
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await conn.execute("DELETE FROM account")
        with pytest.raises(ValueError, match="isolation"):
            conn.transaction(isolation="none")
        await conn.execute("BEGIN")
        assert conn.is_in_transaction()
        with pytest.raises(asyncpg.InterfaceError, match="manually started"):
            await conn.transaction().start()
        await conn.execute("ROLLBACK")
        statement = await conn.prepare("SELECT id FROM account WHERE id = $1")
        assert await statement.fetch(4) == [(4,)]
        assert (statement.get_statusmsg(), statement.get_attributes()[0].name) == ("SELECT 1", "id")
        assert conn.get_server_version().major >= 15
        heard: list[str] = []
        await conn.add_listener("news", lambda *told: heard.append(told[-1]))
        await conn.execute("NOTIFY news, 'hello'")
        while not heard:
            await asyncio.sleep(0.01)
        await conn.reset()
        assert queries
        assert not any("txcoord" in query for query in queries)

    outside(pg, work)
    assert accounts(pg)[3:] == [(4, "dan", 5), (5, "eve", 5), (6, "fay", 6)]
    assert pg.undo_rows() == []


def test_transactions_end_once_and_in_order(pg: World) -> None:
    async def work(conn: Any) -> None:
        outer, inner = conn.transaction(), conn.transaction()
        with pytest.raises(asyncpg.InterfaceError, match="not yet started"):
            await outer.commit()
        await outer.start()
        with pytest.raises(asyncpg.InterfaceError, match="already started"):
            await outer.start()
        await inner.start()
        await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
        await outer.rollback()
        with pytest.raises(asyncpg.InterfaceError, match="already rolled back"):
            await outer.rollback()
        with pytest.raises(asyncpg.InterfaceError, match="the one around it"):
            await inner.commit()
        assert not conn.is_in_transaction()
        async with conn.transaction() as nothing:
            assert nothing is None
            with pytest.raises(asyncpg.InterfaceError):
                await inner.rollback()
        block = conn.transaction()
        async with block:
            with pytest.raises(asyncpg.InterfaceError, match="manually"):
                await block.commit()
        with pytest.raises(asyncpg.InterfaceError, match="already committed"):
            await block.start()

    outside(pg, work)
    inside(pg, work, undo=False)
    assert accounts(pg) == START


@pytest.mark.parametrize("how", ["reset", "close", "terminate", "timeout", "cancel"])
def test_what_is_cut_short_is_rolled_back(pg: World, how: str) -> None:
    async def work(conn: Any) -> None:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
        if how == "timeout":
            with pytest.raises(TimeoutError):
                await conn.execute("SELECT pg_sleep(20)", timeout=0.2)
        elif how == "cancel":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(conn.execute("SELECT pg_sleep(20)"), 0.2)
        elif how == "terminate":
            conn.terminate()
        else:
            await getattr(conn, how)()
        with pytest.raises(asyncpg.PostgresError if how in ("timeout", "cancel") else asyncpg.InterfaceError):
            await transaction.commit()
        if how == "reset":
            await conn.execute("UPDATE account SET balance = 2 WHERE id = 2")

    inside(pg, work, undo=False)
    assert accounts(pg) == [(1, "ann", 100), (2, "bob", 2 if how == "reset" else 100), (3, "cid", 100)]


def test_two_tasks_on_one_connection_are_refused_as_by_the_driver(pg: World) -> None:
    async def work(conn: Any) -> None:
        done = await asyncio.gather(conn.execute(UPDATE, 1, 1), conn.execute(UPDATE, 1, 2), return_exceptions=True)
        assert done[0] == "UPDATE 1"
        assert isinstance(done[1], asyncpg.InterfaceError)
        assert "another operation is in progress" in str(done[1])

    inside(pg, work)
    assert accounts(pg) == START


def test_connections_of_a_pool(pg: World) -> None:
    async def work() -> None:
        async with asyncpg.create_pool(target(pg), min_size=1, max_size=1, record_class=Mine) as pool:
            for round in range(3):
                with contextlib.suppress(Undo):
                    async with pg.client.global_transaction(name="test"):
                        async with pool.acquire() as raw:
                            conn = wrapped(pg, raw)
                            async with conn.transaction():
                                row = await conn.fetchrow(f"{UPDATE} RETURNING balance", 1, 1)
                                assert row.balance == 101 + round
                            await conn.execute(UPDATE, 5, 2)
                        raise Undo
                pg.script(f"UPDATE account SET balance = {101 + round} WHERE id = 1")
            with pytest.raises(asyncpg.InterfaceError, match="released back"):
                await conn.execute("SELECT 1")

    within(pg, work())
    assert accounts(pg) == [(1, "ann", 103), *START[1:]]


def test_codecs_of_the_application_stay_and_those_of_our_types_are_refused(pg: World) -> None:
    pg.script("ALTER TABLE account ADD about jsonb, ADD price numeric", "UPDATE account SET about = '{\"a\": 1}', price = 1.50")

    async def work(conn: Any) -> None:
        await conn.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        await conn.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=float)
        query = "UPDATE account SET about = $1, price = price + 1 WHERE id = 1 RETURNING about, price"
        assert await conn.fetchrow(query, {"b": [2]}) == ({"b": [2]}, 2.5)
        for name, encoder, decoder in [("text", str.upper, str), ("int8", str, lambda text: int(text) + 1)]:
            await conn.set_type_codec(name, schema="pg_catalog", encoder=encoder, decoder=decoder, format="text")
            with pytest.raises(ConfigurationError, match="codec"):
                await conn.execute("UPDATE account SET balance = 1 WHERE id = 1")
            await conn.reset_type_codec(name, schema="pg_catalog")
        await conn.execute("UPDATE account SET balance = 1 WHERE id = 2")

    inside(pg, work)
    assert pg.rows("SELECT id, owner, balance, about, price::text FROM account ORDER BY id") == [
        (*row, {"a": 1}, "1.50") for row in START
    ]


@pytest.mark.parametrize("statement_cache_size", [0, 100])
def test_a_table_may_be_altered_between_statements(pg: World, statement_cache_size: int) -> None:
    async def work(conn: Any) -> None:
        update = "UPDATE account SET balance = balance + 1 WHERE id = 1 RETURNING *"
        statement = await conn.prepare(update)
        await conn.fetch(update)
        pg.script("ALTER TABLE account ADD more integer DEFAULT 7")
        seen: list[Any] = []
        for _ in range(3):
            with contextlib.suppress(LockConflictError, asyncpg.InvalidCachedStatementError):
                seen.append((await conn.fetchrow(update))["more"])
                seen.append((await statement.fetchrow())["more"])
        assert seen[-2:] == [7, 7]

    inside(pg, work, statement_cache_size=statement_cache_size)
    assert accounts(pg) == START


def test_wrong_counts_of_arguments_are_the_drivers_errors(pg: World) -> None:
    async def work(conn: Any) -> None:
        for args in ((), (1,), (1, 2, 3)):
            with pytest.raises(asyncpg.PostgresError if not args else asyncpg.InterfaceError):
                await conn._attached.driver.execute(UPDATE, *args)
            with pytest.raises(asyncpg.InterfaceError):
                await conn.execute(UPDATE, *args)
        with pytest.raises(asyncpg.DataError):
            await conn.execute(UPDATE, "1", 1)
        with pytest.raises(asyncpg.UndefinedColumnError):
            await conn.execute("SELECT nothing FROM account")

    inside(pg, work)
    assert accounts(pg) == START


def test_global_locks_outside_a_global_transaction(pg: World) -> None:
    async def work(conn: Any) -> None:
        with global_lock():
            assert await conn.fetchval("UPDATE account SET balance = 1 WHERE id = 1 RETURNING balance") == 1
            async with conn.transaction():
                assert await conn.execute("UPDATE account SET balance = 2 WHERE id = 2") == "UPDATE 1"
            with pytest.raises(UnsupportedSqlError, match="global_lock"):
                await conn.copy_records_to_table("account", records=[(4, "dan", 4)])

    outside(pg, work)
    assert accounts(pg) == [(1, "ann", 1), (2, "bob", 2), (3, "cid", 100)]
    assert pg.undo_rows() == []
