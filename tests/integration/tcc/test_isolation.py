"""What is stuck holds up the second phases of nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from txcoord_proto.status import Wait
from txcoord_sdk import Client, GlobalTransaction, tcc
from txcoord_sdk.context import enter, leave
from txcoord_sdk.tcc.decorator import Try
from txcoord_sdk.testing import wait_until
from txcoord_sdk.transaction.effects import adrive, drive

from tests.integration.tcc.conftest import create_stock, move, stock
from tests.integration.tcc.test_branches import nothing

MANY = 20
"""More than any pool of threads that they could have in common."""


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    made = tuple(create_engine(f"sqlite:///{tmp_path}/{name}.db") for name in "ab")
    for engine in made:
        create_stock(engine)
    yield made[0], made[1]
    for engine in made:
        engine.dispose()


def begun(client: Client, action: Callable[[], Any]) -> GlobalTransaction:
    """A transaction in which `action` has been called."""
    transaction = client.new_transaction("order", 60, "", 0)
    token = enter(transaction)
    action()
    leave(token)
    return transaction


def test_a_locked_database_does_not_hold_up_another(client: Client, engines: tuple[Engine, Engine]) -> None:
    a, b = engines
    client.bind(a, name="a")
    client.bind(b, name="b")
    on_a, on_b = (take_from(client, name) for name in "ab")
    waiting = [begun(client, lambda: on_a(0)) for _ in range(MANY)]
    healthy = begun(client, on_b)
    with a.connect() as other:
        other.execute(text("BEGIN IMMEDIATE"))
        for transaction in waiting:
            drive(transaction.commit_steps(Wait.DECIDED))
        wait_until(lambda: client.databases.get("a")._gate._value == 0, what="confirms that wait for the lock")
        healthy.commit()
        assert healthy.settled, "before the coordinator gave up waiting"
        assert stock(b) == (9, 0, 1)
        other.rollback()
    wait_until(lambda: all(client.status(one.known_xid).settled_at for one in waiting), timeout=30, what="the others")


def take_from(client: Client, database: str) -> Try[..., None]:
    @tcc(f"take-{database}", client=client, database=database)
    def take(conn: Connection, quantity: int = 1) -> None:
        move(conn, -quantity, quantity, 0)

    @take.confirm
    def _confirm(conn: Connection, quantity: int) -> None:
        move(conn, 0, -quantity, quantity)

    take.cancel(nothing)
    return take


def test_an_action_that_is_stuck_does_not_hold_up_another(client: Client) -> None:
    stuck, ran = threading.Event(), list[str]()
    hangs, works = (outside(client, name, wait, ran) for name, wait in (("hangs", stuck.wait), ("works", nothing)))
    waiting = [begun(client, hangs) for _ in range(MANY)]
    healthy = begun(client, works)
    try:
        for transaction in waiting:
            drive(transaction.commit_steps(Wait.DECIDED))
        wait_until(lambda: "hangs" in ran, what="a confirm that hangs")
        healthy.commit()
        assert healthy.settled
    finally:
        stuck.set()


async def test_plain_confirms_of_async_actions_do_not_hold_up_each_other_or_the_application(client: Client) -> None:
    stuck, ran = threading.Event(), list[str]()
    hangs, works = (outside_async(client, name, wait, ran) for name, wait in (("hangs", stuck.wait), ("works", nothing)))
    client.start()
    try:
        for _ in range(2 * MANY):
            transaction = client.new_transaction("order", 60, "", 0)
            token = enter(transaction)
            await hangs()
            leave(token)
            await adrive(transaction.commit_steps(Wait.DECIDED))
        while "hangs" not in ran:
            await asyncio.sleep(0.01)
        async with client.global_transaction(name="order") as healthy:
            await works()
        assert healthy.settled
        async with asyncio.timeout(5):
            await asyncio.to_thread(nothing)
    finally:
        stuck.set()


def outside(client: Client, name: str, confirm: Callable[[], object], ran: list[str]) -> Try[..., None]:
    @tcc(name, client=client)
    def act() -> None:
        """Nothing to do."""

    act.cancel(nothing)
    confirmed_by(act, name, confirm, ran)
    return act


def outside_async(client: Client, name: str, confirm: Callable[[], object], ran: list[str]) -> Try[..., Any]:
    @tcc(name, client=client)
    async def act() -> None:
        """Nothing to do."""

    @act.cancel
    async def _cancel() -> None:
        """Nothing to undo."""

    confirmed_by(act, name, confirm, ran)
    return act


def confirmed_by(act: Try[..., Any], name: str, confirm: Callable[[], object], ran: list[str]) -> None:
    @act.confirm
    def _confirm() -> None:
        ran.append(name)
        confirm()
