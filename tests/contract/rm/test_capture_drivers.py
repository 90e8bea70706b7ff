"""Every driver for PostgreSQL hands over the same: counts, rows, keys, errors; and what a session's settings are."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from txcoord_proto.errors import ConfigurationError, LockConflictError
from txcoord_rm.capture.port import Entry, Result
from txcoord_rm.capture.postgresql import PostgresqlCapture
from txcoord_rm.sql.flavour import Binds, Family, Flavour
from txcoord_rm.sql.recogniser import Recogniser

from tests.contract.rm.conftest import UNDO_LOG
from tests.servers.fixtures import FreshUrl

DRIVERS = ["psycopg", "psycopg_async", "asyncpg", "psycopg2"]
SCHEMA = """
CREATE TABLE acct (id int PRIMARY KEY, bal numeric NOT NULL, note text);
INSERT INTO acct VALUES (1, 100, 'one'), (2, 200, NULL), (3, 300, 'three')"""


class Session:
    """Captured statements on a cursor of SQLAlchemy's dialect. Parameters are written as `$1`, each once and in order."""

    def __init__(self, connection: Any, driver: str, capture: PostgresqlCapture) -> None:
        self.connection = connection
        self.capture = capture
        self._binds = Binds.DOLLAR if driver == "asyncpg" else Binds.PERCENT

    def written(self, sql: str) -> str:
        return sql if self._binds is Binds.DOLLAR else re.sub(r"\$\d+", "%s", sql)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        cursor = self.connection.cursor()
        cursor.execute(sql)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def run(self, sql: str, *parameters: object, first: bool = False, limit_ms: int = 0, branch_id: int = 7) -> Result:
        cursor, statement = self._recognised(sql)
        table = self.capture.table(cursor, statement)
        return self.capture.run(cursor, statement, table, parameters, Entry("x", branch_id, first, limit_ms=limit_ms))

    def run_many(self, sql: str, rows: list[tuple[object, ...]], first: bool = False) -> Result:
        cursor, statement = self._recognised(sql)
        return self.capture.run_many(cursor, statement, self.capture.table(cursor, statement), rows, Entry("x", 7, first))

    def foreseen(self, sql: str, *parameters: object) -> frozenset[str] | None:
        cursor, statement = self._recognised(sql)
        return self.capture.foreseen(cursor, statement, self.capture.table(cursor, statement), parameters)

    def _recognised(self, sql: str) -> tuple[Any, Any]:
        statement = Recogniser(Flavour(Family.POSTGRESQL, self._binds)).recognise(self.written(sql))
        return self.connection.cursor(), statement


@dataclass
class Database:
    """One, and a driver."""

    url: str
    driver: str
    capture: PostgresqlCapture

    def inside(self, act: Callable[[Session], None]) -> None:
        """Run `act` in a session of its own, and commit."""
        if self.driver in ("psycopg", "psycopg2"):
            engine = create_engine(self.url)
            try:
                with engine.begin() as connection:
                    act(Session(connection.connection, self.driver, self.capture))
            finally:
                engine.dispose()
        else:
            asyncio.run(self._inside(act))

    async def _inside(self, act: Callable[[Session], None]) -> None:
        engine = create_async_engine(self.url)
        try:
            async with engine.begin() as connection:
                await connection.run_sync(lambda sync: act(Session(sync.connection, self.driver, self.capture)))
        finally:
            await engine.dispose()


@pytest.fixture(params=[f"{driver}-{server}" for driver in DRIVERS for server in ("postgres", "postgres18")])
def database(request: pytest.FixtureRequest) -> Database:
    driver, _, server = request.param.partition("-")
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{server}_url")
    binds = Binds.DOLLAR if driver == "asyncpg" else Binds.PERCENT
    database = Database(fresh(driver), driver, PostgresqlCapture(binds))

    def set_up(session: Session) -> None:
        for sql in (UNDO_LOG, *SCHEMA.split(";")):
            session.query(sql)

    database.inside(set_up)
    return database


