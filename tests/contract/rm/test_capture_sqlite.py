"""What a captured statement does on SQLite: the same as the plain one, and an undo record of exactly the rows that it changed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_rm.capture.port import Entry
from txcoord_rm.undo.images import decode
from txcoord_sdk.dialects import sqlite_connection

from tests.contract.rm.sqlite_database import Database, Written, recognised

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


def images(database: Database) -> list[tuple[str, list[str], list[Any], list[Any]]]:
    """The undo records of the last branch: table, columns, rows before and after."""
    query = (
        "SELECT table_name, columns, befores, afters, branch_id, state, xid, format FROM txcoord_undo_log "
        f"WHERE branch_id = {database.branch_id} ORDER BY seq"
    )
    found = database.plain(query)[0].rows
    assert all(row[4:] == (database.branch_id, "IMAGE", "x", 1) for row in found)
    return [(row[0], json.loads(row[1]), list(decode(row[2])), list(decode(row[3]))) for row in found]


def refused(database: Database, *statements: Written, match: str) -> None:
    before = database.rows("acct")
    with pytest.raises(UnsupportedSqlError, match=match):
        database.run(*statements)
    assert database.rows("acct") == before


def test_an_update_by_key(database: Database) -> None:
    (ran,) = database.run(("UPDATE acct SET bal = bal - :x WHERE id = :id", {"x": 5, "id": 1}))
    assert (ran.rowcount, ran.description, ran.rows) == (1, None, [])
    assert ran.keys == {"main.acct(id)=(1)"}
    assert images(database) == [("acct", ["id", "bal"], [(1, 100)], [(1, 95)])]


def test_what_changes_nothing_leaves_nothing(database: Database) -> None:
    none, same = database.run("UPDATE acct SET bal = 0 WHERE id = 99", "UPDATE acct SET bal = bal, note = note")
    assert (none.rowcount, none.keys) == (0, frozenset())
    assert same.rowcount == 3, "the rows count as changed, as they do without capture"
    assert images(database) == []


def test_all_rows_and_only_those_that_changed(database: Database) -> None:
    assert database.run("UPDATE acct SET note = 'one'")[0].rowcount == 3
    assert images(database) == [("acct", ["id", "note"], [(2, None), (3, "three")], [(2, "one"), (3, "one")])]


def test_sub_selects_ctes_and_other_tables(database: Database) -> None:
    database.plain("CREATE TABLE due (who, much)", "INSERT INTO due VALUES (1, 10), (3, 30)")
    database.run(
        (
            "WITH d (n) AS (SELECT max(much) FROM due WHERE much < ?) UPDATE acct SET bal = (SELECT n FROM d) WHERE id = ?",
            (20, 2),
        ),
        "UPDATE acct AS a SET bal = a.bal - d.much FROM due AS d WHERE d.who = a.id RETURNING id, bal",
        "DELETE FROM acct WHERE id IN (SELECT who FROM due WHERE much = 30)",
    )
    assert [(before, after) for _, _, before, after in images(database)] == [
        ([(2, 200)], [(2, 10)]),
        ([(1, 100), (3, 300)], [(1, 90), (3, 270)]),
        ([(3, 270, None, "three")], [None]),
    ]


def test_returning_is_what_it_is_without_capture(database: Database) -> None:
    (ran,) = database.run("UPDATE acct SET bal = bal * 2 WHERE id < 3 RETURNING *, id AS id, bal - 1")
    assert ran.description is not None
    assert [column[0] for column in ran.description] == ["id", "bal", "email", "note", "id", "bal - 1"]
    assert [tuple(row) for row in ran.rows] == [(1, 200, "a@x", "one", 1, 199), (2, 400, "b@x", None, 2, 399)]
    assert ran.rowcount == 2


def test_several_columns_at_once_and_names_in_every_spelling(database: Database) -> None:
    database.plain('CREATE TABLE "Sel ect" ("or""der" INTEGER PRIMARY KEY, [a b], `c`)', 'INSERT INTO "Sel ect" VALUES (1, 2, 3)')
    database.run('UPDATE main."sel ECT" SET ([A B], "c") = (SELECT 5, 6), "or""der" = 9 -- 1 ?\n /* ? */')
    assert images(database) == [("Sel ect", ['or"der', "a b", "c"], [(1, 2, 3)], [(9, 5, 6)])]
    database.run(
        ("UPDATE acct SET note = 'what?; -- :x' /* ? */ WHERE id = ?", (1,)), ("DELETE FROM acct WHERE id = @i;", {"i": 9})
    )
    assert images(database) == [("acct", ["id", "note"], [(1, "one")], [(1, "what?; -- :x")])]


def test_inserts_of_every_kind(database: Database) -> None:
    database.plain("CREATE TABLE n (id INTEGER PRIMARY KEY AUTOINCREMENT, v DEFAULT 'd', g AS (v || '!'))")
    ran = database.run(
        "INSERT INTO n (v) VALUES ('a'), ('b')",
        "INSERT INTO n (v) SELECT v || v FROM n",
        "INSERT INTO n DEFAULT VALUES RETURNING id, g",
        ("INSERT INTO n (rowid, v) VALUES (?, ?)", (50, "r")),
        ("INSERT INTO n (v) VALUES (?)", [("m",), ("n",)]),
    )
    assert [r.rowcount for r in ran] == [2, 2, 1, 1, 2]
    assert [r.lastrowid for r in ran] == [2, 4, 5, 50, None]
    assert [tuple(row) for row in ran[2].rows] == [(5, "d!")]
    assert ran[4].keys == {"main.n(id)=(51)", "main.n(id)=(52)"}
    assert [after for _, _, _, after in images(database)] == [
        [(1, "a"), (2, "b")],
        [(3, "aa"), (4, "bb")],
        [(5, "d")],
        [(50, "r")],
        [(51, "m"), (52, "n")],
    ]


def test_last_insert_rowid_stays_the_applications(database: Database) -> None:
    database.plain("CREATE TABLE line (id INTEGER PRIMARY KEY, acct)")
    database.run("INSERT INTO acct (bal) VALUES (1)", "INSERT INTO line (acct) VALUES (last_insert_rowid())")
    assert images(database)[1][3] == [(1, 4)]


def test_what_is_in_an_inserts_way(database: Database) -> None:
    upsert = "INSERT INTO acct VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET bal = excluded.bal, note = note || '+'"
    ran = database.run(
        (upsert, (1, 7, "q@x", "new")),
        (upsert, (4, 8, "r@x", "new")),
        "INSERT INTO acct VALUES (9, 9, 'A@X', '') ON CONFLICT DO NOTHING",
        "INSERT OR IGNORE INTO acct VALUES (5, 5, 'B@x', ''), (6, 6, NULL, '')",
        "REPLACE INTO acct VALUES (3, 0, 'B@x', 'took two')",
    )
    assert [r.rowcount for r in ran] == [1, 1, 0, 1, 1]
    assert [(before, after) for _, _, before, after in images(database)] == [
        ([(1, 100, "a@x", "one")], [(1, 7, "a@x", "one+")]),
        ([None], [(4, 8, "r@x", "new")]),
        ([None], [(6, 6, None, "")]),
        ([(3, 300, None, "three"), (2, 200, "b@x", None), None], [None, None, (3, 0, "B@x", "took two")]),
    ]
    assert ran[4].keys == {"main.acct(id)=(2)", "main.acct(id)=(3)", "main.acct(email)=(b@x)"}
    assert database.plain("PRAGMA recursive_triggers")[0].rows == [(0,)]


def test_conflicts_by_the_tables_own_definition(database: Database) -> None:
    database.plain(
        "CREATE TABLE d (id INTEGER PRIMARY KEY, u UNIQUE ON CONFLICT REPLACE, v UNIQUE ON CONFLICT IGNORE)",
        "INSERT INTO d VALUES (1, 1, 1), (2, 2, 2)",
    )
    ran = database.run("INSERT INTO d VALUES (3, 1, 3)", "UPDATE d SET u = 2 WHERE id = 3", "UPDATE d SET v = 3")
    assert [r.rowcount for r in ran] == [1, 1, 1]
    assert [(before, after) for _, _, before, after in images(database)] == [
        ([(1, 1, 1), None], [None, (3, 1, 3)]),
        ([(2, 2, 2), (3, 1, 3)], [None, (3, 2, 3)]),
    ]


def test_updates_that_skip_replace_or_stop(database: Database) -> None:
    ran = database.run(
        "UPDATE OR IGNORE acct SET email = 'c@x'",
        "UPDATE OR REPLACE acct SET email = 'c@x' WHERE id = 2",
        "DELETE FROM acct WHERE id > 1 RETURNING id",
    )
    assert [r.rowcount for r in ran] == [1, 1, 2]
    assert [len(before) for _, _, before, _ in images(database)] == [1, 2, 2]
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE constraint failed"):
        database.run("UPDATE acct SET bal = 1", "INSERT INTO acct VALUES (7, 1, 'n', ''), (8, 1, 'N', '')")
    refused(database, "UPDATE OR FAIL acct SET email = 'c@x'", match="OR FAIL")
    refused(database, "INSERT OR ROLLBACK INTO acct VALUES (1, 1, '', '')", match="OR ROLLBACK")


def test_a_statement_that_fails_leaves_nothing_and_the_transaction_goes_on(database: Database) -> None:
    database.branch_id += 1

    def work(connection: Connection) -> None:
        database.captured(connection, "UPDATE acct SET bal = 1 WHERE id = 1")
        with pytest.raises(sqlite3.IntegrityError):
            database.captured(connection, ("INSERT INTO acct (id, bal) VALUES (?, ?)", [(8, 1), (9, None)]))
        with pytest.raises(sqlite3.OperationalError, match="no such column"):
            database.captured(connection, "UPDATE acct SET bal = missing")
        with pytest.raises(sqlite3.OperationalError, match="UTF-8"):
            database.captured(connection, "UPDATE acct SET bal = 9, note = CAST(x'ff' AS TEXT) RETURNING note")
        database.captured(connection, "UPDATE acct SET bal = 2 WHERE id = 1")

    database.local(work)
    assert [(before, after) for _, _, before, after in images(database)] == [([(1, 100)], [(1, 1)]), ([(1, 1)], [(1, 2)])]
    assert len(database.rows("acct")["acct"]) == 3
    with pytest.raises(sqlite3.IntegrityError):
        database.run("INSERT INTO acct VALUES (1, 1, '', '')")
    assert not database.local(lambda c: c.exec_driver_sql("SELECT 1 FROM temp.sqlite_master").all())


def test_many_rows_of_parameters(database: Database) -> None:
    update, delete = database.run(
        ("UPDATE acct SET bal = bal + ? WHERE id = ?", [(1, 1), (2, 2), (3, 99)]), ("DELETE FROM acct WHERE id = ?", [(1,), (3,)])
    )
    assert (update.rowcount, delete.rowcount) == (2, 2)
    assert images(database)[0] == ("acct", ["id", "bal"], [(1, 100), (2, 200)], [(1, 101), (2, 202)])
    assert images(database)[1][2] == [(1, 101, "a@x", "one"), (3, 300, None, "three")]


def test_values_of_every_type_in_columns_of_any(database: Database) -> None:
    database.plain("CREATE TABLE z (id TEXT PRIMARY KEY, i INTEGER, r REAL, x) WITHOUT ROWID", "INSERT INTO z (id) VALUES ('k')")
    values: list[Any] = [
        1,
        2**63 - 1,
        1.0,
        -0.0,
        5e-324,
        1e308,
        float("inf"),
        float("-inf"),
        "1",
        "",
        "a\0b",
        "'\"\\\n,",
        "\U0001f600",
    ]
    for value in [*values, b"", b"1", b"\0\xff", None]:
        database.run(("UPDATE z SET x = ?, i = ?, r = ?", (value,) * 3))
    found = images(database)
    assert found == [("z", ["id", "i", "r", "x"], [("k", b"\0\xff", b"\0\xff", b"\0\xff")], [("k", None, None, None)])]
    database.run("UPDATE z SET x = CAST(x'ff61' AS TEXT), i = '7', r = 7")
    assert repr(images(database)[0][3]) == repr([("k", 7, 7.0, "\udcffa")])


def test_a_nan_is_null(database: Database) -> None:
    database.run(("UPDATE acct SET note = ? WHERE id = 1", (float("nan"),)))
    assert images(database) == [("acct", ["id", "note"], [(1, "one")], [(1, None)])]


def test_what_the_application_reads_otherwise_is_captured_as_it_is(tmp_path: Path, driver: str) -> None:
    sqlite3.register_converter("shout", lambda found: found.decode().upper())
    flags = sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES
    database = Database(tmp_path / "converted.db", driver, detect_types=flags)

    def work(connection: Connection) -> Any:
        raw = connection.connection.cursor()
        inner = getattr(getattr(raw, "_connection", None), "_conn", None) or raw.connection
        inner.text_factory, inner.row_factory = bytes, lambda cursor, row: [*row, "more"]
        try:
            return database.captured(connection, ('UPDATE c SET "v [shout]" = \'x\' RETURNING "v [shout]"', ()))
        finally:
            inner.text_factory, inner.row_factory = str, None

    database.plain('CREATE TABLE c (id shout PRIMARY KEY, "v [shout]" shout)', "INSERT INTO c VALUES ('low', 'ly')")
    database.branch_id += 1
    (ran,) = database.local(work)
    assert list(ran.rows) == [["X", "more"]], "the application sees what it has asked for"
    assert images(database) == [("c", ["id", "v [shout]"], [("low", "ly")], [("low", "x")])]
    database.close()


def test_a_large_column_that_does_not_change_is_not_in_the_record(database: Database) -> None:
    database.plain(("UPDATE acct SET note = ? WHERE id = 1", ("n" * 1_000_000,)))
    database.run("UPDATE acct SET bal = 1 WHERE id = 1", "UPDATE acct SET note = note || 'x' WHERE id = 1")
    sizes = database.plain("SELECT length(befores) + length(afters) FROM txcoord_undo_log ORDER BY seq")[0].rows
    assert sizes[0][0] < 40
    assert 1_000 < sizes[1][0] < 50_000, "compressed"


def test_ten_thousand_rows_and_more_columns_than_a_function_takes(database: Database) -> None:
    columns = [f"c{n}" for n in range(130)]
    database.plain(f"CREATE TABLE wide (id INTEGER PRIMARY KEY, {', '.join(columns)})")
    numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
    database.run(f"{numbers} INSERT INTO wide (id, c7) SELECT i, i FROM n", "UPDATE wide SET c7 = c7 + 1, c129 = 'last'")
    inserted, updated = images(database)
    assert (len(inserted[3]), inserted[3][0][:9]) == (10_000, (1, *[None] * 7, 1))
    assert updated[1:] == (
        ["id", "c7", "c129"],
        [(i, i, None) for i in range(1, 10_001)],
        [(i, i + 1, "last") for i in range(1, 10_001)],
    )


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("DELETE FROM nowhere", "there is no table nowhere"),
        ("UPDATE acct SET nothing = 1", "has no column nothing"),
        ("DELETE FROM txcoord_undo_log", "txcoord's own"),
        ("UPDATE acct SET bal = 1; DELETE FROM acct", "several statements"),
        ("CREATE TABLE x (id)", "schema"),
        ("PRAGMA foreign_keys = OFF", "session"),
        ("COMMIT", "end the local transaction"),
        ("ATTACH 'x' AS y", "schema"),
        ("SELECT load_extension('x')", "load_extension"),
        ("UPDATE acct SET bal = changes()", "rowcount"),
        ("SELECT total_changes()", "rowcount"),
        ("SELECT * FROM acct FOR UPDATE", "no locking clause"),
        ("UPDATE t SET v = 1", "no primary key"),
        ("UPDATE k SET rowid = 7", "has no column rowid"),
        ("INSERT INTO k VALUES (NULL, 1)", "no value in its primary key"),
        ("UPDATE g SET v = 1", "trigger audit"),
        ("INSERT INTO g VALUES (1, 1)", "trigger audit"),
        ("DELETE FROM v", "a view"),
    ],
)
def test_what_could_not_be_undone_is_refused(database: Database, statement: str, match: str) -> None:
    database.plain(
        "CREATE TABLE t (v)",
        "CREATE TABLE k (a TEXT PRIMARY KEY, v)",
        "CREATE TABLE g (id INTEGER PRIMARY KEY, v)",
        "CREATE TRIGGER audit AFTER DELETE ON g BEGIN DELETE FROM acct; END",
        "CREATE TRIGGER audits AFTER UPDATE ON g BEGIN DELETE FROM acct; END",
        "CREATE VIEW v AS SELECT * FROM acct",
    )
    refused(database, statement, match=match)
    assert database.log() == []


def test_foreign_keys_carry_changes_only_where_they_are_enforced(tmp_path: Path, driver: str) -> None:
    for enforced in (False, True):
        database = Database(tmp_path / f"keys{enforced}.db", driver, foreign_keys=enforced)
        database.plain(ACCT, "CREATE TABLE child (id INTEGER PRIMARY KEY, up REFERENCES acct ON DELETE CASCADE)")
        database.plain("INSERT INTO acct VALUES (1, 1, '', '')", "INSERT INTO child VALUES (1, 1)")
        if enforced:
            refused(database, "DELETE FROM acct", match="foreign key")
            refused(database, "REPLACE INTO acct VALUES (1, 2, '', '')", match="foreign key")
        else:
            assert database.run("DELETE FROM acct")[0].rowcount == 1
        assert database.run("UPDATE acct SET id = id")[0].rowcount == enforced
        assert len(database.rows("child")["child"]) == 1
        database.close()


def test_temporary_triggers_of_the_application_are_seen(database: Database) -> None:
    def work(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TEMP TRIGGER mine AFTER UPDATE ON acct BEGIN DELETE FROM acct WHERE id = 3; END")
        database.captured(connection, "UPDATE acct SET bal = 1 WHERE id = 1")

    with pytest.raises(UnsupportedSqlError, match="trigger mine"):
        database.local(work)


def test_rows_that_nobody_told_of_are_never_lost(database: Database) -> None:
    """A net below all rules: the database's own count of changes."""
    database.plain("CREATE TABLE audit (id INTEGER PRIMARY KEY)")

    def work(connection: Connection) -> None:
        adapted: Any = connection.connection.dbapi_connection
        raw = sqlite_connection(adapted)
        adapted.create_function("writes", 0, lambda: raw.execute("INSERT INTO audit DEFAULT VALUES").lastrowid)
        database.captured(connection, "UPDATE acct SET bal = writes() WHERE id = 1")

    before = database.rows("acct", "audit")
    with pytest.raises(UnsupportedSqlError, match="has changed 2 rows, 1 of which were seen"):
        database.local(work)
    assert database.rows("acct", "audit") == before
    assert database.log() == []


