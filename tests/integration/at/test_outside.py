"""Writes outside global transactions, and what becomes of rows that an unfinished global transaction holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session
from txcoord_proto.errors import ConfigurationError, LockTimeoutError, UnsupportedSqlError
from txcoord_rm import enroll, global_lock
from txcoord_rm.at.hook import resource_of_engine
from txcoord_sdk import Client, connect
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.at.test_locks import Holder, balances, pay
from tests.integration.at.world import World


@pytest.fixture
def careful(bank: World, coordinator: CoordinatorProcess) -> Iterator[Callable[[str], tuple[Client, Engine]]]:
    """Makes another service on the same database that treats its own writes as it is told."""
    made: list[tuple[Client, Engine]] = []

    def make(local_writes: str) -> tuple[Client, Engine]:
        client = connect(coordinator.address, service=f"careful{len(made)}")
        engine = create_engine(bank.url)
        enroll(engine, client, local_writes=local_writes)
        client.start()
        made.append((client, engine))
        return client, engine

    yield make
    for client, engine in made:
        client.close()
        engine.dispose()


@pytest.mark.parametrize("undo", [False, True])
def test_a_checked_write_waits_for_the_global_transaction(
    bank: World, pool: ThreadPoolExecutor, careful: Callable[[str], tuple[Client, Engine]], undo: bool
) -> None:
    _, engine = careful("check")
    holder = Holder(bank, pool, pay(1, 10))

    def write() -> None:
        with Session(engine) as session:
            pay(1, 1)(session)
            session.commit()

    waiting = pool.submit(write)
    free = pool.submit(_write, engine, 2)
    free.result(20)
    assert not waiting.done()
    holder.end(undo)
    waiting.result(20)
    assert balances(bank) == [101 if undo else 111, 105, 100]


def _write(engine: Engine, account: int) -> None:
    with Session(engine) as session:
        pay(account, 5)(session)
        session.commit()


def test_it_does_not_wait_for_ever(
    bank: World, pool: ThreadPoolExecutor, careful: Callable[[str], tuple[Client, Engine]]
) -> None:
    _, engine = careful("check")
    resource = resource_of_engine(engine)
    assert resource is not None
    resource.lock_wait = 0.2
    holder = Holder(bank, pool, pay(1, 10))
    with pytest.raises(LockTimeoutError) as caught:
        _write(engine, 1)
    assert caught.value.retryable
    holder.end()
    assert balances(bank) == [110, 100, 100]


def test_refused_writes_name_the_remedy(bank: World, careful: Callable[[str], tuple[Client, Engine]]) -> None:
    client, engine = careful("refuse")
    with pytest.raises(ConfigurationError, match="within a global transaction"):
        _write(engine, 1)
    with Session(engine) as session:
        assert session.scalar(text("SELECT count(*) FROM account")) == 3
    with client.global_transaction(name="inside"):
        _write(engine, 1)
    assert balances(bank) == [105, 100, 100]


def test_a_statement_of_which_no_rows_are_known_is_refused_as_what_it_is(
    bank: World, careful: Callable[[str], tuple[Client, Engine]]
) -> None:
    def create(engine: Engine) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE further (id INTEGER PRIMARY KEY)")

    with pytest.raises(ConfigurationError, match="DDL through an engine that is not enrolled"):
        create(careful("refuse")[1])
    with pytest.raises(UnsupportedSqlError, match=r"global locks are respected .* not enrolled. The statement: CREATE"):
        create(careful("check")[1])
    with global_lock(), pytest.raises(UnsupportedSqlError, match="global locks are respected"):
        create(bank.engine)
    with bank.client.global_transaction(name="inside"), pytest.raises(UnsupportedSqlError, match="inside a global transaction"):
        create(bank.engine)
    create(bank.engine)


def test_global_lock_checks_one_block(bank: World, pool: ThreadPoolExecutor) -> None:
    bank.resource.lock_wait = 0.2
    holder = Holder(bank, pool, pay(1, 10))

    @global_lock()
    def write() -> None:
        _write(bank.engine, 1)

    with pytest.raises(LockTimeoutError):
        write()
    _write(bank.engine, 1)
    assert balances(bank)[0] == 115, "without it nobody asks: a dirty write"
    holder.end()


def test_another_word_is_refused(bank: World) -> None:
    with pytest.raises(ConfigurationError, match="check"):
        enroll(create_engine(bank.url), bank.client, local_writes="checked")