def test_one_statement(database: Database) -> None:
    def act(session: Session) -> None:
        ran = session.run("UPDATE acct SET bal = bal + $1 WHERE id < $2 RETURNING id, note", 5, 3)
        assert sorted(ran.rows) == [(1, "one"), (2, None)]
        assert [column[0] for column in ran.description] == ["id", "note"]
        assert (ran.rowcount, ran.keys) == (2, {"public.acct(id)=(1)", "public.acct(id)=(2)"})
        ran = session.run("DELETE FROM acct WHERE id = $1", 3)
        assert (ran.rowcount, ran.description, list(ran.rows), ran.keys) == (1, None, [], {"public.acct(id)=(3)"})
        ran = session.run("UPDATE acct SET bal = 0 WHERE id = $1", 99)
        assert (ran.rowcount, ran.keys) == (0, frozenset())
        ran = session.run("DELETE FROM acct WHERE id = $1 RETURNING *", 99)
        assert (ran.rowcount, list(ran.rows), len(ran.description)) == (0, [], 3)

    database.inside(act)

    def look(session: Session) -> None:
        assert session.query("SELECT seq, array_length(befores, 1) FROM txcoord_undo_log ORDER BY seq") == [(1, 2), (2, 1)]

    database.inside(look)


def test_a_statement_for_many_rows(database: Database) -> None:
    def act(session: Session) -> None:
        ran = session.run_many("INSERT INTO acct (id, bal) VALUES ($1, $2)", [(n, n) for n in range(10, 60)], first=True)
        assert (ran.rowcount, ran.description, ran.keys) == (50, None, {f"public.acct(id)=({n})" for n in range(10, 60)})
        ran = session.run_many("UPDATE acct SET note = $1 WHERE id = $2", [("x", 10), ("y", 11), ("z", 1000), ("v", 10)])
        assert (ran.rowcount, ran.keys) == (3, {"public.acct(id)=(10)", "public.acct(id)=(11)"})
        assert session.run_many("DELETE FROM acct WHERE id = $1", []).rowcount == 0

    database.inside(act)

    def look(session: Session) -> None:
        assert session.query("SELECT array_agg(seq ORDER BY seq) FROM txcoord_undo_log") == [(list(range(1, 54)),)]
        assert session.query("SELECT id, note FROM acct WHERE note < 'z' AND note > 'u' ORDER BY id") == [(10, "v"), (11, "y")]

    database.inside(look)


def test_an_error_in_the_midst_of_many_rows_is_the_drivers(database: Database) -> None:
    def act(session: Session) -> None:
        session.query("SAVEPOINT s")
        adapted = getattr(session.connection, "dbapi_connection", None)
        with pytest.raises(getattr(adapted, "dbapi", psycopg).Error if "async" in database.driver else Exception) as error:
            session.run_many("INSERT INTO acct (id, bal) VALUES ($1, $2)", [(10, 1), (1, 1), (11, 1)])
        assert (getattr(error.value, "sqlstate", None) or getattr(error.value, "pgcode", None)) == "23505"
        session.query("ROLLBACK TO SAVEPOINT s")
        assert session.query("SELECT count(*) FROM txcoord_undo_log") == [(0,)]

    database.inside(act)


def test_undo_records_are_counted_by_the_database(database: Database) -> None:
    def act(session: Session) -> None:
        session.run("UPDATE acct SET bal = 1 WHERE id = $1", 1)
        session.query("SAVEPOINT s")
        session.run("UPDATE acct SET bal = 2 WHERE id = $1", 1)
        session.query("ROLLBACK TO SAVEPOINT s")
        session.run("UPDATE acct SET bal = 3 WHERE id = $1", 1)
        assert session.query("SELECT seq, afters FROM txcoord_undo_log ORDER BY 1") == [(1, ["(1,1)"]), (2, ["(1,3)"])]
        for state in ("GUARD", "UNDONE"):
            session.query("UPDATE txcoord_undo_log SET state = 'IMAGE' WHERE false")
            session.query(
                "INSERT INTO txcoord_undo_log (branch_id, seq, state, xid, format, created_at) "
                f"VALUES ({len(state)}, 1, '{state}', 'x', 1, 1)"
            )
            session.query("SAVEPOINT s")
            with pytest.raises(Exception, match="txcoord_undo_log_pkey") as error:
                session.run("UPDATE acct SET bal = 4 WHERE id = $1", 1, branch_id=len(state))
            assert (getattr(error.value, "sqlstate", None) or getattr(error.value, "pgcode", None)) == "23505"
            session.query("ROLLBACK TO SAVEPOINT s")

    database.inside(act)


