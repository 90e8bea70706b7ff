"""What the catalogue of MariaDB says of tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine
from txcoord_rm.catalogue import mysql
from txcoord_rm.catalogue.mysql import MysqlCatalogue
from txcoord_rm.catalogue.table import Event, Reference, Table, Trigger, Unique

from tests.servers.fixtures import FreshUrl


@pytest.fixture
def connection(fresh_mariadb_url: FreshUrl) -> Iterator[Connection]:
    engine = create_engine(fresh_mariadb_url("pymysql") + "?charset=utf8mb4")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def database(connection: Connection) -> str:
    return str(connection.exec_driver_sql("SELECT DATABASE()").scalar_one())


def facts(connection: Connection, name: str, catalogue: MysqlCatalogue | None = None) -> Table:
    found = (catalogue or MysqlCatalogue()).table(connection.connection.cursor(), database(connection), name)
    assert found is not None
    return found


def run(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement.replace("%", "%%"))


def test_columns_and_keys(connection: Connection) -> None:
    run(
        connection,
        "CREATE TABLE `My``Table` (b varchar(9) CHARACTER SET latin1 COLLATE latin1_german2_ci, "
        "id bigint unsigned AUTO_INCREMENT, d decimal(8,2), g int AS (d + 1) STORED, h int AS (d) VIRTUAL, "
        "at timestamp ON UPDATE current_timestamp, t text, "
        "hidden int INVISIBLE, PRIMARY KEY (id, b), UNIQUE u1 (d, g), UNIQUE u2 (t(7)), UNIQUE u3 (b), KEY k (d))",
    )
    table = facts(connection, "My`Table")
    assert table.primary_key == ("id", "b")
    assert [column.name for column in table.columns] == ["b", "id", "d", "g", "h", "at", "t", "hidden"]
    b, number, d, g, h, at = table.columns[:6]
    assert (b.type, b.base, b.charset, b.collation) == ("varchar(9)", "varchar", "latin1", "latin1_german2_ci")
    assert (number.base, number.numbered, number.type) == ("bigint", True, "bigint(20) unsigned")
    assert (d.type, g.generated, h.generated, at.touched, at.generated) == ("decimal(8,2)", True, True, True, False)
    assert table.uniques == (Unique("u1", ("d", "g")), Unique("u2", ()), Unique("u3", ("b",)))
    assert table.follows(["d"]) == {"d", "g", "h", "at"}
    assert (table.obstacle, table.root) == ("", (database(connection), "My`Table"))


def test_triggers(connection: Connection) -> None:
    bodies = {
        "a": ("BEFORE UPDATE", "SET NEW.v = UPPER(NEW.v)", True), "b": ("BEFORE INSERT", "SET NEW.v = other(1)", False),
        "c": ("AFTER DELETE", "INSERT INTO u VALUES (1)", False), "d": ("BEFORE DELETE", "SET @x := (SELECT 1)", False),
        "e": ("BEFORE INSERT", "BEGIN SET NEW.v = 1; DELETE FROM u; END", False),
    }  # fmt: skip
    run(connection, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE u (id int)")
    run(connection, *(f"CREATE TRIGGER {name} {when} ON t FOR EACH ROW {body}" for name, (when, body, _) in bodies.items()))
    assert facts(connection, "t").triggers == tuple(
        Trigger(name, frozenset({Event(when.split()[1])}), when.startswith("AFTER"), own)
        for name, (when, _, own) in bodies.items()
    )


def test_foreign_keys_that_point_here(connection: Connection) -> None:
    run(
        connection,
        "CREATE TABLE p (a int, b int, up int REFERENCES p (a) ON DELETE SET NULL, PRIMARY KEY (a, b))",
        "CREATE TABLE c (id int PRIMARY KEY, x int, y int, FOREIGN KEY (y, x) REFERENCES p (a, b) ON UPDATE CASCADE)",
    )
    name = database(connection)
    assert facts(connection, "p").references == (
        Reference(f"`{name}`.`c`", ("y", "x"), ("a", "b"), on_delete=False, on_update=True),
        Reference(f"`{name}`.`p`", ("up",), ("a",), on_delete=True, on_update=False, to_itself=True),
    )
    assert facts(connection, "c").references == ()


@pytest.mark.parametrize(
    ("made", "obstacle"),
    [
        ("TABLE t (id int)", "no primary key"), ("TABLE t (id int PRIMARY KEY) ENGINE=MEMORY", "MEMORY does not roll back"),
        ("VIEW t AS SELECT 1 AS id", "a view"), ("SEQUENCE t", "a sequence"),
        ("TABLE t (id int PRIMARY KEY) WITH SYSTEM VERSIONING", "history"),
        ("TEMPORARY TABLE t (id int PRIMARY KEY)", "temporary"),
        ("TABLE t (id int, a date, b date, PERIOD FOR p (a, b), PRIMARY KEY (id, p WITHOUT OVERLAPS))", "a period"),
        ("TABLE t (v blob, PRIMARY KEY (v(9)))", "a part of a text"), ("TABLE t (v float PRIMARY KEY)", "a FLOAT"),
        ("TABLE t (id int PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 3", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_captured(connection: Connection, made: str, obstacle: str) -> None:
    run(connection, f"CREATE {made}")
    found = facts(connection, "t").obstacle
    assert obstacle in found
    assert bool(found) is bool(obstacle)


def test_what_is_not_there(connection: Connection) -> None:
    cursor = connection.connection.cursor()
    assert MysqlCatalogue().table(cursor, database(connection), "nothing") is None
    assert MysqlCatalogue().table(cursor, "txcoord_nowhere", "nothing") is None
    run(connection, "CREATE TABLE t (id int PRIMARY KEY)")
    assert MysqlCatalogue().table(cursor, database(connection), "T") is None, "names differ by case, as files do"


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE t ADD COLUMN w int, ALGORITHM=INSTANT", "ALTER TABLE t DROP COLUMN v", "CREATE UNIQUE INDEX u ON t (v)",
        "ALTER TABLE t MODIFY v varchar(9) COLLATE utf8mb4_bin", "ALTER TABLE t ENGINE = MyISAM", "DROP TABLE t",
        "CREATE TEMPORARY TABLE t (id int PRIMARY KEY, v varchar(9))", "ALTER TABLE t ADD SYSTEM VERSIONING",
    ],
)  # fmt: skip
def test_a_change_is_noticed_when_it_matters(connection: Connection, change: str) -> None:
    run(connection, "CREATE TABLE t (id int AUTO_INCREMENT PRIMARY KEY, v varchar(9))", "INSERT INTO t (v) VALUES ('x')")
    catalogue, cursor = MysqlCatalogue(), connection.connection.cursor()
    table = facts(connection, "t", catalogue)
    run(connection, "INSERT INTO t (v) VALUES ('y')")
    assert catalogue.confirmed(cursor, table), "counting goes on"
    assert facts(connection, "t", catalogue) is table
    run(connection, change)
    assert not catalogue.confirmed(cursor, table)
    again = catalogue.table(cursor, database(connection), "t")
    assert again != table
    if again is not None and not again.obstacle:
        assert catalogue.confirmed(cursor, again)


def test_what_others_say_of_a_table_is_read_again(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    run(connection, "CREATE TABLE t (id int PRIMARY KEY)")
    catalogue, cursor = MysqlCatalogue(), connection.connection.cursor()
    assert facts(connection, "t", catalogue).references == ()
    assert "mine" not in catalogue.writing_functions(cursor)
    run(connection, "CREATE TABLE c (t int REFERENCES t (id))", "CREATE FUNCTION Mine() RETURNS int RETURN 1")
    run(connection, "CREATE FUNCTION asks() RETURNS int READS SQL DATA RETURN 1")
    assert facts(connection, "t", catalogue).references == (), "they are remembered"
    monkeypatch.setattr(mysql, "MAX_AGE_S", -1.0)
    assert len(facts(connection, "t", catalogue).references) == 1
    assert "mine" in catalogue.writing_functions(cursor)
    assert "asks" not in catalogue.writing_functions(cursor)
