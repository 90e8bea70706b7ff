"""TCC from the decorator to the database and back, through a real coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from txcoord_sdk import Client, NoTransactionError, RolledBackError, connect, current, tcc
from txcoord_sdk.tcc.decorator import Try
from txcoord_sdk.testing import CoordinatorProcess, wait_until


@pytest.fixture
def client(txcoord_coordinator: CoordinatorProcess) -> Iterator[Client]:
    client = connect(txcoord_coordinator.address, service="stock")
    yield client
    client.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/stock.db")
    with engine.begin() as c:
        c.execute(text("PRAGMA journal_mode=WAL"))
        c.execute(text("CREATE TABLE stock (sku text PRIMARY KEY, free int CHECK (free >= 0), reserved int, sold int)"))
        c.execute(text("INSERT INTO stock VALUES ('a', 10, 0, 0)"))
    yield engine
    engine.dispose()


def row(engine: Engine) -> tuple[int, int, int]:
    with engine.connect() as c:
        free, reserved, sold = c.execute(text("SELECT free, reserved, sold FROM stock")).one()
        return free, reserved, sold


MOVE = "UPDATE stock SET free = free - :free, reserved = reserved + :reserved, sold = sold + :sold WHERE sku = :sku"


def action(client: Client, name: str = "reserve", session: bool = False) -> Try[..., None]:
    kind = Session if session else Connection

    def attempt(conn, sku: str, quantity: int) -> None:  # type: ignore[no-untyped-def]
        conn.execute(text(MOVE), {"sku": sku, "free": quantity, "reserved": quantity, "sold": 0})

    attempt.__annotations__["conn"] = kind
    made: Try[..., None] = tcc(name, client=client)(attempt)

    @made.confirm
    def _confirm(conn: Connection, sku: str, quantity: int) -> None:
        conn.execute(text(MOVE), {"sku": sku, "free": 0, "reserved": -quantity, "sold": quantity})

    @made.cancel
    def _cancel(conn: Connection, sku: str, quantity: int) -> None:
        conn.execute(text(MOVE), {"sku": sku, "free": -quantity, "reserved": -quantity, "sold": 0})

    return made


@pytest.mark.parametrize("session", [False, True])
def test_commit_confirms_and_failure_cancels(client: Client, engine: Engine, session: bool) -> None:
    client.bind(engine)
    reserve = action(client, session=session)

    @client.global_transaction
    def order(quantity: int, fail: bool = False) -> str:
        reserve(sku="a", quantity=quantity)
        if fail:
            raise ValueError("changed my mind")
        transaction = current()
        assert transaction is not None
        return transaction.known_xid

    xid = order(3)
    assert row(engine) == (7, 0, 3)
    assert client.status(xid).decision == "COMMIT"
    with pytest.raises(ValueError, match="changed my mind"):
        order(2, fail=True)
    assert row(engine) == (7, 0, 3)
    with engine.connect() as c:
        states = sorted(c.scalars(text("SELECT state FROM txcoord_fence")))
    assert states == ["CANCELLED", "CONFIRMED"]


def test_a_failed_try_leaves_nothing_and_may_be_caught(client: Client, engine: Engine) -> None:
    client.bind(engine)
    reserve = action(client)

    @client.global_transaction
    def order() -> None:
        reserve(sku="a", quantity=4)
        with pytest.raises(Exception, match="CHECK constraint"):
            reserve(sku="a", quantity=40)

    order()
    assert row(engine) == (6, 0, 4)


def test_the_fence_joins_the_callers_session(client: Client, engine: Engine) -> None:
    client.bind(engine)
    reserve = action(client, session=True)
    with client.global_transaction(name="block") as transaction, Session(engine) as session, session.begin():
        reserve(session, "a", 1)
        with pytest.raises(Exception, match="cannot be committed while a local transaction"):
            transaction.commit()
    assert row(engine) == (9, 0, 1)


def test_the_callers_rollback_is_reported_and_the_rest_commits(client: Client, engine: Engine) -> None:
    client.bind(engine)
    reserve = action(client, session=True)
    with client.global_transaction(name="block") as transaction:
        with Session(engine) as session:
            reserve(session, "a", 5)
            session.rollback()
        reserve(sku="a", quantity=2)
    assert row(engine) == (8, 0, 2)
    branches = client.status(transaction.known_xid).branches
    assert sorted(b.status for b in branches) == ["FAILED", "SETTLED"]


def test_half_a_try_cannot_be_committed(client: Client, engine: Engine) -> None:
    client.bind(engine)

    @tcc("half", client=client)
    def half(session: Session, sku: str) -> None:
        session.execute(text(MOVE), {"sku": sku, "free": 1, "reserved": 1, "sold": 0})
        raise ValueError("half way")

    half.confirm(lambda: None)
    half.cancel(lambda: None)

    def order() -> None:
        with client.global_transaction(), Session(engine) as session:
            with pytest.raises(ValueError, match="half way"):
                half(session, "a")
            session.commit()

    with pytest.raises(Exception, match="may hold half of it"):
        order()
    assert row(engine) == (10, 0, 0)


def test_a_savepoint_ends_its_branch(client: Client, engine: Engine) -> None:
    client.bind(engine)
    reserve = action(client, session=True)
    with client.global_transaction(name="block") as transaction, Session(engine) as session, session.begin():
        reserve(session, "a", 1)
        inner = session.begin_nested()
        reserve(session, "a", 5)
        inner.rollback()
    assert row(engine) == (9, 0, 1)
    assert sorted(b.status for b in client.status(transaction.known_xid).branches) == ["FAILED", "SETTLED"]


def test_outside_a_global_transaction_a_try_says_what_to_do(client: Client, engine: Engine) -> None:
    client.bind(engine)
    with pytest.raises(NoTransactionError, match="call it within @global_transaction"):
        action(client)(sku="a", quantity=1)


def test_a_transaction_past_its_deadline_is_told_so(client: Client, engine: Engine) -> None:
    client.bind(engine)
    reserve = action(client)

    @client.global_transaction(timeout=0.5)
    def slow() -> None:
        reserve(sku="a", quantity=1)
        wait_until(lambda: row(engine) == (10, 0, 0), what="the rollback at the deadline")

    with pytest.raises(RolledBackError) as caught:
        slow()
    assert caught.value.reason == "TIMEOUT"


def test_a_restarted_process_without_traffic_finishes_second_phases(
    client: Client, engine: Engine, txcoord_coordinator: CoordinatorProcess
) -> None:
    client.bind(engine)
    reserve = action(client)
    with client.global_transaction(name="block") as transaction:
        reserve(sku="a", quantity=1)
        xid = transaction.known_xid
        client.close()  # as if the process had died before commit, and another came up
        other = connect(txcoord_coordinator.address, service="stock")
        other.bind(engine)
        action(other)
        other.start()
        transaction._requests = other
    assert row(engine) == (9, 0, 1)
    assert other.status(xid).status
    other.close()


# ---------------------------------------------------------------- asyncio


async def test_async(txcoord_coordinator: CoordinatorProcess, engine: Engine) -> None:
    client = connect(txcoord_coordinator.address, service="stock")
    database = create_async_engine(str(engine.url).replace("sqlite:", "sqlite+aiosqlite:"))
    client.bind(database)

    @tcc("areserve", client=client)
    async def reserve(conn: AsyncConnection, sku: str, quantity: int) -> None:
        await conn.execute(text(MOVE), {"sku": sku, "free": quantity, "reserved": quantity, "sold": 0})

    @reserve.confirm
    async def _confirm(conn: AsyncSession, sku: str, quantity: int) -> None:
        await conn.execute(text(MOVE), {"sku": sku, "free": 0, "reserved": -quantity, "sold": quantity})

    @reserve.cancel
    async def _cancel(conn: AsyncConnection, sku: str, quantity: int) -> None:
        await conn.execute(text(MOVE), {"sku": sku, "free": -quantity, "reserved": -quantity, "sold": 0})

    @client.global_transaction(name="order", key="order:{number}")
    async def order(number: int, fail: bool = False) -> None:
        await reserve(sku="a", quantity=1)
        if fail:
            raise ValueError("no")

    async with client:
        await order(7)
        assert row(engine) == (9, 0, 1)
        with pytest.raises(ValueError, match="no"):
            await order(8, fail=True)
        assert row(engine) == (9, 0, 1)
        assert (await client.astatus(key="order:7")).decision == "COMMIT"
        with pytest.raises(asyncio.CancelledError):
            await cancelled(client, reserve)
        assert row(engine) == (9, 0, 1)
    await database.dispose()


async def cancelled(client: Client, reserve: Try[..., object]) -> None:
    @client.global_transaction
    async def order() -> None:
        await reserve(sku="a", quantity=1)  # type: ignore[misc]
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    await asyncio.create_task(order())
