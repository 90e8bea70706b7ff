"""What SQLite says of tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_rm.catalogue.sqlite import SqliteTable, table
from txcoord_rm.catalogue.table import Event, Unique

from tests.contract.rm.sqlite_database import Database


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{tmp_path / 'catalogue.db'}")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def facts(connection: Connection, *parts: str) -> SqliteTable | None:
    return table(lambda sql, given: [tuple(r) for r in connection.exec_driver_sql(sql, tuple(given))], parts)


def make(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)


def found(connection: Connection, *parts: str) -> SqliteTable:
    seen = facts(connection, *parts)
    assert seen is not None
    return seen


def test_columns_and_keys(connection: Connection) -> None:
    make(
        connection,
        'CREATE TABLE "My T" (b INT, a VARCHAR(10) COLLATE NOCASE NOT NULL, "C d" DOUBLE, e, f DATE, '
        "v AS (b + 1) VIRTUAL, s TEXT AS (a || 'x') STORED UNIQUE, PRIMARY KEY (a, b), UNIQUE (b, f))",
    )
    seen = found(connection, "my t")
    assert (seen.schema, seen.name, seen.root) == ("main", "My T", ("main", "My T"))
    assert [(c.name, c.type, c.base, c.generated) for c in seen.columns] == [
        ("b", "INT", "INTEGER", False),
        ("a", "VARCHAR(10)", "TEXT", False),
        ("C d", "DOUBLE", "REAL", False),
        ("e", "", "BLOB", False),
        ("f", "DATE", "NUMERIC", False),
        ("v", "", "BLOB", True),
        ("s", "TEXT", "TEXT", True),
    ]
    assert (seen.primary_key, seen.key_collations, seen.rowid) == (("a", "b"), ("NOCASE", "BINARY"), "")
    assert sorted(unique.columns for unique in seen.uniques) == [("b", "f"), ("s",)]
    assert seen.obstacle == ""
    assert facts(connection, "nowhere") is None
    assert facts(connection, "main", "nowhere") is None


def test_the_column_that_is_the_rowid(connection: Connection) -> None:
    make(
        connection,
        "CREATE TABLE alias (Id INTEGER PRIMARY KEY, v)",
        "CREATE TABLE descending (id INTEGER PRIMARY KEY DESC, v)",
        "CREATE TABLE without (id INTEGER PRIMARY KEY, v) WITHOUT ROWID",
        "CREATE TABLE shadowed (id INTEGER PRIMARY KEY, rowid)",
    )
    assert found(connection, "alias").rowid == "Id"
    assert found(connection, "alias").named("ROWID") == found(connection, "alias").named("id") == "Id"
    for name in ("descending", "without"):
        assert found(connection, name).rowid == ""
        assert found(connection, name).named("oid") is None
    assert found(connection, "shadowed").named("rowid") == "rowid"
    assert found(connection, "shadowed").named("oid") == "id"


def test_unique_indexes(connection: Connection) -> None:
    make(
        connection,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a COLLATE NOCASE, b)",
        "CREATE UNIQUE INDEX partial ON t (b) WHERE a > 0",
        "CREATE UNIQUE INDEX expression ON t (lower(a))",
        "CREATE UNIQUE INDEX collated ON t (a, b COLLATE RTRIM)",
        "CREATE INDEX harmless ON t (a, b)",
    )
    seen = found(connection, "t")
    assert sorted(zip(seen.uniques, seen.unique_collations), key=lambda pair: pair[0].name) == [
        (Unique("collated", ("a", "b")), ("NOCASE", "RTRIM")),
        (Unique("expression", ()), ("BINARY",)),
        (Unique("partial", ("b",), partial=True), ("BINARY",)),
    ]


def test_triggers_say_when_they_fire(connection: Connection) -> None:
    body = "BEGIN SELECT 1; END"
    make(
        connection,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
        f"CREATE TRIGGER IF NOT EXISTS a AFTER DELETE ON t {body}",
        f"CREATE TRIGGER main.b BEFORE UPDATE OF v ON t WHEN new.v > 1 {body}",
        f'CREATE TRIGGER "INSERT" INSERT ON t {body}',
        f"CREATE TEMP TRIGGER d AFTER INSERT ON t {body}",
    )
    seen = found(connection, "t").triggers
    assert sorted((t.name, t.events, t.after) for t in seen) == [
        ("INSERT", {Event.INSERT}, False),
        ("a", {Event.DELETE}, True),
        ("b", {Event.UPDATE}, False),
        ("d", {Event.INSERT}, True),
    ]
    assert not any(t.own_row_only for t in seen)


def test_foreign_keys_in_both_directions(connection: Connection) -> None:
    make(
        connection,
        "CREATE TABLE parent (a, b, c UNIQUE, PRIMARY KEY (a, b))",
        "CREATE TABLE child (id INTEGER PRIMARY KEY, x, y, z REFERENCES Parent (c) ON UPDATE SET NULL, "
        "FOREIGN KEY (x, y) REFERENCES parent ON DELETE CASCADE)",
        "CREATE TABLE tree (id INTEGER PRIMARY KEY, up REFERENCES tree ON DELETE RESTRICT)",
    )
    seen = sorted(found(connection, "parent").references, key=lambda reference: reference.columns)
    assert [(r.table, r.their_columns, r.columns, r.on_delete, r.on_update) for r in seen] == [
        ('"main"."child"', ("x", "y"), ("a", "b"), True, False),
        ('"main"."child"', ("z",), ("c",), False, True),
    ]
    parents = sorted(found(connection, "child").parents, key=lambda reference: reference.columns)
    assert [(r.columns, r.their_columns) for r in parents] == [(("x", "y"), ("a", "b")), (("z",), ("c",))]
    ((tree,), (up,)) = found(connection, "tree").references, found(connection, "tree").parents
    assert (tree.to_itself, tree.on_delete) == (True, False)
    assert (up.columns, up.their_columns) == (("up",), ("id",))


@pytest.mark.parametrize(
    ("made", "obstacle"),
    [
        ("CREATE TABLE t (a, b)", "no primary key"),
        ("CREATE TEMP TABLE t (id INTEGER PRIMARY KEY)", "temporary"),
        ("CREATE VIEW t AS SELECT 1 AS id", "a view"),
        ("CREATE VIRTUAL TABLE t USING fts5 (a)", "virtual"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, a UNIQUE ON CONFLICT ROLLBACK)", "ON CONFLICT ROLLBACK"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, a NOT NULL /* */ ON /* */ CONFLICT -- x\n FAIL)", "ON CONFLICT FAIL"),
        ("CREATE TABLE other.t (id INTEGER PRIMARY KEY)", "attached database other"),
    ],
)
def test_what_stands_against_capture(connection: Connection, made: str, obstacle: str) -> None:
    make(connection, "ATTACH ':memory:' AS other", made)
    assert obstacle in found(connection, "t").obstacle


def test_which_database_a_name_means(connection: Connection) -> None:
    make(connection, "CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TEMP TABLE t (a)", "ATTACH ':memory:' AS other")
    assert "temporary" in found(connection, "t").obstacle, "without a database's name it is the temporary one"
    assert found(connection, "main", "T").obstacle == ""
    assert "attached" in found(connection, "other", "t").obstacle
    make(connection, "CREATE TABLE main.numbered (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    assert "SQLite's own" in found(connection, "sqlite_sequence").obstacle


def test_a_collation_of_the_application(connection: Connection) -> None:
    raw = connection.connection.dbapi_connection
    assert raw is not None
    raw.create_collation("mine", lambda a, b: (a > b) - (a < b))
    make(
        connection,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT COLLATE mine UNIQUE)",
        "CREATE TABLE u (id INTEGER PRIMARY KEY, a TEXT COLLATE mine)",
    )
    assert "collation MINE" in found(connection, "t").obstacle
    assert found(connection, "u").obstacle == "", "where no key depends on it, it does no harm"


def test_texts_in_another_encoding(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'utf16.db'}")
    with engine.connect() as connection:
        make(connection, "PRAGMA encoding = 'UTF-16'", "CREATE TABLE t (id INTEGER PRIMARY KEY)")
        assert "UTF-16" in found(connection, "t").obstacle
    engine.dispose()


def test_it_is_asked_again_when_the_schema_has_changed(tmp_path: Path) -> None:
    database = Database(tmp_path / "changing.db", "pysqlite")
    other = create_engine(f"sqlite:///{tmp_path / 'changing.db'}")
    database.plain("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    assert database.run("INSERT INTO t VALUES (1, 1)")[0].keys == {"main.t(id)=(1)"}
    with other.begin() as connection:
        make(connection, "CREATE UNIQUE INDEX i ON t (v)")
    assert database.run("INSERT INTO t VALUES (2, 2)")[0].keys == {"main.t(id)=(2)", "main.t(v)=(2)"}
    with other.begin() as connection:
        make(connection, "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t WHERE id = 1; END")
    with pytest.raises(UnsupportedSqlError, match="trigger g"):
        database.run("INSERT INTO t VALUES (3, 3)")
    assert len(database.rows("t")["t"]) == 2
    other.dispose()
    database.close()
