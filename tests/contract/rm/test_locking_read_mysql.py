"""SELECT ... FOR UPDATE and its kin on MariaDB: the application's rows as without capture, and the keys of these rows."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_rm.capture.port import Entry

from tests.contract.rm.maria import EACH_DRIVER, Maria


@pytest.fixture(autouse=True)
def acct(maria: Maria) -> None:
    maria.plain(
        "CREATE TABLE acct (id int PRIMARY KEY, bal int NOT NULL, note text)",
        "INSERT INTO acct VALUES (1, 100, 'one'), (2, 200, NULL), (3, 300, 'three')",
    )


@EACH_DRIVER
@pytest.mark.parametrize(
    ("sql", "keys"),
    [
        ("SELECT * FROM acct ORDER BY 1 DESC FOR UPDATE", {1, 2, 3}),
        ("SELECT bal, id AS bal, CONCAT(note, '%') FROM acct AS a WHERE id < 3 ORDER BY 2 LIMIT 1 OFFSET 1 FOR UPDATE", {2}),
        ("SELECT a.id, b.id FROM acct a INNER JOIN acct b ON a.id = b.id + 1 ORDER BY a.id LOCK IN SHARE MODE", {1, 2, 3}),
        ("SELECT a.id, `b`.id FROM acct a, acct `b` WHERE a.id = 1 AND `b`.id = 3 FOR UPDATE NOWAIT", {1, 3}),
        ("SELECT acct.id, b.id FROM acct LEFT OUTER JOIN acct b ON b.id = LEFT('0', 1) WHERE acct.id = 1 FOR UPDATE", {1}),
        ("SELECT acct.* FROM acct STRAIGHT_JOIN acct b USING (id) WHERE acct.id IN (SELECT 2) FOR UPDATE SKIP LOCKED", {2}),
        ("SELECT id FROM acct WHERE id > 100 FOR UPDATE WAIT 3", set()),
    ],
)
def test_rows_are_what_they_are_without_capture(maria: Maria, sql: str, keys: set[int]) -> None:
    def plain(connection: Connection) -> Any:
        result = connection.exec_driver_sql(sql.replace("%", "%%"))
        return list(result.keys()), [tuple(row) for row in result]

    names, rows = maria.work(plain)
    found = maria.run(sql)
    assert [column[0] for column in found.description] == names
    assert [tuple(row) for row in found.rows] == rows
    assert found.rowcount == len(rows)
    expected = {f"{maria.database}.acct(id)=({key})" for key in keys}
    assert found.keys == expected
    assert maria.log() == []
    foreseen = maria.foreseen(sql)
    assert foreseen == (None if "SKIP" in sql else expected)


def test_rows_by_key_are_foreseen_with_parameters_whether_they_are_there_or_not(maria: Maria) -> None:
    prefix = f"{maria.database}.acct(id)="
    sql = "SELECT %s + id FROM acct WHERE id = %s FOR UPDATE"
    assert maria.foreseen(sql, (5, 77)) == {f"{prefix}(77)"}
    found = maria.run(sql, (5, 2))
    assert [tuple(row) for row in found.rows] == [(7,)]
    assert (found.keys, found.exact) == ({f"{prefix}(2)"}, True)


@pytest.mark.parametrize(
    ("sql", "exact"),
    [
        ("SELECT id FROM acct WHERE id = 2 FOR UPDATE", True),
        ("SELECT id FROM acct WHERE id = 77 FOR UPDATE", False),
        ("SELECT id FROM acct WHERE id IN (1, 2) FOR UPDATE", False),
        ("SELECT id FROM acct WHERE id = 2 OR id = 3 FOR UPDATE", False),
        ("SELECT id FROM acct WHERE id = '2' FOR UPDATE", False),
        ("SELECT a.id FROM acct a, acct b WHERE a.id = 2 AND b.id = 2 FOR UPDATE", False),
        ("UPDATE acct SET bal = bal + 1 WHERE id = 2", True),
        ("UPDATE acct SET bal = bal + 1 WHERE id = 77", False),
        ("UPDATE acct SET bal = bal + 1 WHERE bal = 100", False),
        ("UPDATE acct SET bal = (SELECT 7) WHERE id = 2", False),
        ("DELETE FROM acct WHERE id = 2", True),
        ("INSERT INTO acct (id, bal) VALUES (9, 1)", True),
        ("INSERT INTO acct (id, bal) SELECT 9, 1", False),
    ],
)
def test_what_may_have_locked_more_is_known(maria: Maria, sql: str, exact: bool) -> None:
    assert maria.run(sql).exact is exact


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM acct FOR UPDATE",
        "SELECT id FROM acct ORDER BY SUM(id) FOR UPDATE",
        "SELECT mine(id) FROM acct FOR UPDATE",
        "SELECT (SELECT MAX(acct.id) FROM other) FROM acct FOR UPDATE",
        "SELECT DISTINCT bal FROM acct FOR UPDATE",
        "SELECT bal FROM acct GROUP BY bal FOR UPDATE",
        "SELECT id FROM acct HAVING id > 1 FOR UPDATE",
        "SELECT id FROM acct UNION SELECT 7 FOR UPDATE",
        "(SELECT id FROM acct FOR UPDATE)",
        "SELECT row_number() OVER (ORDER BY id) FROM acct FOR UPDATE",
        "SELECT id FROM (SELECT id FROM acct) a FOR UPDATE",
        "WITH q AS (SELECT id FROM acct) SELECT id FROM q LOCK IN SHARE MODE",
        "SELECT id FROM acct USE INDEX (PRIMARY) FOR UPDATE",
        "SELECT id FROM (acct, acct b) FOR UPDATE",
        "SELECT id FROM acct, JSON_TABLE('[1]', '$[*]' COLUMNS (n int PATH '$')) j FOR UPDATE",
        "SELECT @n := id FROM acct FOR UPDATE",
        "SELECT 1 FOR UPDATE",
        "SELECT id FROM acct FOR UPDATE OF other",
    ],
)
def test_what_does_not_return_the_rows_themselves_is_refused(maria: Maria, sql: str) -> None:
    with pytest.raises(UnsupportedSqlError):
        maria.run(sql)


def test_rows_without_keys_are_refused(maria: Maria) -> None:
    maria.plain("CREATE TABLE n (a int)", "CREATE VIEW v AS SELECT * FROM acct")
    for sql in ("SELECT * FROM n", "SELECT * FROM v", "SELECT acct.id FROM acct, n", "SELECT 1 FROM missing"):
        with pytest.raises(UnsupportedSqlError):
            maria.run(f"{sql} FOR UPDATE")


def test_rows_are_locked_and_a_table_that_was_altered_is_noticed(maria: Maria) -> None:
    def job(connection: Connection, where: str) -> frozenset[str]:
        found = maria.captured(connection, f"SELECT id FROM acct WHERE {where} FOR UPDATE", None, Entry("x", 0, first=True))
        with maria.engine().connect() as other:
            assert [id for (id,) in other.exec_driver_sql("SELECT id FROM acct FOR UPDATE SKIP LOCKED")] == [1, 3]
        return found.keys

    assert maria.work(lambda connection: job(connection, "id = 2")) == {f"{maria.database}.acct(id)=(2)"}
    maria.plain("ALTER TABLE acct DROP PRIMARY KEY, ADD nr int NOT NULL DEFAULT 0")
    maria.plain("UPDATE acct SET nr = id + 10", "ALTER TABLE acct ADD PRIMARY KEY (nr)")
    assert maria.work(lambda connection: job(connection, "nr = 12")) == {f"{maria.database}.acct(nr)=(12)"}
