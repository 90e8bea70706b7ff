"""SELECT ... FOR UPDATE and its kin: the application's rows as without capture, and the keys of the rows that are locked."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from txcoord_proto.errors import LockConflictError, UnsupportedSqlError
from txcoord_rm.capture.port import Entry, Result
from txcoord_rm.capture.postgresql import PostgresqlCapture
from txcoord_rm.sql.flavour import Binds

from tests.contract.rm.captured import RECOGNISERS
from tests.contract.rm.conftest import Connection

pytestmark = pytest.mark.usefixtures("acct")


def read(
    connection: Connection,
    sql: str,
    parameters: Any = None,
    capture: PostgresqlCapture | None = None,
    first: bool = False,
) -> Result:
    statement = RECOGNISERS[Binds.NONE if parameters is None else Binds.PERCENT].recognise(sql)
    capture = capture or PostgresqlCapture(Binds.PERCENT)
    with connection.cursor() as cursor:
        entry = Entry("x", 0, first, limit_ms=7000 if first else 0)
        return capture.run(cursor, statement, capture.table(cursor, statement), parameters, entry)


@pytest.mark.parametrize(
    ("sql", "keys"),
    [
        ("SELECT * FROM acct ORDER BY 1 DESC FOR UPDATE", {"(1)", "(2)", "(3)"}),
        ("SELECT bal, id AS bal, note || '%' FROM acct AS a WHERE id < 3 ORDER BY 2 LIMIT 1 OFFSET 1 FOR NO KEY UPDATE", {"(2)"}),
        ("SELECT a.id, b.id FROM acct a JOIN acct b ON a.id = b.id + 1 ORDER BY a.id FOR SHARE OF b NOWAIT", {"(1)", "(2)"}),
        ("SELECT a.id, b.id FROM public.acct a, acct b WHERE a.id = 1 AND b.id = 3 FOR KEY SHARE", {"(1)", "(3)"}),
        ("WITH q (k) AS (SELECT 2) SELECT acct.* FROM acct, q WHERE id = k FOR UPDATE SKIP LOCKED", {"(2)"}),
        ("SELECT * FROM acct LEFT JOIN acct b ON false WHERE acct.id = 1 FOR UPDATE OF acct", {"(1)"}),
        ("SELECT id FROM acct WHERE id > 100 FOR UPDATE", set()),
    ],
)
def test_rows_are_what_they_are_without_capture(connection: Connection, sql: str, keys: set[str]) -> None:
    plain = connection.execute(sql)
    expected, names = plain.fetchall(), [column.name for column in plain.description or ()]
    for first in (False, True):
        found = read(connection, sql, first=first)
        assert list(found.rows) == expected
        assert [column.name for column in found.description] == names
        assert found.rowcount == len(expected)
        assert found.keys == {f"public.acct(id)={key}" for key in keys}


def test_parameters_and_limits(connection: Connection) -> None:
    sql = "SELECT %s::int + id FROM acct WHERE id = %s FOR UPDATE"
    found = read(connection, sql, (5, 2), first=True)
    assert (list(found.rows), found.keys) == ([(7,)], {"public.acct(id)=(2)"})
    assert connection.execute("SELECT current_setting('lock_timeout')").fetchone() == ("7s",)
    capture = PostgresqlCapture(Binds.PERCENT)
    with connection.cursor() as cursor:
        for text, expected in ((sql, found.keys), (sql.replace("acct", "acct a, acct b").replace("id", "a.id"), None)):
            statement = RECOGNISERS[Binds.PERCENT].recognise(text)
            assert capture.foreseen(cursor, statement, capture.table(cursor, statement), (5, 2)) == expected
    assert connection.execute("SELECT FROM txcoord_undo_log").rowcount == 0


def test_the_rows_are_locked(connection: Connection, keywords: str) -> None:
    connection.commit()
    read(connection, "SELECT * FROM acct WHERE id = 2 FOR UPDATE")
    with psycopg.connect(keywords) as other:
        assert other.execute("SELECT id FROM acct ORDER BY id FOR UPDATE SKIP LOCKED").fetchall() == [(1,), (3,)]


def test_a_table_that_was_altered_is_noticed(connection: Connection) -> None:
    capture, sql = PostgresqlCapture(Binds.PERCENT), "SELECT * FROM acct a, other b WHERE a.id = 1 FOR UPDATE"
    connection.execute("CREATE TABLE other (k int PRIMARY KEY)")
    connection.execute("INSERT INTO other VALUES (7)")
    assert read(connection, sql, capture=capture).keys == {"public.acct(id)=(1)", "public.other(k)=(7)"}
    connection.execute("ALTER TABLE other DROP CONSTRAINT other_pkey, ADD j int DEFAULT 8, ADD PRIMARY KEY (j)")
    connection.execute("SAVEPOINT s")
    with pytest.raises(LockConflictError):
        read(connection, sql, capture=capture)
    connection.execute("ROLLBACK TO SAVEPOINT s")
    assert read(connection, sql, capture=capture).keys == {"public.acct(id)=(1)", "public.other(j)=(8)"}


def test_rows_without_keys_are_refused(connection: Connection) -> None:
    connection.execute("CREATE TABLE n (a int)")
    connection.execute("CREATE VIEW v AS SELECT * FROM acct")
    for name in ("n", "v"):
        with pytest.raises(UnsupportedSqlError, match="cannot be locked globally"):
            read(connection, f"SELECT * FROM {name} FOR UPDATE")
    assert read(connection, "SELECT * FROM acct, n FOR UPDATE OF acct").rowcount == 0