def test_columns_that_nobody_told_of_are_never_lost(database: Database) -> None:
    def work(connection: Connection) -> None:
        cursor, statement = connection.connection.cursor(), recognised("UPDATE acct SET bal = 1, note = 'x'")
        table = database.capture.table(cursor, statement)
        database.capture.run(cursor, replace(statement, assigned=("bal",)), table, None, Entry("x", 1, True))

    before = database.rows("acct")
    with pytest.raises(UnsupportedSqlError, match="which columns it changes"):
        database.local(work)
    assert database.rows("acct") == before


def test_outside_a_global_transaction_only_the_keys_are_wanted(database: Database) -> None:
    def work(connection: Connection) -> frozenset[str]:
        cursor, statement = connection.connection.cursor(), recognised("UPDATE acct SET bal = 1 WHERE id = 1")
        table = database.capture.table(cursor, statement)
        return database.capture.run(cursor, statement, table, None, Entry("", 0)).keys

    assert database.local(work) == {"main.acct(id)=(1)"}
    assert database.log() == []


def test_reads_that_are_under_way_go_on(database: Database) -> None:
    def work(connection: Connection) -> list[int]:
        reader = connection.connection.cursor()
        reader.execute("SELECT id FROM acct ORDER BY id")
        first: Any = reader.fetchone()
        database.captured(connection, "UPDATE acct SET bal = bal + 1")
        with pytest.raises(sqlite3.IntegrityError):
            database.captured(connection, "INSERT INTO acct (id, bal) VALUES (7, 7), (1, 1)")
        return [row[0] for row in (first, *reader.fetchall())]

    assert database.local(work) == [1, 2, 3]


