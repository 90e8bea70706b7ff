"""Which keys a captured statement needs on SQLite, and when it takes the lock of the one who writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from txcoord_proto.errors import LockConflictError

from tests.contract.rm.sqlite_database import Database, recognised

ACCT = "CREATE TABLE acct (id INTEGER PRIMARY KEY, bal NUMERIC NOT NULL, email TEXT UNIQUE COLLATE NOCASE, note)"


@pytest.fixture(params=["pysqlite", "aiosqlite"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(tmp_path: Path, driver: str) -> Iterator[Database]:
    database = Database(tmp_path / "capture.db", driver)
    database.plain(ACCT, "INSERT INTO acct VALUES (1, 100, 'a@x', 'one'), (2, 200, 'b@x', NULL), (3, 300, NULL, 'three')")
    yield database
    database.close()


def keys(database: Database, *values: Any) -> list[frozenset[str]]:
    return [ran.keys for ran in database.run(*(("INSERT INTO k VALUES (?, ?)", value) for value in values))]


def test_rows_that_could_collide_have_one_key(database: Database) -> None:
    database.plain("CREATE TABLE k (a COLLATE NOCASE, b, PRIMARY KEY (a, b))")
    one, real, zero, minus = keys(database, ("x", 2**53), ("y", 1.0), ("z", 0), ("w", -0.0))
    assert one == {"main.k(a,b)=(x,9007199254740992)"}
    assert (real, zero, minus) == ({"main.k(a,b)=(y,1)"}, {"main.k(a,b)=(z,0)"}, {"main.k(a,b)=(w,0)"})
    joined, split = keys(database, ("a_b", "c"), ("a", "b_c"))
    assert joined != split
    assert keys(database, ("p,q", "r"), ("p", "q,r")) == [{'main.k(a,b)=("p,q",r)'}, {'main.k(a,b)=(p,"q,r")'}]
    assert keys(database, ("ÄB", b"\0"), ("äC\0x", "")) == [{"main.k(a,b)=(Äb,x'00')"}, {'main.k(a,b)=(äc,"")'}]
    assert keys(database, ("\n", "\0")) == [{"main.k(a,b)=(t'0a',t'00')"}]
    database.plain("CREATE TABLE r (a TEXT COLLATE RTRIM PRIMARY KEY)")
    assert database.run("INSERT INTO r VALUES ('q  ')")[0].keys == database.run("DELETE FROM r")[0].keys == {"main.r(a)=(q)"}


def test_old_and_new_values_of_unique_columns_are_locked(database: Database) -> None:
    database.plain(
        "CREATE UNIQUE INDEX partial ON acct (note) WHERE bal > 150", "CREATE UNIQUE INDEX expression ON acct (bal + id)"
    )
    (ran,) = database.run("UPDATE acct SET email = 'NEW@x', bal = 151 WHERE id = 1")
    assert ran.keys == {
        *("main.acct(id)=(1)", "main.acct(email)=(a@x)", "main.acct(email)=(new@x)"),
        *("main.acct(note)=(one)", "main.acct(expression)=*"),
    }
    (moved,) = database.run("UPDATE acct SET id = 30 WHERE id = 3")
    assert moved.keys >= {"main.acct(id)=(3)", "main.acct(id)=(30)"}


def test_what_is_foreseen(database: Database) -> None:
    key = "main.acct(id)=({})".format
    assert database.foreseen("UPDATE acct SET bal = 1 WHERE id = ?", ("1",)) == {key(1)}
    assert database.foreseen("UPDATE acct AS q SET bal = :b WHERE q.bal > :a", {"a": 150, "b": 1}) == {key(2), key(3)}
    assert database.foreseen("UPDATE acct SET bal = ? WHERE id IN (?, ?)", (9, 2, 77)) == {key(2)}
    assert database.foreseen("WITH w AS (SELECT ? AS i) DELETE FROM acct WHERE id = (SELECT i FROM w)", (1,)) == {
        key(1),
        "main.acct(email)=(a@x)",
    }
    assert database.foreseen("UPDATE acct SET bal = 1 WHERE id = 99") == frozenset()
    for unknown in ("INSERT INTO acct (bal) VALUES (1)", "UPDATE acct SET email = 'q'", "UPDATE acct SET id = id + 1"):
        assert database.foreseen(unknown) is None


def test_what_functions_of_the_application_do_is_not_done_twice(database: Database) -> None:
    calls: list[int] = []

    def counted(value: int) -> int:
        calls.append(value)
        return value

    def work(connection: Connection) -> None:
        made: Any = connection.connection.dbapi_connection
        made.create_function("Counted", 1, counted)
        made.create_function("abs", 1, counted)
        for condition in ("counted(id) = 1", "abs(id) = 1"):
            sql = f"UPDATE acct SET bal = upper('2') WHERE {condition}"
            cursor, statement = connection.connection.cursor(), recognised(sql)
            table = database.capture.table(cursor, statement)
            assert database.capture.foreseen(cursor, statement, table, None) is None
            assert calls == []
        sql = "UPDATE acct SET bal = upper('2') WHERE id IN (1, length('ab'))"
        cursor, statement = connection.connection.cursor(), recognised(sql)
        table = database.capture.table(cursor, statement)
        assert database.capture.foreseen(cursor, statement, table, None) == {"main.acct(id)=(1)", "main.acct(id)=(2)"}

    database.local(work)


class Neighbour:
    """Another connection, which waits for nothing."""

    def __init__(self, database: Database) -> None:
        self._connection = sqlite3.connect(database.path, timeout=0, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")

    def write(self) -> None:
        self._connection.execute("UPDATE acct SET note = note || '+' WHERE id = 3")


def test_the_lock_is_taken_before_anything_is_read(database: Database) -> None:
    neighbour = Neighbour(database)

    def work(connection: Connection) -> None:
        cursor, statement = connection.connection.cursor(), recognised("UPDATE acct SET bal = 1 WHERE id = 1")
        assert database.capture.foreseen(cursor, statement, database.capture.table(cursor, statement), None)
        neighbour.write()  # what was foreseen holds no lock, and leaves no snapshot behind
        database.captured(connection, "UPDATE acct SET bal = bal + 1 WHERE id = 1")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            neighbour.write()
        cursor.execute("SELECT bal FROM acct WHERE id = 1")
        assert list(cursor.fetchall()) == [(101,)]

    database.local(work)
    neighbour.write()


def test_a_transaction_that_is_open_already_can_still_write(database: Database) -> None:
    neighbour = Neighbour(database)

    def deferred(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")
        neighbour.write()
        database.captured(connection, "UPDATE acct SET bal = bal + 1 WHERE id = 1")

    def stale(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SELECT * FROM acct").all()
        neighbour.write()
        database.captured(connection, "UPDATE acct SET bal = bal + 1 WHERE id = 1")

    database.local(deferred)
    with pytest.raises(LockConflictError, match="another connection writes"):
        database.local(stale)
