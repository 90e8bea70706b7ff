"""Try, confirm and cancel on every database, plain and asyncio, with the SDK's local transaction and with the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from txcoord_proto.errors import LocalTransactionOpenError, OutcomeUnknownError, TransactionEndedError
from txcoord_sdk import Client, GlobalTransaction, tcc
from txcoord_sdk.tcc.decorator import Try

from tests.integration.tcc.conftest import fences, move, stock

ASYNC = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "mysql": "mysql+aiomysql"}


def reserve_on(client: Client, seen: list[object] | None = None) -> Try[..., None]:
    @tcc("reserve", client=client)
    def reserve(session: Session, quantity: int, price: Decimal = Decimal("1.10")) -> None:
        move(session, -quantity, quantity, 0)

    @reserve.confirm
    def _confirm(conn: Connection, quantity: int, price: Decimal) -> None:
        move(conn, 0, -quantity, quantity)
        if seen is not None:
            seen.append(price)

    @reserve.cancel
    def _cancel(session: Session, quantity: int) -> None:
        move(session, quantity, -quantity, 0)

    return reserve


def statuses(client: Client, transaction: GlobalTransaction | None) -> list[str]:
    assert transaction is not None
    return sorted(branch.status for branch in client.status(transaction.known_xid).branches)


def test_commit_confirms_rollback_cancels(client: Client, engine: Engine) -> None:
    client.bind(engine)
    seen: list[object] = []
    reserve = reserve_on(client, seen)
    with client.global_transaction(name="order"):
        reserve(quantity=3)
    assert stock(engine) == (7, 0, 3)
    assert str(seen[0]) == "1.10", "typed, with every digit"

    def order() -> None:
        with client.global_transaction(name="order"):
            reserve(2)
            assert stock(engine) == (5, 2, 3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        order()
    assert stock(engine) == (7, 0, 3)
    assert fences(engine) == ["CANCELLED", "CONFIRMED"]


def test_a_failed_try_takes_no_part(client: Client, engine: Engine) -> None:
    client.bind(engine)
    reserve = reserve_on(client)
    with client.global_transaction(name="order") as transaction:
        reserve(quantity=4)
        with pytest.raises(DBAPIError):
            reserve(quantity=40)
    assert stock(engine) == (6, 0, 4)
    assert statuses(client, transaction) == ["FAILED", "SETTLED"]
    assert fences(engine) == ["CONFIRMED"]


def test_the_callers_session_and_its_savepoints(client: Client, engine: Engine) -> None:
    client.bind(engine)
    reserve = reserve_on(client)
    with client.global_transaction(name="order") as transaction, Session(engine) as session:
        reserve(session, 1)
        with pytest.raises(DBAPIError), session.begin_nested():
            reserve(session, 40)
        with session.begin_nested():
            reserve(session, 2)
        assert statuses(client, transaction) == ["FAILED", "REGISTERED", "REGISTERED"]
        session.commit()
    assert stock(engine) == (7, 0, 3)
    assert statuses(client, transaction) == ["FAILED", "SETTLED", "SETTLED"]


def test_the_callers_transaction_that_failed_half_way_does_not_count_as_done(client: Client, engine: Engine) -> None:
    """On PostgreSQL the caller's commit would be a silent rollback, elsewhere half a try."""
    client.bind(engine)
    reserve = reserve_on(client)
    with client.global_transaction(name="order") as transaction, engine.connect() as connection:
        session = Session(bind=connection)
        reserve(session, 1)
        with pytest.raises(DBAPIError):
            move(connection, -40, 40, 0)
        if engine.dialect.name == "postgresql":
            with pytest.raises(Exception, match="aborted"):
                connection.commit()
        else:
            connection.commit()
    confirmed = engine.dialect.name != "postgresql"
    assert stock(engine) == ((9, 0, 1) if confirmed else (10, 0, 0))
    assert statuses(client, transaction) == (["SETTLED"] if confirmed else ["FAILED"])


# ---------------------------------------------------------------- asyncio


@pytest.fixture
async def async_engine(engine: Engine) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(engine.url.set(drivername=ASYNC[engine.dialect.name]))
    yield made
    await made.dispose()


def areserve_on(client: Client) -> Try[..., object]:
    @tcc("reserve", client=client)
    async def reserve(session: AsyncSession, quantity: int) -> None:
        await move(session, -quantity, quantity, 0)

    @reserve.confirm
    def _confirm(session: Session, quantity: int) -> None:
        move(session, 0, -quantity, quantity)  # a plain function, on the asynchronous engine

    @reserve.cancel
    async def _cancel(conn: AsyncConnection, quantity: int) -> None:
        await move(conn, quantity, -quantity, 0)

    return reserve