def test_nothing_is_left_on_the_connection(database: Database) -> None:
    database.run("REPLACE INTO acct VALUES (1, 1, 'q', '')", "DELETE FROM acct WHERE id = 2")
    with pytest.raises(UnsupportedSqlError):
        database.run("DELETE FROM acct WHERE changes() > 0")

    def work(connection: Connection) -> None:
        assert not connection.exec_driver_sql("SELECT * FROM temp.sqlite_master").all()
        assert not connection.exec_driver_sql("PRAGMA recursive_triggers").scalar_one()
        connection.exec_driver_sql("ALTER TABLE acct DROP COLUMN note")

    database.local(work)


def test_a_savepoint_takes_its_records_along(database: Database) -> None:
    database.branch_id += 1

    def work(connection: Connection) -> None:
        database.captured(connection, "UPDATE acct SET bal = 1 WHERE id = 1")
        connection.exec_driver_sql("SAVEPOINT s")
        database.captured(connection, "UPDATE acct SET bal = 2 WHERE id = 1")
        connection.exec_driver_sql("ROLLBACK TO s")
        database.captured(connection, "UPDATE acct SET bal = 3 WHERE id = 1")

    database.local(work)
    assert [(before, after) for _, _, before, after in images(database)] == [([(1, 100)], [(1, 1)]), ([(1, 1)], [(1, 3)])]
    assert [seq for _, seq, _ in database.log()] == [1, 2]
