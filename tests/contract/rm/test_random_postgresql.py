"""Random schemas, rows and statements on PostgreSQL: captured they do what they do plainly, and an undo leaves no trace of them.

TXCOORD_STATEMENTS says how many statements are run on each version; TXCOORD_SEED repeats one round of them. Triggers capture a
quarter as many.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.types.string import TextLoader
from sqlalchemy import Connection, create_engine
from txcoord_proto.errors import LockConflictError, UnsupportedSqlError
from txcoord_rm.capture.port import Entry
from txcoord_rm.capture.postgresql import PostgresqlCapture, triggers
from txcoord_rm.catalogue.facts import facts_on, log_on, table_named
from txcoord_rm.sql.flavour import Binds
from txcoord_rm.undo.log import metadata, undo

from tests.contract.rm.captured import RECOGNISERS
from tests.contract.rm.random_sql import Chance, Statement, Table
from tests.servers.fixtures import FreshUrl

AS_TEXT = ["date", "timestamp", "timestamptz", "interval", "json", "jsonb", "numeric", "float4", "float8"]
"""Types of which Python would not hold, or not tell apart, all values."""
ACTIONS = [" ON DELETE CASCADE ON UPDATE CASCADE", " ON DELETE SET NULL ON UPDATE SET NULL", " ON DELETE SET DEFAULT", ""]
STATEMENTS = int(os.environ.get("TXCOORD_STATEMENTS", "2000"))


@dataclass
class Outcome:
    """What came of a statement, however it was run."""

    rowcount: int = -1
    rows: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    sqlstate: str = ""


class Pair:
    """Two databases with the same contents: one in which statements are captured, and one in which they run plainly."""

    def __init__(self, captured: Connection, plain: Connection, by_triggers: bool = False) -> None:
        self.by_triggers = by_triggers
        self.captured = captured
        self.plain = plain
        self.capture = PostgresqlCapture(Binds.PERCENT)
        self.branch_id = 0
        self.counts: Counter[str] = Counter()
        driver = captured.connection.dbapi_connection
        assert isinstance(driver, psycopg.Connection)
        self.twice: bool = driver.info.server_version < 180_000 and not by_triggers
        """Whether an UPDATE reads its rows twice, and so may change them in another order."""

    def both(self, sql: str) -> None:
        for connection in (self.captured, self.plain):
            connection.connection.cursor().execute(sql)

    def install(self, tables: Sequence[Table]) -> None:
        """Have triggers capture changes of tables that they can; a statement that runs again would take numbers twice."""
        self.capture = PostgresqlCapture(Binds.PERCENT)
        for table in tables:
            known = table_named(self.captured, table.written)
            if not triggers.obstacle(known):
                triggers.run(self.captured.execute, triggers.install(known, log_on(self.captured)))

    def fill(self, sql: str) -> None:
        """Run a plain statement in both, which may fail."""
        for connection in (self.captured, self.plain):
            cursor = connection.connection.cursor()
            cursor.execute("SAVEPOINT s")
            try:
                cursor.execute(sql)
            except psycopg.Error:
                cursor.execute("ROLLBACK TO s")

    def commit(self) -> None:
        self.captured.commit()
        self.plain.commit()

    def run(self, statement: Statement) -> None:
        """Run a statement in both, and compare what comes of it."""
        self.counts["statements"] += 1
        self.both("SAVEPOINT s")
        try:
            captured = self._captured(statement)
        except UnsupportedSqlError:
            self.counts["refused"] += 1
            self.both("ROLLBACK TO s")
            return
        plain = self._plain(statement)
        if captured == plain:
            self.counts["failed" if plain.sqlstate else "ran"] += 1
            if plain.sqlstate:
                self.both("ROLLBACK TO s")
            return
        assert self.twice, (statement, captured, plain)
        assert captured.sqlstate or plain.sqlstate, (statement, captured, plain)
        assert statement.hangs_on_order or (captured.sqlstate and plain.sqlstate), (statement, captured, plain)
        self.counts["failed by order"] += 1
        self.both("ROLLBACK TO s")

    def _captured(self, statement: Statement) -> Outcome:
        sql, parameters = statement.sql, statement.parameters
        recognised = RECOGNISERS[Binds.NONE if parameters is None else Binds.PERCENT].recognise(sql)
        cursor = self.captured.connection.cursor()
        again = True
        while True:
            table = self.capture.table(cursor, recognised)
            foreseen = self.capture.foreseen(cursor, recognised, table, parameters)
            try:
                found = self.capture.run(cursor, recognised, table, parameters, Entry("x", self.branch_id, first=True))
                break
            except LockConflictError:
                error = None
            except psycopg.Error as raised:
                error = raised
            if not again or (error is not None and not str(error.sqlstate).startswith("42")):
                return Outcome(sqlstate=str(getattr(error, "sqlstate", None)))
            again = False  # the table was another one in the round before
            self.counts["altered"] += 1
            cursor.execute("ROLLBACK TO s")
        assert bool(found.keys) == (found.rowcount > 0), statement
        if foreseen is not None:
            assert found.keys <= foreseen, statement
            self.counts["foreseen"] += 1
        return _outcome(found.rowcount, found.rows, found.description)

    def _plain(self, statement: Statement) -> Outcome:
        cursor = self.plain.connection.cursor()
        try:
            if statement.parameters is None:
                cursor.execute(statement.sql)
            else:
                cursor.execute(statement.sql, statement.parameters)
        except psycopg.Error as error:
            return Outcome(sqlstate=error.sqlstate or "?")
        return _outcome(cursor.rowcount, cursor.fetchall() if cursor.description else (), cursor.description)

    def sweep(self) -> None:
        """Let the catalogue forget tables that were dropped: each lookup of a name would walk over them."""
        for connection in (self.captured, self.plain):
            driver = connection.connection.dbapi_connection
            assert isinstance(driver, psycopg.Connection)
            driver.commit()
            driver.autocommit = True
            driver.execute("VACUUM")
            driver.autocommit = False

    def undo(self, branch_ids: Sequence[int]) -> None:
        differences = undo(self.captured, "x", branch_ids, facts_on(self.captured))
        assert differences == []


def _outcome(rowcount: int, rows: Sequence[Any], description: Any) -> Outcome:
    return Outcome(rowcount, tuple(sorted(map(repr, rows))), tuple(column[0] for column in description or ()))


def contents(connection: Connection, tables: Sequence[Table]) -> list[list[str]]:
    cursor = connection.connection.cursor()
    found = []
    for table in tables:
        cursor.execute(f'SELECT t::text FROM {table.written} AS t ORDER BY t::text COLLATE "C"')
        found.append([row for (row,) in cursor.fetchall()])
    return found


def play(pair: Pair, chance: Chance) -> None:
    """One round: tables, rows, branches of statements, their undo."""
    tables = chance.tables(ACTIONS if pair.by_triggers else ("",))
    pair.both('DROP TABLE IF EXISTS child, t, "Order", "x""%y" CASCADE')
    for table in tables:
        for sql in table.statements:
            pair.both(sql)
    if pair.by_triggers:
        pair.install(tables)
    for table in tables:
        for _ in range(chance.randrange(12)):
            pair.fill(chance.row(table))
    pair.commit()
    before, branch_ids = contents(pair.captured, tables), []
    assert before == contents(pair.plain, tables)
    for _ in range(chance.randint(1, 3)):
        pair.branch_id += 1
        branch_ids.append(pair.branch_id)
        for _ in range(chance.randint(1, 25)):
            pair.run(chance.statement(tables))
        pair.commit()
        assert contents(pair.captured, tables) == contents(pair.plain, tables)
    pair.undo(branch_ids)
    pair.captured.commit()
    assert contents(pair.captured, tables) == before


@pytest.fixture(params=["postgres", "postgres18", "postgres by triggers", "postgres18 by triggers"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    server, by_triggers, _ = request.param.partition(" by triggers")
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{server}_url")
    captured, plain = create_engine(fresh("psycopg")), create_engine(fresh("psycopg"))
    metadata.create_all(captured)
    with captured.connect() as one, plain.connect() as other:
        for connection in (one, other):
            driver = connection.connection.dbapi_connection
            assert isinstance(driver, psycopg.Connection)
            for type_ in AS_TEXT:
                driver.adapters.register_loader(type_, TextLoader)
        yield Pair(one, other, bool(by_triggers))
    captured.dispose()
    plain.dispose()


def test_random_statements(pair: Pair) -> None:
    seed = first = int(os.environ.get("TXCOORD_SEED", "1"))
    statements = STATEMENTS // 4 if pair.by_triggers else STATEMENTS
    while pair.counts["statements"] < statements and (seed == first or "TXCOORD_SEED" not in os.environ):
        try:
            play(pair, Chance(seed))
        except Exception as error:
            raise AssertionError(f"TXCOORD_SEED={seed}") from error
        seed += 1
        if seed % 50 == 0:
            pair.sweep()
    print(dict(pair.counts))
    if "TXCOORD_SEED" not in os.environ:
        counts = pair.counts
        assert counts["ran"] > counts["statements"] / 2
        assert counts["refused"] < counts["statements"] / 3  # before version 18 upserts and MERGE are
        assert counts["foreseen"] > counts["statements"] / 150
