"""One engine in both modes: XA by block takes the same global locks as AT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from txcoord_proto.errors import ConfigurationError, LockConflictError, UnsupportedSqlError
from txcoord_rm import enroll, mode
from txcoord_rm.xa.hook import xa_of_engine
from txcoord_sdk import Client, GlobalTransaction
from txcoord_sdk.context import entered
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.at.world import Undo, World
from tests.integration.xa.book import balances, fences, pay, prepared
from tests.integration.xa.conftest import make_world


@pytest.fixture(params=["postgres+psycopg", "postgres18+psycopg"])
def both(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[World]:
    """An engine in AT mode."""
    yield from make_world(request, request.param, connected, coordinator, mode="at")


def kinds(world: World) -> list[str]:
    """Of the branches of the last transaction."""
    assert world.last is not None
    return sorted(str(branch.type) for branch in world.client.status(world.last.known_xid).branches)


@pytest.mark.parametrize("undo", [False, True])
def test_a_transaction_in_both_modes(both: World, undo: bool) -> None:
    seen: list[list[int]] = []

    def in_xa(session: Session) -> None:
        with mode("xa"):
            pay(2, 5)(session)
            pay(3, 7)(session)

    def look(_: Session) -> None:
        seen.append(balances(both))

    both.globally(pay(1, 10), in_xa, look, undo=undo)
    assert seen == [[110, 100, 100]], "AT has committed, XA has not"
    assert balances(both) == ([100, 100, 100] if undo else [110, 105, 107])
    assert kinds(both)[:2] != kinds(both)[-2:]
    assert prepared(both) == []
    assert fences(both) == ([] if undo else ["TRIED"])
    wait_until(lambda: both.undo_rows() == [] or undo, 10, "the deletion of undo records")


def test_a_row_that_at_has_written_is_waited_for(both: World) -> None:
    written, end = Event(), Event()

    def at() -> None:
        try:
            with both.client.global_transaction():
                with Session(both.engine) as session:
                    pay(1, 10)(session)
                    session.commit()
                written.set()
                assert end.wait(20)
                raise Undo
        except Undo:
            pass

    def xa() -> None:
        with both.client.global_transaction(), mode("xa"), Session(both.engine) as session:
            pay(1, 1)(session)
            session.commit()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(at)
        assert written.wait(20)
        second = pool.submit(xa)
        wait_until(lambda: both.waiters() or second.done(), 20, "a waiter")
        assert not second.done(), second
        end.set()
        first.result(20)
        second.result(20)
    assert balances(both) == [101, 100, 100]


def test_a_row_that_xa_has_written_is_not_at_s(both: World) -> None:
    both.resource.lock_wait = 0.2
    with both.client.global_transaction():
        with mode("xa"), Session(both.engine) as session:
            pay(1, 10)(session)
            session.commit()
        other = both.client.new_transaction("other", 20.0, "", 0)
        with pytest.raises(LockConflictError, match=r"account\(id\)=\(1\)"):
            in_other(both, other)
        other.rollback()
    assert balances(both) == [110, 100, 100]


def in_other(world: World, transaction: GlobalTransaction) -> None:
    with entered(transaction), Session(world.engine) as session:
        pay(1, 1)(session)


def test_a_local_transaction_keeps_its_mode(both: World) -> None:
    with both.client.global_transaction() as both.last:
        with Session(both.engine) as session:
            with mode("xa"):
                pay(1, 10)(session)
            pay(2, 10)(session)
            session.commit()
        assert balances(both) == [100, 100, 100]
    assert balances(both) == [110, 110, 100]


def test_savepoints_and_what_is_refused(both: World) -> None:
    def work(session: Session) -> None:
        inner = session.begin_nested()
        pay(1, 50)(session)
        inner.rollback()
        pay(1, 1)(session)
        with pytest.raises((UnsupportedSqlError, ConfigurationError), match="unseen"):
            session.execute(text("COMMIT"))
        with pytest.raises((UnsupportedSqlError, ConfigurationError), match="unseen"):
            session.execute(text("PREPARE TRANSACTION 'mine'"))

    with mode("xa"):
        both.globally(work)
    assert balances(both) == [101, 100, 100]
    with mode("xa"), both.client.global_transaction(), both.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            connection.execute(text("UPDATE account SET balance = 0"))
    assert balances(both) == [101, 100, 100]


def test_two_engines_of_one_database_take_the_same_locks(both: World, connected: Callable[..., Client]) -> None:
    second = create_engine(both.outside.url)
    enroll(second, connected(), mode="xa")
    found = xa_of_engine(second)
    assert found is not None
    assert found.locks
    second.dispose()


def test_at_in_a_block_of_xa(sync_world: World) -> None:
    with mode("at"), pytest.raises(ConfigurationError, match="has no undo log"):
        sync_world.globally(pay(1, 10))
    assert balances(sync_world) == [100, 100, 100]
