"""What fails on the disk of an SQLite database: nothing is taken for committed, or for rolled back, that may not be."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session
from txcoord_sdk.dialects import sqlite_connection

from tests.integration.at.test_locks import balances, pay
from tests.integration.at.world import World

pytestmark = pytest.mark.parametrize("world", ["sqlite+pysqlite", "sqlite+aiosqlite"], indirect=True)


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Sets how large a file may become."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_a_commit_that_the_disk_fails_is_not_known(accounts: World, limit: Callable[[int], None], journal: str) -> None:
    accounts.rows(f"PRAGMA journal_mode = {journal}")
    path = Path(str(accounts.outside.url.database))

    def work(session: Session) -> None:
        session.execute(text("UPDATE account SET owner = :owner WHERE id = 1"), {"owner": "x" * 200_000})
        limit(path.stat().st_size)

    def alone(session: Session) -> None:
        connection = session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        limit(path.stat().st_size)
        connection.execute(text("UPDATE account SET owner = :owner WHERE id = 1"), {"owner": "x" * 200_000})

    for failing in (work, alone):
        with pytest.raises(OperationalError, match="disk I/O error"):
            accounts.globally(failing)
        limit(resource.RLIM_INFINITY)
        assert accounts.statuses() == ["SETTLED"], "whoever has failed for certain takes no part in the rollback"
        assert accounts.rows("SELECT owner FROM account WHERE id = 1") == [("ann",)]
        accounts.globally(pay(1, 0))  # nothing holds the file


def test_a_commit_that_was_not_begun_has_failed(accounts: World) -> None:
    accounts.script("CREATE TABLE child (id integer PRIMARY KEY REFERENCES account (id) DEFERRABLE INITIALLY DEFERRED)")

    def work(session: Session) -> None:
        session.execute(text("INSERT INTO child VALUES (77)"))

    accounts.locally(lambda session: session.execute(text("PRAGMA foreign_keys = ON")))
    with pytest.raises(IntegrityError, match="FOREIGN KEY constraint failed"):
        accounts.globally(work)
    assert accounts.statuses() == ["FAILED"]


def test_what_sqlite_has_rolled_back_by_itself_is_not_committed_in_part(accounts: World) -> None:
    def work(session: Session) -> None:
        pay(1, 10)(session)
        raw = sqlite_connection(session.connection().connection.dbapi_connection)
        interrupted = []

        def interrupt(value: int) -> int:
            interrupted.append(value)
            raw.interrupt()
            return value

        made: Any = session.connection().connection.dbapi_connection
        made.create_function("cut", 1, interrupt)
        with pytest.raises(OperationalError, match="interrupted"):
            session.execute(text("UPDATE account SET balance = cut(balance) + 1 WHERE id = 2"))
        assert interrupted
        pay(3, 10)(session)

    with pytest.raises(OperationalError, match="interrupted"):
        accounts.globally(work)
    assert balances(accounts) == [100, 100, 100]
