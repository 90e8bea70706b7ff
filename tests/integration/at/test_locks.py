"""A row that one global transaction has written is its own until it ends, and nobody waits for it in a way that holds it up."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from txcoord_proto.errors import DeadlinePassedError, LockConflictError, RolledBackError

from tests.integration.at.world import World

SECONDS = 20


def pay(account: int, amount: int, by_key: bool = True) -> Callable[[Session], None]:
    """A statement whose row is known from its text, or not."""
    where = "id = :id" if by_key else "id + 0 = :id"

    def work(session: Session) -> None:
        session.execute(text(f"UPDATE account SET balance = balance + :amount WHERE {where}"), {"id": account, "amount": amount})

    return work


def balances(world: World) -> list[int]:
    return [balance for (balance,) in world.rows("SELECT balance FROM account ORDER BY id")]


class Holder:
    """A global transaction that has written in local transactions of its own, and ends when it is told."""

    def __init__(self, world: World, pool: ThreadPoolExecutor, *works: Callable[[Session], None]) -> None:
        self._written, self._end = Event(), Event()
        self.undo = False
        self.ended_in = 0.0
        self._future = pool.submit(self._run, world, works)
        assert self._written.wait(SECONDS), self._future.exception(0)

    def _run(self, world: World, works: tuple[Callable[[Session], None], ...]) -> None:
        transaction = world.client.global_transaction(name="holder")
        try:
            with transaction:
                for work in works:
                    with Session(world.engine) as session:
                        work(session)
                        session.commit()
                self._written.set()
                assert self._end.wait(SECONDS)
                began = time.monotonic()
                if self.undo:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        self.ended_in = time.monotonic() - began

    def end(self, undo: bool = False) -> None:
        self.undo = undo
        self._end.set()
        self._future.result(SECONDS)


def waits(world: World, future: Future[Any]) -> None:
    """Wait until somebody waits for a global lock."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and not future.done():
        if world.waiters():
            return
        time.sleep(0.01)
    raise AssertionError(f"nobody waits: {future}")


@pytest.mark.parametrize("by_key", [True, False])
@pytest.mark.parametrize("undo", [False, True])
def test_the_second_waits_for_the_first(bank: World, pool: ThreadPoolExecutor, by_key: bool, undo: bool) -> None:
    holder = Holder(bank, pool, pay(1, 10))
    second = pool.submit(bank.globally, pay(1, 1, by_key))
    waits(bank, second)
    holder.end(undo)
    second.result(SECONDS)
    assert balances(bank) == [101 if undo else 111, 100, 100]


@pytest.mark.parametrize("by_key", [True, False])
def test_a_waiter_that_has_written_does_not_hold_up_the_rollback(bank: World, pool: ThreadPoolExecutor, by_key: bool) -> None:
    def both(session: Session) -> None:
        pay(2, 5)(session)
        pay(1, 1, by_key)(session)

    holder = Holder(bank, pool, pay(1, 10))
    second = pool.submit(bank.globally, both)
    if bank.resource.capture.waits:
        waits(bank, second)
        holder.end(undo=True)
        second.result(SECONDS)
    else:
        assert isinstance(second.exception(SECONDS), LockConflictError)
        holder.end(undo=True)
    assert balances(bank) == ([101, 105, 100] if bank.resource.capture.waits else [100, 100, 100])
    assert holder.ended_in < 1.0


@pytest.mark.parametrize("by_key", [True, False])
def test_who_has_only_read_may_wait(bank: World, pool: ThreadPoolExecutor, by_key: bool) -> None:
    def look_and_pay(session: Session) -> None:
        assert session.execute(text("SELECT owner FROM account WHERE id = 2")).one() == ("bob",)
        pay(1, 1, by_key)(session)

    if bank.engine.dialect.name == "mysql" and not by_key:
        pytest.skip("MariaDB waits only for rows named by their keys")
    holder = Holder(bank, pool, pay(1, 10))
    second = pool.submit(bank.globally, look_and_pay)
    waits(bank, second)
    holder.end(undo=True)
    second.result(SECONDS)
    assert balances(bank) == [101, 100, 100]
    assert holder.ended_in < 1.0


@pytest.mark.parametrize("sync_world", ["sqlite+pysqlite"], indirect=True)
def test_who_is_still_reading_from_sqlite_does_not_wait(bank: World, pool: ThreadPoolExecutor) -> None:
    def pay_while_looking(session: Session) -> None:
        rows = session.execute(text("SELECT id FROM account UNION ALL SELECT id FROM account"))
        assert rows.fetchone() is not None
        pay(1, 1)(session)

    holder = Holder(bank, pool, pay(1, 10))
    began = time.monotonic()
    with pytest.raises(LockConflictError):
        bank.globally(pay_while_looking)
    assert time.monotonic() - began < bank.resource.lock_wait / 2
    holder.end(undo=True)
    assert balances(bank) == [100, 100, 100]
    assert holder.ended_in < 1.0


