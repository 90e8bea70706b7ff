"""Where it is said at which level reads of a global transaction are: of a block, a function, a call, an engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from txcoord_proto.errors import ConfigurationError
from txcoord_rm import enroll, isolation, mode
from txcoord_sdk import current_headers, joined, resume
from txcoord_sdk.testing import wait_until

from tests.integration.at.test_isolation import ACCOUNT, at
from tests.integration.at.test_locks import SECONDS, Holder, balances, pay, waits
from tests.integration.at.world import World


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


def test_the_level_may_be_said_of_a_function_a_call_or_an_engine(bank: World, pool: ThreadPoolExecutor) -> None:
    for read in (by_decorator, by_joining, by_block, by_hand_in_a_thread, by_header, by_engine):
        holder = Holder(bank, pool, pay(1, 10))
        reader = pool.submit(read, bank)
        waits(bank, reader)
        holder.end(undo=True)
        assert reader.result(SECONDS) == 100, read


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


def test_a_block_of_mode_xa_takes_the_same_locks(bank: World, pool: ThreadPoolExecutor) -> None:
    if bank.engine.dialect.name != "postgresql":
        pytest.skip("only there can the modes be mixed")

    def prepared(session: Session) -> None:
        with mode("xa"), isolation("serializable"):
            session.execute(text("SELECT owner FROM account WHERE balance > 150")).all()
            pay(1, 1)(session)
            session.commit()

    holder = Holder(bank, pool, prepared)
    second = pool.submit(bank.globally, at("serializable", pay(2, 1)))
    waits(bank, second)
    holder.end()
    second.result(SECONDS)
    wait_until(lambda: balances(bank) == [101, 101, 100], what="what was prepared")
