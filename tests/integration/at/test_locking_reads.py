"""SELECT ... FOR UPDATE and its kin in global transactions: who waits for whom, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from txcoord_proto.errors import LockConflictError
from txcoord_rm import global_lock

from tests.integration.at.test_isolation import ACCOUNT, run
from tests.integration.at.test_locks import SECONDS, Holder, balances, pay, waits
from tests.integration.at.world import World


def lock(where: str, how: str = "FOR UPDATE") -> Callable[[Session], None]:
    """A read that locks."""
    return run(f"SELECT balance FROM account WHERE {where} {how}")


def test_a_read_for_update_outside_waits_where_it_respects_global_locks(bank: World, pool: ThreadPoolExecutor) -> None:
    def outside() -> int:
        with global_lock(), Session(bank.engine) as session:
            query = select(ACCOUNT.c.balance).where(ACCOUNT.c.id == 1).with_for_update()
            return int(session.execute(query).scalar_one())

    holder = Holder(bank, pool, pay(1, 10))
    second = pool.submit(outside)
    time.sleep(0.3)
    assert not second.done()
    holder.end(undo=True)
    assert second.result(SECONDS) == 100


@pytest.mark.parametrize(("where", "how"), [("id = 1", "FOR UPDATE"), ("owner = 'ann'", "FOR UPDATE"), ("id = 1", "FOR SHARE")])
def test_a_row_that_was_locked_is_not_changed_until_the_end(bank: World, pool: ThreadPoolExecutor, where: str, how: str) -> None:
    if bank.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no locking clause")
    shared = how == "FOR SHARE" and bank.engine.dialect.name != "postgresql"
    holder = Holder(bank, pool, lock(where, "LOCK IN SHARE MODE" if shared else how))
    assert bank.undo_rows() == []
    second = pool.submit(bank.globally, pay(1, 1))
    waits(bank, second)
    assert balances(bank)[0] == 100
    holder.end()
    second.result(SECONDS)
    assert balances(bank)[0] == 101


def test_a_read_that_was_told_not_to_wait_does_not(bank: World, pool: ThreadPoolExecutor) -> None:
    if bank.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no locking clause")
    holder = Holder(bank, pool, pay(1, 10))
    began = time.monotonic()
    for where in ("id = 1", "id + 0 = 1"):
        with pytest.raises(LockConflictError):
            bank.globally(lock(where, "FOR UPDATE NOWAIT"))
    assert time.monotonic() - began < 5.0
    holder.end()


@pytest.mark.parametrize("where", ["id = 2", "owner = 'bob'"])
def test_who_may_wait_behind_a_read_that_locks(bank: World, pool: ThreadPoolExecutor, where: str) -> None:
    """MariaDB has locked all that it scanned, for which the rollback of the other one would wait."""
    if bank.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no locking clause")

    def both(session: Session) -> None:
        lock(where)(session)
        lock("id = 1")(session)
        pay(1, 1)(session)

    holder = Holder(bank, pool, pay(3, 10))
    second = Holder(bank, pool, pay(1, 10))
    third = pool.submit(bank.globally, both)
    if bank.engine.dialect.name == "postgresql" or "id" in where:
        waits(bank, third)
        second.end(undo=True)
        third.result(SECONDS)
        assert balances(bank)[0] == 101
    else:
        assert isinstance(third.exception(SECONDS), LockConflictError)
        second.end(undo=True)
        assert balances(bank)[0] == 100
    assert second.ended_in < 1.0
    holder.end(undo=True)
