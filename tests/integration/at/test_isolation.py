"""What reads of a global transaction see of another that is rolled back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from threading import Barrier
from typing import Any, cast
from uuid import uuid4

import pytest
from sqlalchemy import Table, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.orm.exc import StaleDataError
from txcoord_proto.errors import LockConflictError, RolledBackError, UnsupportedSqlError
from txcoord_rm import isolation
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


class Versioned(Base):
    __tablename__ = "versioned"
    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]
    version: Mapped[str] = mapped_column()
    __mapper_args__ = {  # noqa: RUF012 - so SQLAlchemy declares it
        "version_id_col": version,
        "version_id_generator": lambda _: uuid4().hex,
    }


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


def read_then_write(session: Session, between: Callable[[], None]) -> None:
    account = session.get_one(Account, 1)
    between()
    account.balance += 1  # UPDATE account SET balance = 111


def read_then_write_relatively(session: Session, between: Callable[[], None]) -> None:
    session.get_one(Account, 1)
    between()
    pay(1, 1)(session)


def read_then_write_versioned(session: Session, between: Callable[[], None]) -> None:
    account = session.get_one(Versioned, 1)
    between()
    account.balance += 1


@pytest.mark.parametrize(
    ("kind", "work", "error", "left"),
    [
        (Account, read_then_write, None, 111),  # ten that nobody has paid
        (Account, read_then_write_relatively, None, 101),
        (Versioned, read_then_write_versioned, StaleDataError, 100),
    ],
)
def test_what_becomes_of_a_value_that_was_read_before_it_is_taken_back(
    bank: World,
    pool: ThreadPoolExecutor,
    kind: type[Account | Versioned],
    work: Callable[[Session, Callable[[], None]], None],
    error: type[Exception] | None,
    left: int,
) -> None:
    bank.script(
        "CREATE TABLE versioned (id integer PRIMARY KEY, balance integer NOT NULL, version varchar(32) NOT NULL)",
        "INSERT INTO versioned VALUES (1, 100, 'first')",
    )

    def write(session: Session) -> None:
        row: Any = session.get_one(kind, 1)
        row.balance += 10

    holder = Holder(bank, pool, write)
    with pytest.raises(error) if error else nullcontext():
        bank.globally(lambda session: work(session, lambda: holder.end(undo=True)))
    assert bank.rows(f"SELECT balance FROM {kind.__tablename__} WHERE id = 1") == [(left,)]


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


def run(sql: str) -> Callable[[Session], None]:
    def work(session: Session) -> None:
        session.execute(text(sql))

    return work


def at(level: str, *works: Callable[[Session], None]) -> Callable[[Session], None]:
    def work(session: Session) -> None:
        with isolation(level):
            for each in works:
                each(session)

    return work


RICH = run("SELECT owner FROM account WHERE balance > 150")
INSERT = run("INSERT INTO account VALUES (4, 'dan', 200)")
DELETE = run("DELETE FROM account WHERE id = 2")


@pytest.mark.parametrize("write", [INSERT, pay(1, 100), DELETE])
def test_nothing_comes_or_goes_for_a_serializable_read(
    bank: World, pool: ThreadPoolExecutor, write: Callable[[Session], None]
) -> None:
    for level in ("read_committed", "serializable"):
        holder = Holder(bank, pool, at(level, RICH))
        second = pool.submit(lambda at_level: bank.globally(at(at_level, write), undo=True), level)
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
    second = pool.submit(bank.globally, at("read_committed", INSERT))
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


BESIDE = [
    "UPDATE account SET balance = (SELECT 5) WHERE id = 1",
    "INSERT INTO account SELECT 9, 'x', 1",
    "DELETE FROM account WHERE id IN (SELECT 2)",
    "SELECT id FROM account WHERE id IN (SELECT 2)",
]


def test_what_reads_beside_its_rows_is_not_serializable(bank: World) -> None:
    for sql in BESIDE:
        with pytest.raises(UnsupportedSqlError, match="read_"):
            bank.globally(at("serializable", run(sql)))
    assert balances(bank) == [100, 100, 100]


UNLOCKABLE = [
    "SELECT count(*) FROM account",
    "SELECT owner FROM account GROUP BY owner",
    "SELECT id FROM account WHERE id IN (SELECT id FROM account)",
    "WITH a AS (SELECT id FROM account) SELECT id FROM a",
    "SELECT id FROM account UNION SELECT 7",
    "SELECT a.id FROM account a LEFT JOIN account b ON a.id = b.id",
]


def test_reads_that_cannot_be_locked_are_refused(accounts: World) -> None:
    for sql in UNLOCKABLE:
        with pytest.raises(UnsupportedSqlError, match="read_uncommitted"):
            accounts.globally(at("read_committed", run(sql)))


def test_rows_on_every_driver(accounts: World) -> None:
    def read(session: Session) -> list[tuple[int, str]]:
        with isolation("read_committed"):
            assert session.execute(text("SELECT 1")).scalar_one() == 1
            return [tuple(row) for row in session.execute(text("SELECT id, owner FROM account WHERE id > :i"), {"i": 1})]

    assert sorted(accounts.globally(read)[0]) == [(2, "bob"), (3, "cid")]
    assert accounts.undo_rows() == []
    wait_until(lambda: accounts.status() == "COMMITTED", what="the second phase of what has only read")