async def test_the_same_in_asyncio(connected: Callable[..., Client], engine: Engine, async_engine: AsyncEngine) -> None:
    client = connected()
    client.bind(async_engine)
    reserve: Try[..., object] = areserve_on(client)
    async with client:
        async with client.global_transaction(name="order"):
            await reserve(quantity=3)  # type: ignore[misc]  # a coroutine
        assert stock(engine) == (7, 0, 3)

        async def order() -> None:
            async with client.global_transaction(name="order"):
                await reserve(quantity=2)  # type: ignore[misc]
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await order()
        assert stock(engine) == (7, 0, 3)
        async with client.global_transaction(name="order") as transaction, AsyncSession(async_engine) as session:
            await reserve(session, 1)  # type: ignore[misc]
            with pytest.raises(DBAPIError):
                async with session.begin_nested():
                    await reserve(session, 40)  # type: ignore[misc]
            await session.commit()
        assert stock(engine) == (6, 0, 4)
        assert transaction is not None
        found = await client.astatus(transaction.known_xid)
        assert sorted(branch.status for branch in found.branches) == ["FAILED", "SETTLED"]
    assert fences(engine) == ["CANCELLED", "CONFIRMED", "CONFIRMED"]


async def test_a_block_may_end_its_transaction_itself(
    connected: Callable[..., Client], engine: Engine, async_engine: AsyncEngine
) -> None:
    client = connected()
    client.bind(async_engine)
    reserve: Try[..., object] = areserve_on(client)
    async with client:
        async with client.global_transaction(name="order") as taken:
            async with AsyncSession(async_engine) as session:
                await reserve(session, 3)  # type: ignore[misc]
                with pytest.raises(LocalTransactionOpenError, match="commit or close it first, then commit again"):
                    await taken.acommit()
                assert (taken.ended, taken.status) == (False, "ACTIVE")
                await session.commit()
            await taken.acommit()
            assert (taken.status, taken.settled, stock(engine)) == ("COMMITTED", True, (7, 0, 3))
            with pytest.raises(TransactionEndedError):
                await taken.arollback()
        async with client.global_transaction(name="order") as given_back:
            await reserve(quantity=2)  # type: ignore[misc]
            await given_back.arollback("sold out")
            assert (given_back.status, given_back.settled, stock(engine)) == ("ROLLED_BACK", True, (7, 0, 3))
            with pytest.raises(TransactionEndedError):
                await given_back.acommit()
        found = await client.astatus(given_back.known_xid)
        assert (found.decision, found.reason) == ("ROLLBACK", "REQUESTED")
    assert fences(engine) == ["CANCELLED", "CONFIRMED"]


async def test_a_cancelled_try_is_rolled_back(
    connected: Callable[..., Client], engine: Engine, async_engine: AsyncEngine
) -> None:
    client = connected()
    client.bind(async_engine)
    entered = asyncio.Event()

    @tcc("slow", client=client)
    async def slow(conn: AsyncConnection) -> None:
        await move(conn, -1, 1, 0)
        entered.set()
        await asyncio.sleep(30)

    slow.confirm(_nothing)
    slow.cancel(_nothing)

    async def order() -> None:
        async with client.global_transaction(name="order"):
            await slow()

    async with client:
        task = asyncio.create_task(order())
        await asyncio.wait_for(entered.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert stock(engine) == (10, 0, 0)
    assert fences(engine) == []


async def test_a_second_phase_that_outlasts_the_clients_patience_is_rolled_back_and_comes_again(
    connected: Callable[..., Client], engine: Engine, async_engine: AsyncEngine
) -> None:
    client = connected()
    client.bind(async_engine)
    entered = asyncio.Event()

    @tcc("slow", client=client)
    async def slow(conn: AsyncConnection) -> None:
        await move(conn, -1, 1, 0)

    @slow.confirm
    async def _confirm(conn: AsyncConnection) -> None:
        await move(conn, 0, -1, 1)
        if not entered.is_set():
            entered.set()
            await asyncio.sleep(30)

    slow.cancel(_nothing)

    async def order() -> None:
        async with client.global_transaction(name="order"):
            await slow()

    client.start()
    ordering = asyncio.create_task(order())
    await asyncio.wait_for(entered.wait(), 20)
    await client.aclose(patience=0.2)
    with pytest.raises(OutcomeUnknownError):
        await ordering
    assert len(asyncio.all_tasks()) == 1, "nobody else works here any more"
    assert stock(engine) == (9, 1, 0)
    async with client, asyncio.timeout(8):  # less than a row that is still locked would be waited for
        while stock(engine) != (9, 0, 1):
            await asyncio.sleep(0.02)


async def _nothing() -> None:
    """Neither confirm nor cancel has anything to do."""
