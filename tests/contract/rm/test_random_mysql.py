"""Random statements on random tables of MariaDB do what they do without capture, and an undo takes all of it back.

`TXCOORD_RANDOM_STATEMENTS` says how many run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_rm.capture.port import Entry

from tests.contract.rm.maria import Maria
from tests.servers.fixtures import FreshUrl

STATEMENTS = int(os.environ.get("TXCOORD_RANDOM_STATEMENTS", "2000"))
PER_SEED = 100
KINDS: dict[str, Callable[[random.Random], str]] = {
    "int": lambda r: str(r.choice([-3, 0, 7, 2**31 - 1, r.randrange(20)])),
    "bigint unsigned": lambda r: str(r.choice([0, 2**64 - 1, r.randrange(20)])),
    "decimal(8,2)": lambda r: f"{r.randrange(-900, 900)}.{r.randrange(100):02}",
    "double": lambda r: repr(r.choice([0.1, 1 / 3, 1e300, 5e-324, -2.5])),
    "float": lambda r: repr(r.choice([0.1, 1 / 3, 1e30, -2.5])),
    "varchar(12)": lambda r: _text(r, "abcAB \u00e4\u00df"),
    "varchar(12) COLLATE utf8mb4_bin": lambda r: _text(r, "abAB '\\\\%\""),
    "varchar(12) CHARACTER SET latin1": lambda r: _text(r, "xyz\u00e9 "),
    "char(6)": lambda r: _text(r, "ab "),
    "varbinary(6)": lambda r: f"x'{r.randbytes(r.randrange(6)).hex()}'",
    "datetime(2)": lambda r: f"'20{r.randrange(10, 40)}-0{r.randrange(1, 9)}-11 0{r.randrange(9)}:00:00.{r.randrange(99)}'",
    "timestamp NULL": lambda r: f"FROM_UNIXTIME({r.randrange(1, 2**31)})",
    "enum('a','b','')": lambda r: r.choice(["'a'", "'b'", "''"]),
    "bit(9)": lambda r: str(r.randrange(512)),
    "json": lambda r: r.choice(["'{}'", "'[1, null]'", "'\"x\"'"]),
}  # fmt: skip


def _text(r: random.Random, letters: str) -> str:
    return (
        "'" + "".join(r.choices(letters, k=r.randrange(5))).replace("\\\\", "\\").replace("\\", "\\\\").replace("'", "''") + "'"
    )


@dataclass
class Schema:
    """A random table.

    Args:
        key: Columns of its primary key.
        columns: Type by name of the others.
        numbered: Whether the database numbers it.
        uniques: Columns of a unique index each.
    """

    key: dict[str, str]
    columns: dict[str, str]
    numbered: bool
    uniques: list[str]

    @classmethod
    def made(cls, r: random.Random) -> Schema:
        """One of many."""
        keys = [k for k in KINDS if k.split("(")[0] not in ("float", "json", "double", "timestamp NULL")]
        numbered = r.random() < 0.4
        key = {"k0": "int"} if numbered else {f"k{n}": r.choice(keys).replace(" NULL", "") for n in range(r.choice([1, 1, 2]))}
        columns = {f"c{n}": r.choice(list(KINDS)) for n in range(r.randrange(1, 6))}
        uniques = [name for name, kind in columns.items() if kind != "json" and r.random() < 0.25]
        return cls(key, columns, numbered, uniques)

    def create(self, name: str) -> str:
        """Its DDL."""
        parts = [f"{k} {kind} NOT NULL{' AUTO_INCREMENT' if self.numbered else ''}" for k, kind in self.key.items()]
        parts += [f"{c} {kind}" for c, kind in self.columns.items()]
        parts += ["n int NOT NULL DEFAULT 5", "g int AS (n + 1) STORED"]
        parts += ["at timestamp(3) NOT NULL DEFAULT current_timestamp(3) ON UPDATE current_timestamp(3)"]
        parts += [f"PRIMARY KEY ({', '.join(self.key)})", *(f"UNIQUE u_{c} ({c})" for c in self.uniques), "KEY (n)"]
        return f"CREATE TABLE {name} ({', '.join(parts)})"

    def _value(self, r: random.Random, column: str) -> str:
        kind = (self.key | self.columns)[column]
        return "NULL" if column in self.columns and r.random() < 0.15 else KINDS[kind](r)

    def _where(self, r: random.Random) -> str:
        column = r.choice(list(self.key | self.columns))
        return r.choice([
            "", f" WHERE {column} = {self._value(r, column)}",
            f" WHERE {column} IN ({self._value(r, column)}, {self._value(r, column)})",
            f" WHERE n < {r.randrange(12)}", f" WHERE {column} IS NOT NULL AND n > {r.randrange(9)} OR n = 5",
            f" WHERE n IN (SELECT n FROM @o AS o WHERE o.n > {r.randrange(9)})", f" WHERE {column} > {self._value(r, column)}",
        ])  # fmt: skip

    def statement(self, r: random.Random) -> str:
        """A statement, with `@t` for the table and `@o` for another."""
        order = f" ORDER BY {', '.join(self.key)}{r.choice(['', ' DESC'])}" if r.random() < 0.5 or self.uniques else ""
        limit = f" LIMIT {r.randrange(4)}" if order and r.random() < 0.3 and len(self.key) == 1 else ""
        column = r.choice(list(self.columns))
        names = [*(() if self.numbered and r.random() < 0.8 else self.key), *self.columns]
        row = ", ".join(self._value(r, name) for name in names)
        match r.randrange(9):
            case 0 | 1:
                ignore = " IGNORE" if r.random() < 0.3 else ""
                rows = ", ".join([f"({row})"] + [f"({', '.join(self._value(r, n) for n in names)})"] * r.randrange(2))
                returning = f" RETURNING *, n + 1, {column}" if r.random() < 0.3 else ""
                return f"INSERT{ignore} INTO @t ({', '.join(names)}) VALUES {rows}{returning}"
            case 2:
                others = ", ".join(self.columns)
                key = ", ".join(self.key)
                return (
                    f"INSERT INTO @t ({others}, n) SELECT {others}, n + 1 FROM @o ORDER BY n, {others} LIMIT 2"
                    if self.numbered
                    else f"INSERT INTO @t ({key}, {others}) SELECT {key}, {others} FROM @t WHERE n > {r.randrange(9)}"
                )
            case 3:
                returning = " RETURNING n, *" if r.random() < 0.1 else f" RETURNING {column} AS x, n" if r.random() < 0.3 else ""
                return f"DELETE FROM @t{self._where(r)}{order}{limit}{'' if order else returning}"
            case 4:
                name = next(iter(self.key))
                return f"UPDATE @t SET n = n + 1, {name} = {self._value(r, name)}{self._where(r)}{order}{limit}"
            case 5:
                value = f"(SELECT MAX(o.{column}) FROM @o AS o)"
                return f"UPDATE @t AS x SET x.{column} = {value}, n = x.n + 1{self._where(r)}{order}{limit}"
            case _:
                ignore = " IGNORE" if r.random() < 0.2 else ""
                sets = f"{column} = {self._value(r, column)}, n = n + {r.randrange(3)}"
                return f"UPDATE{ignore} @t SET {sets}{self._where(r)}{order}{limit}"


@pytest.mark.parametrize("seed", range(-(-STATEMENTS // PER_SEED)))
def test_random_statements(fresh_mariadb_url: FreshUrl, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    r = random.Random(seed)
    for module in ("mysql_run", "mysql_change"):  # in every other run few rows are read as many are
        monkeypatch.setattr(f"txcoord_rm.capture.{module}.FEW", 20 * (seed % 2))
    maria, schema = Maria(fresh_mariadb_url("pymysql") + "?charset=utf8mb4"), Schema.made(r)
    maria.plain(*(schema.create(name) for name in ("a", "b", "oa", "ob")))
    fill = [schema.statement(r).replace("@o", "@t") for _ in range(60)]
    fill = [
        sql.partition(" RETURNING")[0].replace("INTO", "IGNORE INTO", 1).replace("IGNORE IGNORE", "IGNORE")
        for sql in fill
        if sql[0] == "I"
    ]
    fill = ["SET timestamp = 1700000000", *fill]
    maria.work(lambda c: _fill(c, fill))
    before, rows = maria.state("a", "oa"), maria.rows("a")
    branches, ran = list[int](), 0
    for branch_id in range(1, 6):
        branches.append(branch_id)
        ran += maria.work(lambda c, b=branch_id: _both(maria, c, schema, r, b))  # type: ignore[misc]
        assert maria.rows("a") == maria.rows("b")
    assert ran > PER_SEED // 2
    assert maria.undo(*branches) == []
    assert maria.rows("a") == rows
    assert maria.state("a", "oa") == before


def _fill(connection: Connection, statements: list[str]) -> None:
    for table in ("a", "b", "oa", "ob"):
        for sql in statements:
            try:
                connection.exec_driver_sql(sql.replace("@t", table).replace("%", "%%"))
            except DBAPIError as error:
                if error.orig is None or error.orig.args[0] not in (1062, 1264, 1406):
                    raise


def _both(maria: Maria, connection: Connection, schema: Schema, r: random.Random, branch_id: int) -> int:
    """Random statements, captured and plain; how many."""
    connection.exec_driver_sql("SET timestamp = 1800000000.123 + %s", (branch_id,))
    ran = 0
    for n in range(PER_SEED // 5):
        sql = schema.statement(r)
        entry = Entry("x", branch_id, first=n == 0)
        try:
            captured = _outcome(lambda sql=sql, entry=entry: _captured(maria, connection, sql, entry))
        except UnsupportedSqlError:
            continue
        ran += 1
        assert captured == _outcome(lambda sql=sql: _plain(connection, sql)), (sql, schema)
    return ran


def _outcome(run: Any) -> Any:
    try:
        return run()
    except UnsupportedSqlError:
        raise
    except Exception as error:
        return error.args[0], "failed"


def _captured(maria: Maria, connection: Connection, sql: str, entry: Entry) -> Any:
    result = maria.captured(connection, sql.replace("@t", "a").replace("@o", "oa"), None, entry)
    names = None if result.description is None else [column[0] for column in result.description]
    return result.rowcount, result.lastrowid if sql.startswith("INSERT INTO") else 0, names, sorted(map(repr, result.rows))


def _plain(connection: Connection, sql: str) -> Any:
    cursor: Any = connection.connection.cursor()
    cursor.execute(sql.replace("@t", "b").replace("@o", "ob"))
    names = None if cursor.description is None else [column[0] for column in cursor.description]
    rows = [] if names is None else sorted(map(repr, cursor.fetchall()))
    return cursor.rowcount, cursor.lastrowid if sql.startswith("INSERT INTO") else 0, names, rows
