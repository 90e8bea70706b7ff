"""Global reads on SQLite: the application's rows as without capture, and the keys of the rows from which they come."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_rm.capture.port import Entry, Result
from txcoord_rm.sql.global_read import global_read

from tests.contract.rm.sqlite_database import RECOGNISER, Database

ACCT = "CREATE TABLE acct (id INTEGER PRIMARY KEY, bal NUMERIC NOT NULL, note)"


@pytest.fixture(params=["pysqlite", "aiosqlite"])
def database(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    database = Database(tmp_path / "read.db", request.param)
    database.plain(ACCT, "INSERT INTO acct VALUES (1, 100, 'one'), (2, 200, NULL), (3, 300, x'00')")
    yield database
    database.close()


def read(database: Database, sql: str, parameters: Any = None) -> tuple[frozenset[str] | None, Result]:
    """Keys that are known before, and what came of it."""

    def work(connection: Connection) -> tuple[frozenset[str] | None, Result]:
        statement, cursor = global_read(RECOGNISER.recognise(sql), RECOGNISER), connection.connection.cursor()
        table = database.capture.table(cursor, statement)
        foreseen = database.capture.foreseen(cursor, statement, table, parameters)
        return foreseen, database.capture.run(cursor, statement, table, parameters, Entry("x", 0, first=True))

    return database.local(work)


@pytest.mark.parametrize(
    ("sql", "parameters", "keys"),
    [
        ("SELECT * FROM acct ORDER BY 1 DESC", None, {1, 2, 3}),
        ("SELECT bal, id AS bal, upper(note) FROM acct AS a WHERE id < ? ORDER BY 2 LIMIT ? OFFSET ?", (3, 1, 1), {2}),
        ("SELECT :n + a.id, b.note FROM acct a JOIN main.acct b ON a.id = b.id + 1 WHERE a.id = :i", {"n": 5, "i": 2}, {1, 2}),
        ('SELECT a.id FROM acct a, acct "b" WHERE a.id = 1 AND "b".id = 3', None, {1, 3}),
        ("SELECT id FROM acct WHERE id > 100", None, set()),
    ],
)
def test_rows_are_what_they_are_without_capture(database: Database, sql: str, parameters: Any, keys: set[int]) -> None:
    (plain,) = database.plain((sql, parameters) if parameters else sql)
    foreseen, found = read(database, sql, parameters)
    assert (list(found.rows), found.description, found.rowcount) == (list(plain.rows), plain.description, plain.rowcount)
    assert found.keys == foreseen == {f"main.acct(id)=({key})" for key in keys}
    assert database.log() == []


def test_nobody_writes_before_its_local_transaction_ends(database: Database) -> None:
    def work(connection: Connection) -> None:
        statement, cursor = global_read(RECOGNISER.recognise("SELECT * FROM acct"), RECOGNISER), connection.connection.cursor()
        table = database.capture.table(cursor, statement)
        database.capture.run(cursor, statement, table, None, Entry("x", 0, first=True))
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(database.path, timeout=0).execute("UPDATE acct SET bal = 0")
        assert database.capture.foreseen(cursor, statement, table, None) is None

    database.local(work)
    sqlite3.connect(database.path, timeout=0).execute("UPDATE acct SET bal = 0")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT total(id) FROM acct",
        "SELECT id FROM acct ORDER BY random()",
        'SELECT "count"(id) FROM acct',
        "SELECT id, max(bal) FROM acct",
        "SELECT DISTINCT bal FROM acct",
        "SELECT id FROM (acct)",
        "SELECT id FROM acct, json_each('[1]')",
        "SELECT 1 FROM sqlite_master",
        "SELECT 1 FROM v",
        "SELECT 1 FROM missing",
    ],
)
def test_what_does_not_return_the_rows_themselves_is_refused(database: Database, sql: str) -> None:
    database.plain("CREATE VIEW v AS SELECT * FROM acct")
    with pytest.raises(UnsupportedSqlError):
        read(database, sql)


def test_a_function_of_the_application_is_not_called_twice(database: Database) -> None:
    if database._runner is not None:
        pytest.skip("made on the connection of the standard library")

    def work(connection: Connection) -> None:
        raw: Any = connection.connection.dbapi_connection
        raw.create_function("upper", 1, lambda text: text)
        cursor = raw.cursor()
        statement = global_read(RECOGNISER.recognise("SELECT upper(note) FROM acct"), RECOGNISER)
        with pytest.raises(UnsupportedSqlError, match="function that the application has made"):
            database.capture.run(cursor, statement, database.capture.table(cursor, statement), None, Entry("x", 0, first=True))

    database.local(work)
