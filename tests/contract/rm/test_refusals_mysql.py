"""What is refused on MariaDB has changed nothing; and what is altered meanwhile is noticed."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import Connection
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_rm.capture.port import Entry
from txcoord_rm.catalogue import mysql as catalogue

from tests.contract.rm.maria import Maria


@pytest.fixture(autouse=True)
def acct(maria: Maria) -> None:
    maria.plain(
        "CREATE TABLE acct (id int PRIMARY KEY, bal decimal(10,2) NOT NULL, email varchar(20) UNIQUE, note text)",
        "INSERT INTO acct VALUES (1, 100, 'a@x', 'one'), (2, 200, 'b@x', NULL), (3, 300, NULL, 'three')",
    )


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("REPLACE INTO acct VALUES (1, 1, NULL, NULL)", "REPLACE"),
        ("INSERT INTO acct VALUES (1, 1, NULL, NULL) ON DUPLICATE KEY UPDATE bal = 1", "ON DUPLICATE KEY"),
        ("UPDATE acct, other SET acct.bal = 1", "between its table and SET"),
        ("UPDATE acct JOIN other USING (id) SET acct.bal = 1", "between its table and SET"),
        ("DELETE acct FROM acct JOIN other USING (id)", "more than one table"),
        ("DELETE FROM acct USING acct JOIN other", "USING"),
        ("UPDATE acct SET bal = 1 WHERE (@x := id) > 0", "sets variables"),
        ("UPDATE acct SET bal = writes(1)", "stored function writes"),
        ("DELETE FROM parent", "by a foreign key"),
        ("UPDATE parent SET id = 1", "by a foreign key"),
        ("DELETE FROM keyless", "no primary key"),
        ("DELETE FROM heap", "does not roll back"),
        ("DELETE FROM seen", "view"),
        ("DELETE FROM versioned", "history"),
        ("DELETE FROM spans", "period"),
        ("DELETE FROM prefixed", "part of a text"),
        ("DELETE FROM floats", "FLOAT"),
        ("DELETE FROM txcoord_undo_log", "txcoord's own"),
        ("DELETE FROM nowhere", "no table"),
        ("UPDATE /*!50001 acct SET bal = 1 */", "comment"),
        ("LOAD DATA INFILE 'x' INTO TABLE acct", "without undo records"),
        ("TRUNCATE acct", "without undo records"),
    ],
)
def test_what_is_refused_has_changed_nothing(maria: Maria, sql: str, reason: str) -> None:
    maria.plain(
        "CREATE TABLE other (id int PRIMARY KEY)", "INSERT INTO other VALUES (1)",
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent (id) ON DELETE SET NULL ON UPDATE CASCADE)",
        "CREATE TABLE keyless (id int)", "CREATE TABLE heap (id int PRIMARY KEY) ENGINE=MyISAM",
        "CREATE VIEW seen AS SELECT * FROM other", "CREATE TABLE versioned (id int PRIMARY KEY) WITH SYSTEM VERSIONING",
        "CREATE TABLE spans (id int PRIMARY KEY, a date, b date, PERIOD FOR p (a, b))",
        "CREATE TABLE prefixed (t text, PRIMARY KEY (t(5)))", "CREATE TABLE floats (f float PRIMARY KEY)",
        "CREATE FUNCTION writes(a int) RETURNS int RETURN a + 1",
    )  # fmt: skip
    before = maria.state("acct", "other")
    with pytest.raises(UnsupportedSqlError, match=reason):
        maria.run(sql)
    assert maria.state("acct", "other") == before
    assert maria.log() == []


def test_temporary_tables_are_refused(maria: Maria) -> None:
    def job(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TEMPORARY TABLE acct (id int PRIMARY KEY, bal int)")
        maria.captured(connection, "INSERT INTO acct VALUES (1, 1)")

    with pytest.raises(UnsupportedSqlError, match="temporary"):
        maria.work(job)
    maria.run("UPDATE acct SET bal = 0")
    with pytest.raises(UnsupportedSqlError, match="temporary"):
        maria.work(job)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("sql_mode = CONCAT(@@sql_mode, ',PAD_CHAR_TO_FULL_LENGTH')", "PAD_CHAR_TO_FULL_LENGTH"),
        ("sql_mode = CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES')", "NO_BACKSLASH_ESCAPES"),
        ("sql_mode = 'ANSI_QUOTES'", "ANSI_QUOTES"),
        ("character_set_results = 'latin1'", "latin1"),
        ("NAMES utf8mb3", "utf8mb3"),
        ("sql_select_limit = 5", "sql_select_limit"),
    ],
)
def test_settings_that_falsify_images_are_refused(maria: Maria, setting: str, reason: str) -> None:
    def job(connection: Connection) -> None:
        connection.exec_driver_sql(f"SET {setting}")
        maria.captured(connection, "UPDATE acct SET bal = 1")

    with pytest.raises(UnsupportedSqlError, match=reason):
        maria.work(job)
    assert str(maria.rows("acct")[0][1]) == "100.00"


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE acct ADD COLUMN more int DEFAULT 5, ALGORITHM=INSTANT", "ALTER TABLE acct DROP COLUMN note",
        "ALTER TABLE acct ADD UNIQUE (bal)", "ALTER TABLE acct DROP PRIMARY KEY, ADD PRIMARY KEY (bal)",
    ],
)  # fmt: skip
def test_a_table_that_was_altered_is_read_anew(maria: Maria, change: str) -> None:
    maria.run("UPDATE acct SET bal = bal WHERE id = 1")
    maria.plain(change)
    ran = maria.run("DELETE FROM acct WHERE id = 1")
    names = maria.images()[0][1]
    assert names == [column for (column,) in maria.work(lambda c: list(c.exec_driver_sql(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'acct' "
        "ORDER BY ordinal_position")))]  # fmt: skip
    assert any("(bal)" in key for key in ran.keys) is ("bal" in change)
    maria.plain("ALTER TABLE acct COMMENT 'x'")
    assert maria.run("INSERT INTO acct (id, bal) VALUES (1, 1)").rowcount == 1


def test_a_table_cannot_be_altered_while_a_branch_relies_on_what_it_read(maria: Maria) -> None:
    engine = maria.engine()
    with engine.connect() as one, engine.connect() as two:
        one.begin()
        maria.captured(one, "INSERT INTO acct (id, bal) VALUES (7, 7)", None, Entry("x", 1, first=True))
        two.exec_driver_sql("SET lock_wait_timeout = 0")
        with pytest.raises(Exception, match=r"1205|Lock wait"):
            two.exec_driver_sql("ALTER TABLE acct ADD COLUMN more int")
    engine.dispose()


def test_triggers_and_cascades_of_others_are_seen_in_time(maria: Maria, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "MAX_AGE_S", 0.2)
    maria.run("DELETE FROM acct WHERE id = 9")
    maria.plain("CREATE TABLE child (id int PRIMARY KEY, a int REFERENCES acct (id) ON DELETE CASCADE)")
    time.sleep(0.3)
    with pytest.raises(UnsupportedSqlError, match="foreign key"):
        maria.run("DELETE FROM acct WHERE id = 9")