@pytest.mark.parametrize("by_key", [True, False])
def test_a_waiter_that_has_locked_more_than_it_wrote_does_not_hold_up_the_rollback(
    bank: World, pool: ThreadPoolExecutor, by_key: bool
) -> None:
    def scan_and_pay(session: Session) -> None:
        pay(2, 5, by_key=False)(session)
        pay(1, 1, by_key)(session)

    holder = Holder(bank, pool, pay(1, 10))
    second = pool.submit(bank.globally, scan_and_pay)
    if bank.resource.capture.savepoints is not None:
        waits(bank, second)
    else:
        assert isinstance(second.exception(bank.resource.lock_wait / 2), LockConflictError), "it holds rows of the other one"
    holder.end(undo=True)
    assert holder.ended_in < 1.0
    if bank.resource.capture.savepoints is not None:
        second.result(SECONDS)


@pytest.mark.parametrize("sync_world", ["mariadb+pymysql"], indirect=True)
@pytest.mark.parametrize("by_key", [True, False])
@pytest.mark.parametrize("reads", [True, False])
def test_at_serializable_nobody_waits_who_has_read(bank: World, pool: ThreadPoolExecutor, by_key: bool, reads: bool) -> None:
    engine = bank.engine.execution_options(isolation_level="SERIALIZABLE")

    def globally() -> None:
        with bank.client.global_transaction(name="serializable"), Session(engine) as session:
            if reads:
                session.execute(text("SELECT owner FROM account WHERE id = 1")).all()
            pay(1, 1, by_key)(session)
            session.commit()

    holder = Holder(bank, pool, pay(1, 10))
    second = pool.submit(globally)
    if reads:
        assert isinstance(second.exception(bank.resource.lock_wait / 2), LockConflictError)
    else:
        waits(bank, second)
    holder.end(undo=True)
    assert holder.ended_in < 1.0
    if not reads:
        second.result(SECONDS)
    assert balances(bank) == [100 if reads else 101, 100, 100]


def test_a_row_that_is_held_is_told_after_the_lock_wait(bank: World, pool: ThreadPoolExecutor) -> None:
    holder = Holder(bank, pool, pay(1, 10))
    bank.resource.lock_wait = 0.2
    with pytest.raises(LockConflictError) as caught:
        bank.globally(pay(2, 5), pay(1, 1))
    assert caught.value.retryable
    assert "account(id)=(1)" in str(caught.value)
    holder.end()
    assert balances(bank) == [110, 100, 100]


def test_a_circle_is_found_at_once_and_its_younger_member_gives_way(bank: World, pool: ThreadPoolExecutor) -> None:
    began = time.monotonic()
    first_has, second_has = Event(), Event()

    def first(session: Session) -> None:
        first_has.set()
        assert second_has.wait(SECONDS)
        pay(2, 1)(session)

    def second(session: Session) -> None:
        second_has.set()
        assert first_has.wait(SECONDS)
        pay(1, 1)(session)

    one = pool.submit(bank.globally, pay(1, 1), first)
    assert first_has.wait(SECONDS)
    other = pool.submit(bank.globally, pay(2, 1), second)
    errors = [e for future in (one, other) if (e := future.exception(SECONDS)) is not None]
    assert len(errors) == 1
    assert isinstance(errors[0], (LockConflictError, RolledBackError)), repr(errors[0])
    assert balances(bank) == [101, 101, 100]
    assert time.monotonic() - began < 5.0


def test_nobody_waits_for_a_row_of_others_beyond_the_deadline(bank: World, pool: ThreadPoolExecutor) -> None:
    def wait_for_it() -> None:
        with bank.client.global_transaction(name="late", timeout=1.0), Session(bank.engine) as session:
            pay(1, 1)(session)
            session.commit()

    if bank.engine.dialect.name == "sqlite":
        pytest.skip("SQLite itself waits, as long as its busy time-out says")
    with bank.outside.begin() as connection:  # somebody who knows nothing of global transactions
        connection.execute(text("UPDATE account SET balance = 50 WHERE id = 1"))
        began = time.monotonic()
        assert isinstance(pool.submit(wait_for_it).exception(SECONDS), DeadlinePassedError)
        assert time.monotonic() - began < 5.0
    assert balances(bank) == [50, 100, 100]
