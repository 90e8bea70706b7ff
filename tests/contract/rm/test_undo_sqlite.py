"""After an undo on SQLite every row is what it was, to the bit; or nothing is, and it says which rows stand against it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from txcoord_rm.catalogue.facts import facts_on
from txcoord_rm.undo.item import CorruptRecordError
from txcoord_rm.undo.log import Difference, forget, undo

from tests.contract.rm.sqlite_database import Database, Written

ACCT = "CREATE TABLE acct (id INTEGER PRIMARY KEY, bal NUMERIC NOT NULL, email TEXT UNIQUE COLLATE NOCASE, note)"
REFERRED = "rows that refer to it would go, or change, with it"


@pytest.fixture(params=["pysqlite", "aiosqlite"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(tmp_path: Path, driver: str) -> Iterator[Database]:
    database = Database(tmp_path / "undo.db", driver)
    database.plain(ACCT, "INSERT INTO acct VALUES (1, 100, 'a@x', 'one'), (2, 200, 'b@x', NULL), (3, 300, NULL, x'00ff')")
    yield database
    database.close()


@pytest.fixture
def enforcing(tmp_path: Path, driver: str) -> Iterator[Database]:
    """Foreign keys are enforced."""
    database = Database(tmp_path / "enforcing.db", driver, foreign_keys=True)
    yield database
    database.close()


def undone(database: Database, *statements: Written, tables: tuple[str, ...] = ("acct",)) -> None:
    """Run statements in one branch each, undo all, and compare."""
    before = database.rows(*tables)
    branches = [database.branch(statement) for statement in statements]
    assert database.rows(*tables) != before
    assert database.undo(*branches) == []
    assert database.rows(*tables) == before


def test_every_kind_of_change(database: Database) -> None:
    before = database.rows("acct")
    branch = database.branch(
        "UPDATE acct SET bal = bal + 1, note = 'x'",
        "DELETE FROM acct WHERE id = 3",
        "INSERT INTO acct VALUES (4, 1, 'c@x', '')",
        "UPDATE acct SET id = id + 100, email = 'z' || email",
        "INSERT INTO acct VALUES (3, 7, 'a@x', NULL)",
        "REPLACE INTO acct VALUES (3, 8, 'zb@X', 'replaced two')",
        "INSERT INTO acct VALUES (3, 9, 'q', ''), (3, 10, 'r', '') ON CONFLICT (id) DO UPDATE SET bal = excluded.bal, note = bal",
    )
    assert database.rows("acct") != before
    assert database.undo(branch) == []
    assert database.rows("acct") == before
    assert database.log() == [(branch, 1, "UNDONE")]
    assert database.undo(branch) == [], "asked for again, it is done"
    assert database.rows("acct") == before


def test_values_that_are_equal_and_not_the_same(database: Database) -> None:
    database.plain("CREATE TABLE v (id TEXT COLLATE NOCASE PRIMARY KEY, x, t TEXT COLLATE RTRIM) WITHOUT ROWID")
    database.plain(
        ("INSERT INTO v VALUES (?, ?, ?)", [("a", -0.0, "t"), ("b", 1, "t "), ("c", b"1", "T"), ("d", float("inf"), None)])
    )
    undone(database, "UPDATE v SET id = upper(id), x = x + 0.0, t = t || ' '", tables=("v",))
    undone(database, ("UPDATE v SET x = ? WHERE id = ?", [(0.0, "A"), (1.0, "B"), ("1", "C"), (1e308, "D")]), tables=("v",))
    database.plain("UPDATE v SET t = CAST(x'ff00c3' AS TEXT), x = 'a' || char(0) || 'b' WHERE id = 'a'")
    undone(database, "DELETE FROM v", tables=("v",))
    branch = database.branch("UPDATE v SET x = 0 WHERE id = 'b'")
    database.plain("UPDATE v SET x = 0.0 WHERE id = 'b'")
    assert [(d.change.after, repr(d.current)) for d in database.undo(branch)] == [(("b", 0), "('b', 0.0)")]


def test_rows_in_each_others_way(database: Database) -> None:
    numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) SELECT i, i FROM n"
    database.plain("CREATE TABLE r (id INTEGER PRIMARY KEY, rank INTEGER UNIQUE)", f"INSERT INTO r {numbers}")
    undone(database, "UPDATE r SET rank = rank - 1", "UPDATE r SET id = id - 1", tables=("r",))
    swap = ("UPDATE r SET rank = -1 WHERE id = 1", "UPDATE r SET rank = 1 WHERE id = 2", "UPDATE r SET rank = 2 WHERE id = 1")
    undone(database, *swap, tables=("r",))
    undone(database, "UPDATE OR REPLACE r SET id = id + 1, rank = rank + 1", tables=("r",))


def test_branches_are_undone_whatever_their_records_say_of_their_order(database: Database) -> None:
    before = database.rows("acct")
    first = database.branch("UPDATE acct SET bal = 1 WHERE id = 1")
    second = database.branch("UPDATE acct SET bal = 2 WHERE id = 1")
    database.plain(f"UPDATE txcoord_undo_log SET created_at = 0 WHERE branch_id = {second}")
    assert database.undo(first, second) == []
    assert database.rows("acct") == before


def test_what_somebody_else_wrote_is_never_overwritten(database: Database) -> None:
    branch = database.branch("UPDATE acct SET bal = 1 WHERE id < 3", "INSERT INTO acct VALUES (9, 9, NULL, NULL)")
    database.plain("UPDATE acct SET bal = 77 WHERE id = 1", "UPDATE acct SET note = 'mine' WHERE id = 9")
    written = database.rows("acct")
    assert sorted((d.change.before or (), d.change.after, d.current) for d in database.undo(branch)) == [
        ((), (9, 9, None, None), (9, 9, None, "mine")),
        ((1, 100), (1, 1), (1, 77)),
    ]
    assert database.rows("acct") == written
    assert database.log() == [(branch, 1, "IMAGE"), (branch, 2, "IMAGE")]


def test_another_column_of_the_row_is_somebody_elses_business(database: Database) -> None:
    branch = database.branch("UPDATE acct SET bal = 1 WHERE id = 1")
    database.plain("UPDATE acct SET note = 'mine' WHERE id = 1")
    assert database.undo(branch) == []
    assert database.plain("SELECT bal, note FROM acct WHERE id = 1")[0].rows == [(100, "mine")]


def test_a_person_may_have_rows_written_over(database: Database) -> None:
    before = database.rows("acct")
    database.branch(
        "UPDATE acct SET bal = 1 WHERE id = 1", "DELETE FROM acct WHERE id = 2", "INSERT INTO acct (id, bal) VALUES (9, 9)"
    )
    database.branch("DELETE FROM acct WHERE id = 3", "UPDATE acct SET id = id + 10, bal = 1.5 WHERE id = 1")
    database.plain(
        "UPDATE acct SET bal = 77 WHERE id = 11",
        "INSERT INTO acct VALUES (2, 5, 'mine', 'mine')",
        "UPDATE acct SET note = 'mine' WHERE id = 9",
    )
    assert database.undo(1, 2)
    assert database.force() == []
    assert database.rows("acct") == before
    assert database.force() == [], "there is nothing left to do"


def test_what_is_back_already_is_left_alone(database: Database) -> None:
    before = database.rows("acct")
    branch = database.branch(
        "UPDATE acct SET bal = 1 WHERE id = 1", "INSERT INTO acct VALUES (9, 9, NULL, NULL)", "DELETE FROM acct WHERE id = 2"
    )
    database.plain(
        "UPDATE acct SET bal = 100 WHERE id = 1", "DELETE FROM acct WHERE id = 9", "INSERT INTO acct VALUES (2, 200, 'b@x', NULL)"
    )
    assert database.undo(branch) == []
    assert database.rows("acct") == before


def test_a_value_that_somebody_else_has_taken(database: Database) -> None:
    branch = database.branch("UPDATE acct SET email = 'free' WHERE id = 1")
    database.plain("INSERT INTO acct VALUES (9, 9, 'A@X', NULL)")
    (difference,) = database.undo(branch)
    assert "UNIQUE constraint failed: acct.email" in difference.reason


def test_a_value_that_somebody_else_has_taken_where_the_table_says_replace(database: Database) -> None:
    database.plain(
        "CREATE TABLE u (id INTEGER PRIMARY KEY ON CONFLICT REPLACE, v UNIQUE ON CONFLICT REPLACE, w UNIQUE ON CONFLICT IGNORE)",
        "INSERT INTO u VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3)",
    )
    for statement, foreign in (
        ("UPDATE u SET v = 10 WHERE id = 1", "INSERT INTO u VALUES (9, 1, 9)"),
        ("DELETE FROM u WHERE id = 2", "INSERT INTO u VALUES (8, 2, 8)"),
        ("UPDATE u SET w = 30 WHERE id = 3", "INSERT INTO u VALUES (7, 7, 3)"),
    ):
        branch = database.branch(statement)
        database.plain(foreign)
        written = database.rows("u")
        assert "UNIQUE constraint failed" in database.undo(branch)[0].reason
        assert database.rows("u") == written


def test_a_rollback_that_comes_first_keeps_phase_one_out(database: Database) -> None:
    assert database.undo(1) == []
    assert database.log() == [(1, 1, "GUARD")]
    before = database.rows("acct")
    with pytest.raises(sqlite3.IntegrityError, match="txcoord_undo_log"):
        database.run("UPDATE acct SET bal = 0")
    assert database.rows("acct") == before
    assert database.undo(1) == []
    database.branch_id = 1
    branch = database.branch("UPDATE acct SET bal = 0")
    assert database.undo(branch) == []
    database.branch_id = branch - 1
    with pytest.raises(sqlite3.IntegrityError, match="txcoord_undo_log"):
        database.run("UPDATE acct SET bal = 0")
    assert database.rows("acct") == before


def test_a_rollback_waits_for_a_phase_one_under_way_and_no_longer_than_its_patience(database: Database) -> None:
    with sqlite3.connect(database.path) as other:
        other.execute("UPDATE acct SET bal = bal")
        began = time.monotonic()
        with pytest.raises(OperationalError, match="locked"):
            database.undo(1)
        assert 1.5 < time.monotonic() - began < 4
        other.rollback()
    other.close()
    assert database.undo(1) == []


@pytest.mark.parametrize("commits", [True, False])
def test_a_rollback_meets_a_phase_one_under_way(database: Database, commits: bool) -> None:
    other = Database(database.path, "pysqlite")
    before, branch = database.rows("acct"), 1
    database.branch_id = branch

    def phase_one(connection: Connection) -> Future[list[Difference]]:
        database.captured(connection, "UPDATE acct SET bal = 0")
        found = pool.submit(other.undo, branch)
        time.sleep(0.3)
        assert not found.done(), "it waits"
        if not commits:
            connection.rollback()
        return found

    with ThreadPoolExecutor() as pool:
        assert database.local(phase_one).result(5) == []
    assert database.rows("acct") == before
    assert database.log() == [(branch, 1, "UNDONE" if commits else "GUARD")]
    other.close()


def test_records_that_cannot_be_all_or_not_read_restore_nothing(database: Database) -> None:
    branch = database.branch("UPDATE acct SET bal = 0", "UPDATE acct SET bal = 1")
    written = database.rows("acct")
    for damage, match in (
        ("DELETE FROM txcoord_undo_log WHERE seq = 1", "not complete"),
        ("UPDATE txcoord_undo_log SET xid = 'y' WHERE seq = 2", "another transaction"),
        ("UPDATE txcoord_undo_log SET format = 9 WHERE seq = 2", "format 9"),
        ("UPDATE txcoord_undo_log SET afters = x'00' WHERE seq = 2", "cannot be read"),
        ("UPDATE txcoord_undo_log SET afters = NULL WHERE seq = 2", "NoneType instead of bytes"),
        ("UPDATE txcoord_undo_log SET afters = '[[1]]' WHERE seq = 2", "str instead of bytes"),
        ("UPDATE txcoord_undo_log SET afters = CAST('[[{\"hex\": 1}]]' AS BLOB) WHERE seq = 2", "no value of an image"),
        ("ALTER TABLE acct RENAME COLUMN bal TO balance", "no column bal"),
        ("ALTER TABLE acct RENAME TO account", "does not exist"),
    ):

        def damaged(connection: Connection, damage: str = damage) -> None:
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql(damage)
            undo(connection, "x", [branch], facts_on(connection))

        with pytest.raises(CorruptRecordError, match=match):
            database.local(damaged)
    assert database.rows("acct") == written
    assert database.undo(branch) == []


def test_records_of_committed_transactions_go(database: Database) -> None:
    branches = [database.branch("UPDATE acct SET bal = bal + 1") for _ in range(3)]
    assert database.local(lambda connection: forget(connection, [("x", branch) for branch in branches[:2]])) == 2
    assert database.log() == [(branches[2], 1, "IMAGE")]


TREE = "CREATE TABLE tree (id INTEGER PRIMARY KEY, up REFERENCES tree {})"
CHILD = "CREATE TABLE child (id INTEGER PRIMARY KEY, up INT REFERENCES acct {})"


def test_rows_of_one_statement_that_refer_to_each_other(enforcing: Database) -> None:
    enforcing.plain(TREE.format(""), "INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (4, 5), (5, 4)")
    undone(enforcing, "DELETE FROM tree", "INSERT INTO tree VALUES (12, 11), (11, NULL), (14, 15), (15, 14)", tables=("tree",))


def test_own_rows_that_would_go_with_a_row_are_undone_too(enforcing: Database) -> None:
    enforcing.plain(TREE.format("ON DELETE CASCADE"), "INSERT INTO tree VALUES (1, NULL)")
    undone(
        enforcing,
        "INSERT INTO tree VALUES (2, 1), (3, 2), (4, 2)",
        "INSERT INTO tree SELECT id + 10, id FROM tree",
        "WITH RECURSIVE n (i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 600) "
        "INSERT INTO tree SELECT i, nullif(i - 1, 99) FROM n",
        "WITH RECURSIVE n (i) AS (SELECT 1600 UNION ALL SELECT i - 1 FROM n WHERE i > 1100) "
        "INSERT INTO tree SELECT i, nullif(i - 1, 1099) FROM n",
        tables=("tree",),
    )


@pytest.mark.parametrize("action", ["", "ON DELETE CASCADE", "ON DELETE SET NULL", "ON DELETE RESTRICT"])
def test_no_row_of_others_goes_with_a_parent_that_is_taken_away(enforcing: Database, action: str) -> None:
    enforcing.plain(ACCT, CHILD.format(action))
    branch = enforcing.branch("INSERT INTO acct VALUES (1, 1, NULL, NULL), (2, 2, NULL, NULL)")
    enforcing.plain("INSERT INTO child VALUES (7, 2)")
    written = enforcing.rows("acct", "child")
    differences = enforcing.undo(branch)
    reason = REFERRED if action in ("ON DELETE CASCADE", "ON DELETE SET NULL") else "FOREIGN KEY constraint failed"
    assert reason in {difference.reason for difference in differences}
    assert enforcing.rows("acct", "child") == written


def test_no_row_of_others_changes_with_a_key_that_is_set_back(enforcing: Database) -> None:
    for action, reason in (("ON UPDATE CASCADE", ""), ("", "FOREIGN KEY constraint failed")):
        enforcing.plain(ACCT, "INSERT INTO acct VALUES (1, 1, NULL, NULL)")
        branch = enforcing.branch("UPDATE acct SET id = 5")
        enforcing.plain(CHILD.format(action), "INSERT INTO child VALUES (7, 5)")
        written = enforcing.rows("acct", "child")
        assert [difference.reason for difference in enforcing.undo(branch)] == [reason]
        assert enforcing.rows("acct", "child") == written
        enforcing.plain("DROP TABLE child", "DROP TABLE acct")


def test_a_parent_that_is_gone_meanwhile(enforcing: Database) -> None:
    enforcing.plain(ACCT, CHILD.format(""), "INSERT INTO acct VALUES (1, 1, NULL, NULL)", "INSERT INTO child VALUES (7, 1)")
    branch = enforcing.branch("DELETE FROM child")
    enforcing.plain("DELETE FROM acct")
    assert [difference.reason for difference in enforcing.undo(branch)] == ["FOREIGN KEY constraint failed"]
    enforcing.plain("INSERT INTO acct VALUES (1, 2, NULL, NULL)")
    assert enforcing.undo(branch) == []
    assert enforcing.plain("SELECT * FROM child")[0].rows == [(7, 1)]


def test_without_enforcement_a_row_may_have_children_before_its_parent(database: Database) -> None:
    database.plain(CHILD.format("ON DELETE CASCADE"), "INSERT INTO child VALUES (7, 50)")
    undone(database, "INSERT INTO acct VALUES (50, 1, NULL, NULL)", tables=("acct", "child"))


def test_a_trigger_that_was_made_meanwhile(database: Database) -> None:
    branch = database.branch("UPDATE acct SET bal = 1 WHERE id = 1")
    database.plain("CREATE TRIGGER more AFTER UPDATE ON acct BEGIN UPDATE acct SET bal = bal + 0.5 WHERE id = new.id; END")
    (difference,) = database.undo(branch)
    assert difference.reason == "the database made (1, 100.5) of a row"
    assert database.plain("SELECT bal FROM acct WHERE id = 1")[0].rows == [(1,)]


def test_ten_thousand_rows_within_two_seconds(database: Database) -> None:
    numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
    database.plain("CREATE TABLE big (id INTEGER PRIMARY KEY, s TEXT UNIQUE, v)")
    database.plain(f"{numbers} INSERT INTO big SELECT i, 's' || i, i / 3.0 FROM n")
    before = database.rows("big")
    more = f"{numbers} INSERT INTO big SELECT i + 20000, i, 0 FROM n"
    for statement in ("UPDATE big SET v = v + 1, s = 'x' || s", "DELETE FROM big", more, "UPDATE big SET id = id + 10000"):
        branch = database.branch(statement)
        began = time.perf_counter()
        assert database.undo(branch) == []
        assert time.perf_counter() - began < 2
        assert database.rows("big") == before
