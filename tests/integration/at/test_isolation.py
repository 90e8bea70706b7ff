"""What reads of a global transaction see of another that is rolled back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import cast

import pytest
from sqlalchemy import Engine, Table, create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool
from txcoord_proto.errors import ConfigurationError, LockConflictError, RolledBackError, UnsupportedSqlError
from txcoord_rm import enroll, global_lock, isolation
from txcoord_sdk import current_headers, joined, resume
from txcoord_sdk.testing import wait_until

from tests.integration.at.test_locks import SECONDS, Holder, balances, pay, waits
from tests.integration.at.world import World


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]
    balance: Mapped[int]


ACCOUNT = cast(Table, Account.__table__)


def read_and_write(session: Session, locked: bool = False) -> int:
    """What an ORM does: read, compute, write the result."""
    query = select(ACCOUNT.c.balance).where(ACCOUNT.c.id == 1)
    balance: int = session.execute(query.with_for_update() if locked else query).scalar_one()
    session.execute(ACCOUNT.update().where(ACCOUNT.c.id == 1).values(balance=balance + 1))
    return balance


def committed(session: Session) -> int:
    with isolation("read_committed"):
        return read_and_write(session)


def serializable(session: Session) -> int:
    with isolation("serializable"):
        return read_and_write(session)


def for_update(session: Session) -> int:
    return read_and_write(session, locked=True)


def by_the_orm(session: Session) -> int:
    account = session.get_one(Account, 1, with_for_update=True)
    account.balance += 1
    return account.balance - 1


def relative(session: Session) -> int:
    pay(1, 1)(session)
    return 100


@pytest.mark.parametrize("work", [committed, serializable, for_update, by_the_orm, relative])
def test_a_value_that_is_taken_back_is_not_built_upon(
    bank: World, pool: ThreadPoolExecutor, work: Callable[[Session], int]
) -> None:
    holder = Holder(bank, pool, pay(1, 10))
    second = pool.submit(bank.globally, work)
    waits(bank, second)
    holder.end(undo=True)
    assert second.result(SECONDS) == [100]
    assert balances(bank)[0] == 101


def test_read_uncommitted_builds_upon_it(bank: World, pool: ThreadPoolExecutor) -> None:
    if bank.engine.dialect.name != "postgresql":
        pytest.skip("whether the writer behind the read may wait differs")
    holder = Holder(bank, pool, pay(1, 10))
    second = pool.submit(bank.globally, read_and_write)
    waits(bank, second)
    holder.end(undo=True)
    assert second.result(SECONDS) == [110]
    assert balances(bank)[0] == 111


@pytest.mark.parametrize("level", ["read_committed", "serializable"])
def test_a_row_that_was_read_is_not_changed_until_the_end(bank: World, pool: ThreadPoolExecutor, level: str) -> None:
    def read(session: Session) -> None:
        with isolation(level):
            assert session.execute(select(ACCOUNT.c.balance).where(ACCOUNT.c.id == 1)).scalar_one() == 100

    holder = Holder(bank, pool, read)
    second = pool.submit(bank.globally, pay(1, 1))
    waits(bank, second)
    assert balances(bank)[0] == 100
    holder.end()
    second.result(SECONDS)
    assert balances(bank)[0] == 101


def at(level: str, *works: Callable[[Session], None]) -> Callable[[Session], None]:
    def work(session: Session) -> None:
        with isolation(level):
            for each in works:
                each(session)

    return work


def rich(session: Session) -> None:
    """Who has more than 150?"""
    session.execute(text("SELECT owner FROM account WHERE balance > 150")).all()


def insert(session: Session) -> None:
    session.execute(text("INSERT INTO account VALUES (4, 'dan', 200)"))


def delete(session: Session) -> None:
    session.execute(text("DELETE FROM account WHERE id = 2"))


@pytest.mark.parametrize("write", [insert, pay(1, 100), delete])
def test_nothing_comes_or_goes_for_a_serializable_read(
    bank: World, pool: ThreadPoolExecutor, write: Callable[[Session], None]
) -> None:
    for level in ("read_committed", "serializable"):
        holder = Holder(bank, pool, at(level, rich))
        second = pool.submit(bank.globally, at(level, write), undo=True)
        if level == "serializable":
            waits(bank, second)
            assert len(bank.rows("SELECT id FROM account")) == 3
            holder.end()
        second.result(SECONDS)
        if level == "read_committed":
            holder.end()
        assert balances(bank) == [100, 100, 100]


def test_serializable_reads_by_key_hold_their_rows_only(bank: World, pool: ThreadPoolExecutor) -> None:
    holder = Holder(bank, pool, at("serializable", by_key(1)))
    bank.globally(at("serializable", by_key(2), pay(3, 1)))
    missing = pool.submit(bank.globally, at("serializable", pay(1, 1)))
    waits(bank, missing)
    holder.end()
    missing.result(SECONDS)
    assert balances(bank) == [101, 100, 101]


def by_key(account: int) -> Callable[[Session], None]:
    def read(session: Session) -> None:
        session.execute(select(ACCOUNT).where(ACCOUNT.c.id == account)).all()

    return read


def test_a_row_that_was_missing_does_not_come_for_a_serializable_read(bank: World, pool: ThreadPoolExecutor) -> None:
    holder = Holder(bank, pool, at("serializable", by_key(4)))
    second = pool.submit(bank.globally, at("read_committed", insert))
    assert isinstance(second.exception(SECONDS), LockConflictError) == (bank.engine.dialect.name != "sqlite")
    holder.end()
    assert len(balances(bank)) == 3 + (bank.engine.dialect.name == "sqlite")


def test_two_that_read_and_then_write_are_not_both_committed(bank: World, pool: ThreadPoolExecutor) -> None:
    """Write skew: each looks that the other has money, and takes his own. The younger one of the circle gives way."""
    read = Barrier(2)

    def skew(mine: int, other: int) -> None:
        with bank.client.global_transaction(name="skew"), isolation("serializable"), Session(bank.engine) as session:
            if session.execute(select(ACCOUNT.c.balance).where(ACCOUNT.c.id == other)).scalar_one() < 100:
                return
            if bank.engine.dialect.name == "sqlite":
                session.commit()  # who has the file may not wait for others, and others not for him
            read.wait(SECONDS)
            pay(mine, -100)(session)
            session.commit()

    futures = [pool.submit(skew, 1, 2), pool.submit(skew, 2, 1)]
    errors = [error for future in futures if (error := future.exception(SECONDS)) is not None]
    assert len(errors) == 1
    assert isinstance(errors[0], (LockConflictError, RolledBackError)), repr(errors[0])
    assert sorted(balances(bank)) == [0, 100, 100]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE account SET balance = (SELECT 5) WHERE id = 1",
        "INSERT INTO account SELECT 9, 'x', 1",
        "DELETE FROM account WHERE id IN (SELECT 2)",
        "SELECT id FROM account WHERE id IN (SELECT 2)",
    ],
)
def test_what_reads_beside_its_rows_is_not_serializable(accounts: World, sql: str) -> None:
    with pytest.raises(UnsupportedSqlError, match="read_"):
        accounts.globally(at("serializable", lambda session: session.execute(text(sql)) and None))
    assert [balance for (balance,) in accounts.rows("SELECT balance FROM account")] == [100, 100, 100]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM account",
        "SELECT owner FROM account GROUP BY owner",
        "SELECT id FROM account WHERE id IN (SELECT id FROM account)",
        "WITH a AS (SELECT id FROM account) SELECT id FROM a",
        "SELECT id FROM account UNION SELECT 7",
        "SELECT a.id FROM account a LEFT JOIN account b ON a.id = b.id",
    ],
)
def test_reads_that_cannot_be_locked_are_refused(accounts: World, sql: str) -> None:
    def read(session: Session) -> None:
        with isolation("read_committed"):
            session.execute(text(sql)).all()

    with pytest.raises(UnsupportedSqlError, match="read_uncommitted"):
        accounts.globally(read)


def test_rows_on_every_driver(accounts: World) -> None:
    def read(session: Session) -> list[tuple[int, str]]:
        with isolation("read_committed"):
            assert session.execute(text("SELECT 1")).scalar_one() == 1
            return [tuple(row) for row in session.execute(text("SELECT id, owner FROM account WHERE id > :i"), {"i": 1})]

    assert sorted(accounts.globally(read)[0]) == [(2, "bob"), (3, "cid")]
    assert accounts.undo_rows() == []
    wait_until(lambda: accounts.status() == "COMMITTED", what="the second phase of what has only read")


def lock(where: str, how: str = "FOR UPDATE") -> Callable[[Session], None]:
    """A read that locks."""

    def read(session: Session) -> None:
        session.execute(text(f"SELECT balance FROM account WHERE {where} {how}")).all()

    return read


def test_a_read_for_update_outside_waits_where_it_respects_global_locks(bank: World, pool: ThreadPoolExecutor) -> None:
    def outside() -> int:
        with global_lock(), Session(bank.engine) as session:
            return session.execute(select(ACCOUNT.c.balance).where(ACCOUNT.c.id == 1).with_for_update()).scalar_one()

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


def test_an_unknown_isolation_is_an_error(bank: World) -> None:
    for wrong in (isolation, lambda name: bank.client.global_transaction(isolation=name), lambda name: enroll_again(bank, name)):
        with pytest.raises(ConfigurationError, match="read_committed"):
            wrong("snapshot")


def enroll_again(bank: World, level: str, mode: str = "at") -> Engine:
    """Another engine of the same database and client, with a level of its own."""
    engine = create_engine(bank.url, poolclass=NullPool)
    enroll(engine, bank.client, name="again", isolation=level, mode=mode)
    return engine


def test_an_engine_of_mode_xa_has_no_level(bank: World) -> None:
    with pytest.raises(ConfigurationError, match="global locks"):
        enroll_again(bank, "read_committed", "xa")


def test_an_engine_keeps_the_level_with_which_it_was_enrolled_first(bank: World) -> None:
    engine = enroll_again(bank, "read_committed")
    enroll(engine, bank.client)
    enroll(engine, bank.client, isolation="read_committed")
    with pytest.raises(ConfigurationError, match="enrolled first"):
        enroll(engine, bank.client, isolation="serializable")


def seen(engine: Engine) -> int:
    """What a plain read finds."""
    with Session(engine) as session:
        balance: int = session.execute(select(ACCOUNT.c.balance).where(ACCOUNT.c.id == 1)).scalar_one()
        session.commit()
    return balance


def by_decorator(bank: World) -> int:
    @bank.client.global_transaction(isolation="read_committed")
    def read() -> int:
        return seen(bank.engine)

    return read()


def by_joining(bank: World) -> int:
    @bank.client.global_transaction(isolation="read_committed")
    def read() -> int:
        return seen(bank.engine)

    with bank.client.global_transaction(name="outer"):
        return read()


def by_block(bank: World) -> int:
    with bank.client.global_transaction(isolation="serializable"):
        return seen(bank.engine)


def by_hand_in_a_thread(bank: World) -> int:
    with bank.client.global_transaction(isolation="serializable") as transaction, ThreadPoolExecutor(1) as thread:

        def read() -> int:
            with resume(transaction):
                return seen(bank.engine)

        return thread.submit(read).result(SECONDS)


def by_header(bank: World) -> int:
    with bank.client.global_transaction(isolation="read_committed"):
        headers = current_headers()
        with ThreadPoolExecutor(1) as callee:

            def serve() -> int:
                with joined(headers, client=bank.client):
                    return seen(bank.engine)

            return callee.submit(serve).result(SECONDS)


def by_engine(bank: World) -> int:
    engine = enroll_again(bank, "read_committed")
    with bank.client.global_transaction(name="default"):
        return seen(engine)


@pytest.mark.parametrize("read", [by_decorator, by_joining, by_block, by_hand_in_a_thread, by_header, by_engine])
def test_the_level_may_be_said_of_a_function_a_call_or_an_engine(
    bank: World, pool: ThreadPoolExecutor, read: Callable[[World], int]
) -> None:
    holder = Holder(bank, pool, pay(1, 10))
    reader = pool.submit(read, bank)
    waits(bank, reader)
    holder.end(undo=True)
    assert reader.result(SECONDS) == 100


def test_the_nearest_level_counts(bank: World, pool: ThreadPoolExecutor) -> None:
    def read() -> list[int]:
        engine = enroll_again(bank, "serializable")
        with isolation("read_committed"), bank.client.global_transaction(isolation="read_uncommitted"):
            found = [seen(engine)]
            with isolation("read_uncommitted"):
                return [*found, seen(bank.engine)]

    holder = Holder(bank, pool, pay(1, 10))
    assert pool.submit(read).result(SECONDS) == [110, 110]
    holder.end(undo=True)