def test_the_first_statement_limits_the_local_transaction(database: Database) -> None:
    def act(session: Session) -> None:
        session.query("SET LOCAL statement_timeout = '2s'")
        session.run("UPDATE acct SET bal = 1 WHERE id = $1", 99, first=True, limit_ms=7000)
        assert session.query(
            "SELECT current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout'), "
            "current_setting('statement_timeout')"
        ) == [("7s", "7s", "2s")]

    database.inside(act)

    def look(session: Session) -> None:
        assert session.query("SELECT current_setting('lock_timeout')") == [("0",)]

    database.inside(look)


def test_the_limits_hold_for_the_statement_that_sets_them(database: Database) -> None:
    def wait(session: Session) -> None:
        with pytest.raises(Exception, match=r"(lock|transaction) timeout"):  # both are over then; the latter ends the connection
            session.run("UPDATE acct SET bal = 1 WHERE id = $1", 1, first=True, limit_ms=50)

    def hold(session: Session) -> None:
        session.run("UPDATE acct SET bal = 1 WHERE id = $1", 1)
        other = create_engine(database.url.replace(database.driver, "psycopg"))
        with other.connect() as connection:
            wait(Session(connection.connection, "psycopg", PostgresqlCapture(Binds.PERCENT)))
            connection.invalidate()
        other.dispose()

    database.inside(hold)


@pytest.mark.parametrize(
    "setting",
    [
        "DateStyle = 'German'",
        "DateStyle = 'SQL, DMY'",
        "extra_float_digits = 0",
        "IntervalStyle = 'sql_standard'",
        "standard_conforming_strings = off",
    ],
)
def test_settings_that_falsify_images_are_refused(database: Database, setting: str) -> None:
    def act(session: Session) -> None:
        session.query(f"SET LOCAL {setting}")
        with pytest.raises(ConfigurationError, match=setting.partition(" ")[0]):
            session.run("UPDATE acct SET bal = 1 WHERE id = $1", 1, first=True)

    database.inside(act)


def test_a_name_that_means_another_table_is_noticed_and_then_looked_up(database: Database) -> None:
    def act(session: Session) -> None:
        session.run("UPDATE acct SET bal = 1 WHERE id = $1", 1)
        session.query("CREATE SCHEMA s")
        session.query("CREATE TABLE s.acct (bal int, id bigint PRIMARY KEY)")
        session.query("INSERT INTO s.acct VALUES (5, 1)")
        session.query("SET LOCAL search_path = s, public")
        session.query("SAVEPOINT s")
        with pytest.raises(LockConflictError, match=r"public\.acct does not hold"):
            session.run("UPDATE acct SET bal = 2 WHERE id = $1", 1)
        session.query("ROLLBACK TO SAVEPOINT s")
        for path, keys in (("s, public", {"s.acct(id)=(1)"}), ("public", {"public.acct(id)=(1)"})) * 2:
            session.query(f"SET LOCAL search_path = {path}")
            assert session.run("UPDATE acct SET bal = 3 WHERE id = $1", 1).keys == keys
        session.query("DROP TABLE s.acct")

    database.inside(act)


def test_a_table_altered_or_made_anew_is_noticed(database: Database) -> None:
    def act(session: Session) -> None:
        session.run("UPDATE acct SET bal = 1 WHERE id = $1", 1)
        session.query("ALTER TABLE acct DROP note")
        session.query("SAVEPOINT s")
        with pytest.raises(Exception, match="note"):
            session.run("DELETE FROM acct WHERE id = $1", 1)
        session.query("ROLLBACK TO SAVEPOINT s")
        assert session.run("DELETE FROM acct WHERE id = $1", 1).rowcount == 1
        session.query("DROP TABLE acct")
        session.query("CREATE TABLE acct (k int PRIMARY KEY, id int, bal int)")
        session.query("INSERT INTO acct VALUES (5, 1, 0)")
        session.query("SAVEPOINT s")
        with pytest.raises(LockConflictError):
            session.run("UPDATE acct SET bal = 1 WHERE id = $1", 1)
        session.query("ROLLBACK TO SAVEPOINT s")
        assert session.run("UPDATE acct SET bal = 2 WHERE id = $1", 1).keys == {"public.acct(k)=(5)"}
        assert session.run("UPDATE acct SET bal = 2 WHERE id = $1", 1).keys == {"public.acct(k)=(5)"}

    database.inside(act)


