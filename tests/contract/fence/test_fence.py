"""The rules of the fence, the same on every database. Null cancel, hanging try, repeated call: the names are Seata's."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError
from txcoord_sdk.database import Database
from txcoord_sdk.dialects import dialect_of
from txcoord_sdk.fence import fence
from txcoord_sdk.fence.fence import HangingTryError, RepeatedTryError
from txcoord_sdk.participant import ParkError

XID = "default.0mgx5xz2o.00000001"
RESOURCE = "stock:reserve@1"


def states(engine: Engine) -> list[tuple[str, int, str]]:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT xid, branch_id, state FROM txcoord_fence ORDER BY xid, branch_id"))
        return [(xid, branch_id, state) for xid, branch_id, state in found]


def attempt(database: Database, branch_id: int = 1, xid: str = XID) -> None:
    database.run(lambda c: fence.tried(c, xid, branch_id, RESOURCE))


def confirm(database: Database, branch_id: int = 1) -> bool:
    return database.run(lambda c: fence.confirmed(c, XID, branch_id))


def cancel(database: Database, branch_id: int = 1) -> bool:
    return database.run(lambda c: fence.cancelled(c, XID, branch_id, RESOURCE))


def test_try_and_confirm_once(database: Database, engine: Engine) -> None:
    attempt(database)
    assert confirm(database) is True
    assert confirm(database) is False, "the second confirm runs nothing"
    assert states(engine) == [(XID, 1, "CONFIRMED")]


def test_try_and_cancel_once(database: Database, engine: Engine) -> None:
    attempt(database)
    assert cancel(database) is True
    assert cancel(database) is False, "the second cancel runs nothing"
    assert states(engine) == [(XID, 1, "CANCELLED")]


def test_null_cancel_leaves_a_guard_that_refuses_the_hanging_try(database: Database, engine: Engine) -> None:
    assert cancel(database) is False
    assert cancel(database) is False
    assert states(engine) == [(XID, 1, "SUSPENDED")]
    with pytest.raises(HangingTryError, match="cancelled before its try arrived") as caught:
        attempt(database)
    assert caught.value.retryable
    assert states(engine) == [(XID, 1, "SUSPENDED")]


def test_a_try_after_its_own_cancel_is_refused(database: Database) -> None:
    attempt(database)
    cancel(database)
    with pytest.raises(HangingTryError):
        attempt(database)


def test_a_repeated_try_is_refused(database: Database) -> None:
    attempt(database)
    with pytest.raises(RepeatedTryError, match="has run before"):
        attempt(database)
    confirm(database)
    with pytest.raises(RepeatedTryError):
        attempt(database)


def test_a_confirm_that_finds_no_try_is_parked(database: Database, engine: Engine) -> None:
    with pytest.raises(ParkError, match="finds no tried row"):
        confirm(database)
    assert states(engine) == [], "and leaves nothing"


def test_confirm_and_cancel_never_cross(database: Database, engine: Engine) -> None:
    attempt(database, 1)
    attempt(database, 2)
    cancel(database, 1)
    confirm(database, 2)
    cancel(database, 3)
    for branch_id, state in ((1, "CANCELLED"), (3, "SUSPENDED")):
        with pytest.raises(ParkError, match=f"finds it {state}"):
            confirm(database, branch_id)
    with pytest.raises(ParkError, match="finds it confirmed"):
        cancel(database, 2)
    assert [state for _, _, state in states(engine)] == ["CANCELLED", "CONFIRMED", "SUSPENDED"]


def test_row_and_effect_stand_or_fall_together(database: Database, engine: Engine) -> None:
    def half(connection: Connection) -> None:
        fence.tried(connection, XID, 1, RESOURCE)
        connection.execute(text("UPDATE counter SET n = n + 1"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        database.run(half)
    assert states(engine) == []
    attempt(database)

    def confirm_half(connection: Connection) -> None:
        assert fence.confirmed(connection, XID, 1)
        connection.execute(text("UPDATE counter SET n = n + 1"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        database.run(confirm_half)
    assert states(engine) == [(XID, 1, "TRIED")], "it can be confirmed again"
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT n FROM counter")) == 0


def test_the_same_branch_id_of_another_transaction_is_another_branch(database: Database, engine: Engine) -> None:
    cancel(database, 1)
    attempt(database, 1, XID.upper())
    assert sorted(state for _, _, state in states(engine)) == ["SUSPENDED", "TRIED"]


def test_the_first_result_is_remembered(database: Database) -> None:
    attempt(database)

    def first(connection: Connection) -> None:
        fence.confirmed(connection, XID, 1)
        fence.remember(connection, XID, 1, '{"receipt":"ä-1"}')

    database.run(first)
    assert confirm(database) is False
    assert database.run(lambda c: fence.remembered(c, XID, 1)) == '{"receipt":"ä-1"}'


def test_impossible_rows_are_refused_by_the_database(database: Database, engine: Engine) -> None:
    for state, result in (("GUESSED", "NULL"), ("TRIED", "'x'")):
        values = f"'{XID}', 9, 'r', '{state}', {result}, 0, 0"
        with pytest.raises(Exception, match=r"(?i)check|constraint"), engine.begin() as connection:
            connection.execute(text(f"INSERT INTO txcoord_fence VALUES ({values})"))
    assert states(engine) == []


def test_times_are_the_databases(database: Database, engine: Engine) -> None:
    attempt(database)
    with engine.connect() as connection:
        created, changed = connection.execute(text("SELECT created_at, changed_at FROM txcoord_fence")).one()
    assert created == changed
    assert abs(created / 1000 - time.time()) < 60


def test_the_database_keeps_its_identity(database: Database, engine: Engine, url: str) -> None:
    other = Database(engine, "again")
    assert other.prepare() == database.id
    assert len(database.id) == 36
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text("INSERT INTO txcoord_database VALUES (1, 'another')"))
    assert dialect_of(engine.dialect.name) is database.dialect
    other.close()
