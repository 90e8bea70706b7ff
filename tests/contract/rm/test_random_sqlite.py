"""Random schemas, rows and statements on SQLite: what is captured does what it does plainly, and an undo leaves no trace of it.

TXCOORD_STATEMENTS says how many statements are run; TXCOORD_SEED repeats one round of them.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from txcoord_proto.errors import UnsupportedSqlError

from tests.contract.rm.sqlite_database import Database, Written, plain_result, rows

STATEMENTS = int(os.environ.get("TXCOORD_STATEMENTS", "3000"))
TYPES = [
    "INTEGER",
    "TEXT",
    "REAL",
    "NUMERIC",
    "BLOB",
    "",
    "VARCHAR(10)",
    "DOUBLE",
    "DATE",
    "TEXT COLLATE NOCASE",
    "TEXT COLLATE RTRIM",
]
STRICT_TYPES = ["INT", "INTEGER", "REAL", "TEXT", "BLOB", "ANY"]
NAMES = ["a", "B", "select", 'x"y', "n [int]", "ü", "c d", "rowid"]
VALUES: list[Any] = [
    *(None, 0, 1, -1, 2, 3, 5, 7, 2**53 + 1, -(2**63), 2**63 - 1),
    *(0.0, -0.0, 1.0, 0.1 + 0.2, 1e308, 5e-324, float("inf"), -1.5, 2.0**53, float("nan")),
    *(
        "",
        "a",
        "A",
        "a ",
        "B",
        "b",
        "5",
        " 7 ",
        "1.0",
        "x'y",
        'q"',
        "nul\0x",
        "nul\0y",
        "NUL\0x",
        "ü",
        "Ü",
        "\U0001f600",
        "0x1F",
        "1e3",
    ),
    *(b"", b"a", b"\0\xff", b"5", b"t"),
]


class Schema:
    """One table, and statements about it."""

    def __init__(self, random: random.Random) -> None:
        self._random = r = random
        self.returns = True
        names = r.sample(NAMES, r.randint(2, 6))
        strict = STRICT and r.random() < 0.15
        self.columns = [(name, r.choice(STRICT_TYPES if strict else TYPES)) for name in names]
        self.key = names[: r.choice((1, 1, 1, 2))]
        if len(self.key) == 1 and r.random() < 0.5:
            self.columns[0] = (names[0], "INTEGER")
        parent = r.random() < 0.25 and len(self.key) == 1
        if parent:
            self.columns[1] = (names[1], self.columns[0][1])
        made = [self._column(name, kind) for name, kind in self.columns]
        if r.random() < 0.3:
            made.append(f"\"g\" TEXT AS ({_q(names[-1])} || '!') {r.choice(('VIRTUAL', 'STORED'))} {r.choice(('', 'UNIQUE'))}")
        made.append(f"PRIMARY KEY ({', '.join(map(_q, self.key))}){r.choice(('', '', '', ' ON CONFLICT REPLACE'))}")
        if parent:
            made.append(f"FOREIGN KEY ({_q(names[1])}) REFERENCES t ({_q(names[0])})")
        if len(names) > 2 and r.random() < 0.3:
            made.append(f"UNIQUE ({_q(names[1])}, {_q(names[2])})")
        if r.random() < 0.2:
            made.append(f"CHECK ({_q(names[-1])} IS NOT 7)")
        options = ["WITHOUT ROWID"] * (r.random() < 0.3) + ["STRICT"] * strict
        self.statements = [f"CREATE TABLE t ({', '.join(made)}) {', '.join(options)}", "CREATE TABLE s (k, v)"]
        if r.random() < 0.2:
            self.statements.append(f"CREATE UNIQUE INDEX i ON t ({_q(names[-1])}) WHERE {_q(names[-1])} > {self.literal()}")
        if r.random() < 0.15:
            self.statements.append(f"CREATE UNIQUE INDEX j ON t (lower({_q(names[-1])}))")

    def _column(self, name: str, kind: str) -> str:
        r = self._random
        more = f" DEFAULT {self.literal()}" if r.random() < 0.3 else ""
        if name in self.key:
            more += " NOT NULL"
        elif r.random() < 0.15:
            more += f" NOT NULL{r.choice(('', ' ON CONFLICT REPLACE', ' ON CONFLICT IGNORE'))}"
        if name not in self.key and r.random() < 0.3:
            more += f" UNIQUE{r.choice(('', '', '', ' ON CONFLICT REPLACE', ' ON CONFLICT IGNORE'))}"
        return f"{_q(name)} {kind}{more}"

    # ------------------------------------------------------------ parts

    def literal(self) -> str:
        value = self._random.choice(VALUES)
        match value:
            case None:
                return "NULL"
            case bytes():
                return f"x'{value.hex()}'"
            case str() if value.isprintable():
                return "'" + value.replace("'", "''") + "'"
            case int() if abs(value) < 2**53:
                return str(value)
        return "1"

    def value(self, given: list[Any]) -> str:
        r = self._random
        match r.randint(0, 9):
            case 0:
                return self.literal()
            case 1:
                return f"CAST(x'{r.choice(('ff', '61ff00', 'c3'))}' AS TEXT)"
            case 2:
                return str(r.randint(-3, 9))
        given.append(r.choice(VALUES))
        return "?"

    def name(self) -> str:
        return _q(self._random.choice(self.columns)[0])

    def expression(self, given: list[Any]) -> str:
        r, name = self._random, self.name()
        match r.randint(0, 8):
            case 0:
                return f"{name} + 1"
            case 1:
                return f"{name} || 'z'"
            case 2:
                return name
            case 3:
                return f"(SELECT max({name}) FROM t)"
            case 4:
                return f"length({name})"
        return self.value(given)

    def condition(self, given: list[Any]) -> str:
        r, name = self._random, self.name()
        match r.randint(0, 8):
            case 0:
                return ""
            case 1:
                return f" WHERE {name} > {self.value(given)}"
            case 2:
                return f" WHERE {name} IN ({self.value(given)}, {self.value(given)}, {self.value(given)})"
            case 3:
                return f" WHERE {name} IS NOT {self.value(given)} AND {self.name()} < {self.value(given)}"
            case 4:
                return f" WHERE {name} IN (SELECT {self.name()} FROM t WHERE {self.name()} > {self.value(given)})"
            case 5:
                return f" WHERE typeof({name}) = '{r.choice(('text', 'integer', 'real', 'blob'))}'"
        return " WHERE " + " AND ".join(f"{_q(key)} = {self.value(given)}" for key in self.key)

    def returning(self) -> str:
        if not self.returns:
            return ""
        return self._random.choice(("", "", "", f" RETURNING {self.name()}, *", f" RETURNING typeof({self.name()}) AS k"))

    def either(self, *ways: str) -> str:
        return self._random.choice(("", "", "", *(f"OR {way} " for way in ways)))

    def row(self, given: list[Any], columns: list[str]) -> str:
        values = []
        for name in columns:
            if name in self.key and dict(self.columns)[name] == "INTEGER" and len(self.key) == 1:
                values.append(str(self._random.randint(-2, 12)))
            else:
                values.append(self.value(given))
        return f"({', '.join(values)})"

    def chosen(self) -> list[str]:
        names = [name for name, _ in self.columns]
        return names if self._random.random() < 0.7 else [n for n in names if n in self.key or self._random.random() < 0.5]

    # ------------------------------------------------------------ statements

    def insert(self) -> Written:
        r, given, columns = self._random, list[Any](), self.chosen()
        listed = f"({', '.join(map(_q, columns))})"
        verbs = ("INSERT", "INSERT", "INSERT", "INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE", "INSERT OR ABORT")
        head = f"{r.choice(verbs)} INTO t"
        if r.random() < 0.05:
            return f"{head} DEFAULT VALUES{self.returning()}"
        if r.random() < 0.2:
            chosen = ", ".join(self.expression(given) for _ in columns)
            return f"{head} {listed} SELECT {chosen} FROM t{self.condition(given) or ' WHERE true'}", tuple(given)
        if r.random() < 0.15:
            marks = ", ".join("?" for _ in columns)
            return f"{head} {listed} VALUES ({marks})", [tuple(r.choice(VALUES) for _ in columns) for _ in range(3)]
        values = ", ".join(self.row(given, columns) for _ in range(r.choice((1, 1, 2, 4))))
        conflict = ""
        if head.startswith("INSERT INTO") and r.random() < 0.5:
            target = f"({', '.join(map(_q, self.key))})"
            conflict = r.choice((" ON CONFLICT DO NOTHING", f" ON CONFLICT {target} DO NOTHING"))
            if r.random() < 0.6:
                name = self.name()
                conflict = (
                    f" ON CONFLICT {target} DO UPDATE SET {name} = excluded.{name}, {self._other(name)} = {self.value(given)}"
                )
        return f"{head} {listed} VALUES {values}{conflict}{self.returning()}", tuple(given)

    def _other(self, name: str) -> str:
        return next(_q(other) for other, _ in self.columns if _q(other) != name)

    def update(self) -> Written:
        r, given = self._random, list[Any]()
        names = r.sample([name for name, _ in self.columns], r.choice((1, 1, 2)))
        if r.random() < 0.6:
            names = [name for name in names if name not in self.key] or names
        head = f"UPDATE {self.either('REPLACE', 'IGNORE', 'ABORT')}{r.choice(('t', 't', 'main.t', 'T', 't AS q'))} SET "
        sets = ", ".join(f"{_q(name)} = {self.expression(given)}" for name in names)
        if r.random() < 0.1:
            return f"{head}{sets} FROM s WHERE s.k = {_q(self.key[0])}{self.returning()}", tuple(given)
        if r.random() < 0.1:
            sets = ", ".join(f"{_q(name)} = ?" for name in names)
            rows = [(*(r.choice(VALUES) for _ in names), r.choice(VALUES)) for _ in range(3)]
            return f"{head}{sets} WHERE {_q(self.key[0])} = ?", rows
        where, returning = self.condition(given), self.returning()
        return f"{head}{sets}{where}{returning}{self._tail()}", tuple(given)

    def delete(self) -> Written:
        given: list[Any] = []
        with_ = ""
        where = self.condition(given)
        if self._random.random() < 0.1:
            with_, where = f"WITH w (k) AS (SELECT max({self.name()}) FROM t) ", f" WHERE {self.name()} IN (SELECT k FROM w)"
            given = []
        if not where and self._random.random() < 0.8:
            where = f" WHERE {_q(self.key[0])} = 1"
        return f"{with_}DELETE FROM t{where}{self.returning()}{self._tail()}", tuple(given)

    def _tail(self) -> str:
        return f" ORDER BY {self.name()} LIMIT 2" if LIMITS and self._random.random() < 0.08 else ""

    def statement(self) -> Written:
        return self._random.choice((self.insert, self.insert, self.update, self.update, self.delete))()


def _q(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


STRICT = sqlite3.sqlite_version_info >= (3, 37)
LIMITS = ("ENABLE_UPDATE_DELETE_LIMIT",) in sqlite3.connect(":memory:").execute("PRAGMA compile_options").fetchall()


class Tried:
    """What came of a statement, in both databases."""

    def __init__(self) -> None:
        self.statements = self.refused = self.failed = self.changed = self.reordered = 0


def outcome(sql: str, result: Any) -> Any:
    """What the application sees; the last rowid only of what inserts: else it may be of an INSERT that has failed half way."""
    names = None if result.description is None else [column[0] for column in result.description]
    last = result.lastrowid if sql.startswith(("INSERT", "REPLACE")) and result.rowcount > 0 else None
    return result.rowcount, names, sorted(tuple(map(repr, row)) for row in result.rows), last


@pytest.fixture(params=["pysqlite", "aiosqlite"])
def databases(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Database, Database]]:
    pair = [
        Database(tmp_path / f"{driver}{n}.db", driver, foreign_keys=True) for n, driver in enumerate((request.param, "pysqlite"))
    ]
    for database in pair:
        database.plain("PRAGMA synchronous = OFF")
    yield pair[0], pair[1]
    for database in pair:
        database.close()


def _both(captured: Connection, plain: Connection, one: Database, written: Written, tried: Tried) -> bool:
    """Run a statement in both, which have to answer alike. One that fails leaves nothing behind in either.

    Returns:
        Whether both are alike after it. The order in which SQLite changes rows may depend on whether there are triggers: it shows
        where rows stand in an UPDATE's way, and where LIMIT takes some of those that ORDER BY does not tell apart.
    """
    tried.statements += 1
    sql, given = written if isinstance(written, tuple) else (written, None)
    found: Any
    expected: Any
    try:
        found = outcome(sql, one.captured(captured, written)[0])
    except UnsupportedSqlError:
        tried.refused += 1
        return True
    except sqlite3.Error as error:
        found = type(error), str(error)
    cursor, own = plain.connection.cursor(), plain.connection.cursor()
    own.execute("SAVEPOINT one")
    try:
        expected = outcome(sql, plain_result(cursor, sql, given))
    except sqlite3.Error as error:
        tried.failed += 1
        expected = type(error), str(error)
        cursor.close()
        own.execute("ROLLBACK TO one")
    own.execute("RELEASE one")
    alike = found == expected and rows(captured, "t") == rows(plain, "t")
    tried.reordered += not alike
    assert alike or "UPDATE " in sql or "LIMIT" in sql, f"{written!r} gave {found} instead of {expected}"
    return alike


def _branch(plain: Database, one: Database, statements: list[Written], tried: Tried, captured: Connection) -> bool:
    return plain.local(lambda other: all(_both(captured, other, one, written, tried) for written in statements))


def _round(chance: random.Random, captured: Database, plain: Database, tried: Tried) -> None:
    schema = Schema(chance)
    try:
        plain.plain(*schema.statements)
    except sqlite3.OperationalError:
        plain.plain("DROP TABLE IF EXISTS t", "DROP TABLE IF EXISTS s")
        return
    captured.plain(*schema.statements)
    for database in (captured, plain):
        database.plain("INSERT INTO s VALUES (1, 'one'), ('a', 2), (2, NULL), (5, x'05')")
    schema.returns = False  # a text that cannot be read would leave the plain statement open
    for written in [schema.insert() for _ in range(6)]:
        for database in (captured, plain):
            with contextlib.suppress(sqlite3.Error):
                database.plain(written)
    schema.returns = True
    before = captured.rows("t", "s")
    branches = []
    for _ in range(2):
        statements = [schema.statement() for _ in range(6)]
        captured.branch_id += 1
        branches.append(captured.branch_id)
        if not captured.local(partial(_branch, plain, captured, statements, tried)):
            break
    tried.changed += captured.rows("t", "s") != before
    assert captured.undo(*branches) == []
    assert captured.rows("t", "s") == before, "an undo leaves nothing"
    for database in (captured, plain):
        database.plain("DROP TABLE t", "DROP TABLE s")


def test_random_statements(databases: tuple[Database, Database]) -> None:
    tried = Tried()
    seed = first = int(os.environ.get("TXCOORD_SEED", "1"))
    while tried.statements < STATEMENTS and (seed == first or "TXCOORD_SEED" not in os.environ):
        try:
            _round(random.Random(seed), *databases, tried)
        except Exception as error:
            raise AssertionError(f"TXCOORD_SEED={seed}") from error
        seed += 1
    print(f"{seed - first} schemas, {vars(tried)}")
    if "TXCOORD_SEED" not in os.environ:
        assert tried.refused < tried.statements / 10
        assert tried.failed < tried.statements / 2
        assert tried.changed > (seed - first) / 2
        assert tried.reordered < tried.statements / 50


@pytest.mark.parametrize("kind", TYPES)
def test_values_that_collide_have_one_key(tmp_path: Path, kind: str) -> None:
    database = Database(tmp_path / "keys.db", "pysqlite")
    table = f"CREATE TABLE u (id INTEGER PRIMARY KEY, v {kind} UNIQUE)"
    database.plain(table)
    keys = {}
    for n, value in enumerate(VALUES):
        (ran,) = database.run(("INSERT INTO u (v) VALUES (?)", (value,)))
        keys[n] = {key for key in ran.keys if key.startswith("main.u(v)=")}
        database.plain("DELETE FROM u")
    database.close()
    plain = sqlite3.connect(":memory:", isolation_level=None)
    plain.execute(table)
    collided = 0
    for n, one in enumerate(VALUES):
        plain.execute("INSERT INTO u (v) VALUES (?)", (one,))
        for m, other in enumerate(VALUES):
            try:
                plain.execute("INSERT INTO u (v) VALUES (?)", (other,))
            except sqlite3.IntegrityError:
                collided += n != m
                assert keys[n] & keys[m], f"{one!r} and {other!r}"
            plain.execute("DELETE FROM u WHERE id > 1")
        plain.execute("DELETE FROM u")
    plain.close()
    assert collided