ODD = [
    "",
    " ",
    "a",
    "a b",
    "a,b",
    "(",
    ")",
    "(a)",
    '"',
    '""',
    "\\",
    "\\\\",
    'a"b\\c',
    "\t",
    "\n",
    "\x0b",
    "\x0c",
    "\r",
    "'",
    "''",
]
ODD += [
    "%",
    "%%",
    "%s",
    "$1",
    ":x",
    "null",
    "NULL",
    "\x01",
    "\x1c",
    "\x7f",
    "{a}",
    "[1,2]",
    "a;b",
    "a=b",
    "é",
    "naïve",
    "日本",
    "\u00a0",
]


def test_what_is_foreseen_is_what_comes(database: Database) -> None:
    texts = ODD + [a + b for a in ODD for b in ODD if a != b][:200]
    texts = list(dict.fromkeys(texts))
    certain = 0

    def act(session: Session) -> None:
        nonlocal certain
        session.query("CREATE TABLE t (a text, b varchar(20), PRIMARY KEY (b, a))")
        session.query("CREATE TABLE u (a uuid PRIMARY KEY, b bigint, c smallint)")
        session.run_many("INSERT INTO t (a, b) VALUES ($1, $2)", [(text, text[:20][::-1]) for text in texts])
        for text in texts:
            sql = "DELETE FROM t WHERE a = $1 AND b = $2"
            foreseen = session.foreseen(sql, text, text[:20][::-1])
            ran = session.run(sql, text, text[:20][::-1])
            assert ran.rowcount == 1, repr(text)
            assert (foreseen is None) is not text.isascii(), repr(text)
            if foreseen is not None:
                certain += 1
                assert foreseen == ran.keys, repr(text)
        one = UUID("12345678-1234-5678-1234-56781234ABCD")
        session.query(f"INSERT INTO u VALUES ('{one}', -9223372036854775808, 0)")
        keys = {"public.u(a)=(12345678-1234-5678-1234-56781234abcd)"}
        if database.driver != "psycopg2":
            assert session.foreseen("UPDATE u SET c = 1 WHERE a = $1", one) == keys
        assert session.run("UPDATE u SET c = 1").keys == keys
        session.query("ALTER TABLE u DROP CONSTRAINT u_pkey, ADD PRIMARY KEY (c, b)")

    database.inside(act)
    assert certain > 150


def test_what_is_not_certain_is_not_foreseen(database: Database) -> None:
    def act(session: Session) -> None:
        session.query("CREATE TABLE t (a int PRIMARY KEY, b text UNIQUE, c int)")
        session.query("CREATE TABLE n (a numeric PRIMARY KEY, b int)")
        session.query("CREATE TABLE v (a char(3) PRIMARY KEY, b int)")
        two = {"public.t(a)=(7)", "public.t(a)=(8)"}
        assert session.foreseen("UPDATE t SET c = 1 WHERE a IN ($1, $2) AND c > 0", 7, 8) == two
        assert session.foreseen("UPDATE t SET c = 1 WHERE t.a IN (007, 8)") == two
        assert session.foreseen("UPDATE t SET c = 1 WHERE a = $1", True) is None
        assert session.foreseen("UPDATE t SET c = 1 WHERE a = $1", 1 << 40) is None
        assert session.foreseen("UPDATE t SET c = 1 WHERE a = $1", None) is None
        assert session.foreseen("UPDATE t SET c = 1 WHERE a = $1 OR c = $2", 1, 1) is None
        assert session.foreseen("UPDATE t SET b = 'x' WHERE a = $1", 1) is None
        assert session.foreseen("UPDATE t SET a = 2 WHERE a = $1", 1) is None
        assert session.foreseen("DELETE FROM t WHERE a = $1", 1) is None
        assert session.foreseen("UPDATE n SET b = 1 WHERE a = $1", 1) is None
        assert session.foreseen("UPDATE v SET b = 1 WHERE a = 'a'") is None
        assert session.foreseen("INSERT INTO n VALUES ($1, 1)", 1) is None

    database.inside(act)
