"""What the hook asks for, answered by PostgreSQL: facts of tables, rewritten statements, and what came of them.

Nothing here costs a round trip once it is warm. What is remembered of tables is checked by the captured
statement itself (`checks`): if a name means another table than it did, or a table was altered, or the session's settings would
falsify images, it fails before it has changed anything. Besides, all is read again once a minute, and what a refusal hung on with
the next try.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from txcoord_proto.errors import ConfigurationError, UnsupportedSqlError

from txcoord_rm.capture.port import Entry, Result, Savepoints, UnrecordedError
from txcoord_rm.capture.postgresql import checks, triggered, triggers
from txcoord_rm.capture.postgresql.admission import may_change, refused_unseen, shows_old
from txcoord_rm.capture.postgresql.cursors import execute_many
from txcoord_rm.capture.postgresql.foreseen import Foresight, foresight
from txcoord_rm.capture.postgresql.functions import Functions
from txcoord_rm.capture.postgresql.reading import capture_read
from txcoord_rm.capture.postgresql.rewrite import Captured, Server, capture
from txcoord_rm.capture.postgresql.savepoints import PostgresqlSavepoints
from txcoord_rm.capture.postgresql.triggered import Reach
from txcoord_rm.catalogue.postgresql import SERVER, query, table
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.flavour import Binds
from txcoord_rm.sql.quoting import literal, quoted
from txcoord_rm.sql.recogniser import SHORT
from txcoord_rm.sql.statement import Statement, Target, Verb
from txcoord_rm.sql.unsupported import refuse
from txcoord_rm.sql.words import QUERIES

_MANY = 4096
"""Tables and statements that are remembered."""


_FRESH_S = 60.0
"""What the catalogue says is read again after that, whatever its condition says."""
_RECENT_S = 1.0
"""Names and types that do not fit are those of a table that was altered, if what is known of it is older; else the statement is
wrong."""
_NO_ENTRY = Entry("", 0)
_UNFITTING = frozenset({"42703", "42883", "42804", "42846"})
"""Undefined column, undefined function, mismatch of types, no such cast."""


_NONE: Mapping[str, Table] = {}


class _Known(NamedTuple):
    table: Table
    until: float


class PostgresqlCapture:
    """See `capture.port.Capture`.

    Args:
        binds: How the driver marks parameters: `PERCENT` or `DOLLAR`. Where a statement is run without parameters by a driver of
            the first kind, it has been recognised as one of `NONE`.
        schema: In which `txcoord_undo_log` stands; None: where the search path of the first session finds it.
    """

    begin = "BEGIN"
    waits = True

    def __init__(self, binds: Binds, schema: str | None = None) -> None:
        self.savepoints: Savepoints | None = PostgresqlSavepoints()
        self._binds = binds
        self._schema = schema
        self._server: Server | None = None
        self._tables: dict[str, _Known] = {}
        """By name, as it is resolved where it means one table only."""
        self._ambiguous: dict[str, dict[int, _Known]] = {}
        """Tables of names that have meant several, by their numbers."""
        self._doubted: dict[str, Table] = {}
        """By names that have turned out to mean something else."""
        self._functions = Functions()
        self._some_until = 0.0
        """Until then some tables are known to have triggers of ours."""
        self._short = lru_cache(_MANY)(self._rewritten)
        self._long = lru_cache(64)(self._rewritten)
        self._foresight = lru_cache(_MANY)(_foresight)

    def is_idle(self, cursor: Any) -> bool:
        """See `Capture.is_idle`: whatever has run has begun a transaction."""
        return False

    def table(self, cursor: Any, statement: Statement) -> Table:
        """See `Capture.table`."""
        return triggered.ANYWHERE if statement.target is None else self._table(cursor, statement, statement.target)

    def _table(self, cursor: Any, statement: Statement, target: Target) -> Table:
        return self._named(cursor, statement, target.written)

    def _named(self, cursor: Any, statement: Statement, name: str) -> Table:
        if name in self._ambiguous:
            cursor.execute(f"SELECT pg_catalog.to_regclass({literal(name)})::oid::bigint")
            known = self._ambiguous[name].get(cursor.fetchone()[0])
        else:
            known = self._tables.get(name)
        if known is not None and known.until > time.monotonic():
            return known.table
        return self._read(cursor, statement, name, known)

    def admit(self, cursor: Any, statement: Statement) -> bool:
        """See `Capture.admit`: a function may change rows that triggers capture, if it runs now (DECLARE only says what will)."""
        if (why := self._functions.writing(cursor, statement)) is None:
            return False
        if not statement.main.of(statement.sql).upper().startswith((*QUERIES, "(")):
            raise refused_unseen(statement, why)
        self._check_some(cursor, statement, why)
        return True

    def foreseen(self, cursor: Any, statement: Statement, table: Table, parameters: Any) -> frozenset[str] | None:
        """See `Capture.foreseen`."""
        if (reach := self._reach(cursor, statement, table)) is None:
            self._captured(cursor, statement, table, parameters is None, _NO_ENTRY)
        elif reach.tables or reach.watched:
            return None
        found = self._foresight(statement, table) if len(statement.sql) <= SHORT else _foresight(statement, table)
        return None if found is None else found.of(parameters)

    def run(self, cursor: Any, statement: Statement, table: Table, parameters: Any, entry: Entry) -> Result:
        """See `Capture.run`.

        Raises:
            UnsupportedSqlError: Its changes cannot be captured for certain; nothing has run.
            ConfigurationError: The session's settings do not allow exact images; the database has ended the local transaction.
            LockConflictError: What was known of the table does not hold, or a row got another primary key; the database has ended
                the local transaction, which may be run again.
        """
        if (reach := self._reach(cursor, statement, table)) is not None:
            return self._run_triggered(cursor, statement, table, reach, [parameters], entry)
        captured = self._captured(cursor, statement, table, parameters is None, entry)
        with self._doubting(statement, table):
            cursor.execute(captured.spliced.sql, captured.spliced.bind(parameters, _own(entry)))
        description = cursor.description
        touched = [row for row in cursor.fetchall() if row[captured.keys] is not None]
        keys = _keys(touched, captured)
        if captured.shown is None:
            return Result(keys, len(touched))
        shown = slice(*captured.shown)
        return Result(keys, len(touched), description[shown], [row[shown] for row in touched])

    def run_many(self, cursor: Any, statement: Statement, table: Table, rows: Sequence[Any], entry: Entry) -> Result:
        """See `Capture.run_many`: as of DB-API's `executemany`, rows that the statement returns are not to be had."""
        if not rows:
            return Result(frozenset(), 0)
        if (reach := self._reach(cursor, statement, table)) is not None:
            return self._run_triggered(cursor, statement, table, reach, rows, entry)
        keys, rowcount = frozenset[str](), 0
        if entry.first or entry.limit_ms:
            first = self.run(cursor, statement, table, rows[0], entry)
            keys, rowcount, rows = first.keys, first.rowcount, rows[1:]
            entry = Entry(entry.xid, entry.branch_id)
        captured = self._captured(cursor, statement, table, False, entry)
        bound = [captured.spliced.bind(row, _own(entry)) for row in rows]
        with self._doubting(statement, table):
            found = execute_many(cursor, captured.spliced.sql, bound) if bound else ()
        touched = [row for row in found if row[captured.keys] is not None]
        return Result(keys | _keys(touched, captured), rowcount + len(touched))

    def _reach(self, cursor: Any, statement: Statement, table: Table) -> Reach | None:
        """What a statement reaches, where triggers capture its changes; None: they do not.

        Raises:
            UnsupportedSqlError: A change would not be captured, or could not be undone.
        """
        if statement.target is not None and (not table.capturing or statement.verb is Verb.LOCKING_READ):
            return None
        server = self._server or self._learnt(cursor)
        if statement.target is not None and triggers.fault(table, server.log):
            return None
        why = statement.unseen or self._functions.writing(cursor, statement)
        if statement.target is None:
            assert why is not None, "it would not be captured"
            self._check_some(cursor, statement, why)
            return Reach(watched=True)
        known: dict[str, Table] = {}
        try:
            reach = triggered.reached(statement, table, self._database(cursor, statement, known))
        except UnsupportedSqlError:
            self._doubt(statement, table, known)
            raise
        return Reach(reach.tables, reach.watched or why is not None)

    def _check_some(self, cursor: Any, statement: Statement, why: tuple[str, str]) -> None:
        """Refuse a statement that only triggers can capture where no table has them."""
        if self._some_until < time.monotonic():
            cursor.execute(triggers.SOME)
            if not cursor.fetchone()[0]:
                raise refused_unseen(statement, why)
            self._some_until = time.monotonic() + _FRESH_S

    def _database(self, cursor: Any, statement: Statement, known: dict[str, Table]) -> triggered.Database:
        """For `triggered`; `known` gets all tables that are read."""

        def read(name: str) -> Table:
            known[name] = self._named(cursor, statement, name)
            return known[name]

        assert self._server is not None
        return triggered.Database(self._server.log, self._binds, read)

    def _run_triggered(
        self, cursor: Any, statement: Statement, table: Table, reach: Reach, rows: Sequence[Any], entry: Entry
    ) -> Result:
        known = dict(reach.tables)
        with self._doubting(statement, table, known):
            try:
                database = self._database(cursor, statement, known)
                return triggered.run(cursor, statement, table, reach, database, rows, entry)
            except UnrecordedError:
                self._doubt(statement, table, known)
                raise

    def _read(self, cursor: Any, statement: Statement, name: str, before: _Known | None) -> Table:
        cursor.execute(query(name))
        found = cursor.fetchone()
        if found is None:
            raise refuse(statement.sql, f"there is no table {name}", "check its name and the search path")
        known = table(found[0])
        if before is not None and before.table == known:
            known = before.table  # what is remembered of it stays
        for tables in (self._tables, self._ambiguous, self._doubted):
            if len(tables) >= _MANY:
                tables.clear()
        doubted = self._doubted.pop(name, known)
        if doubted.oid != known.oid:
            cursor.execute(f"SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = {doubted.oid})")
            if cursor.fetchone()[0]:
                self._ambiguous[name] = {}
        if name in self._ambiguous:
            self._ambiguous[name][known.oid] = _Known(known, time.monotonic() + _FRESH_S)
        else:
            self._tables[name] = _Known(known, time.monotonic() + _FRESH_S)
        return known

    def _captured(self, cursor: Any, statement: Statement, table: Table, bare: bool, entry: Entry) -> Captured:
        server = self._server or self._learnt(cursor)
        self._functions.check(cursor, statement)
        if statement.chosen_by and not shows_old(server.version) and (name := self._functions.volatile(statement.chosen_by)):
            raise refuse(
                statement.sql,
                f"before version 18 FROM and WHERE are evaluated twice, and {name}() may say something else each time",
                "put it into a query of WITH",
            )
        further = tuple(self._table(cursor, statement, target) for target in statement.locked[1:])
        cached = self._short if len(statement.sql) <= SHORT else self._long
        try:
            return cached(statement, (table, *further), server, bare, entry.first, entry.limit_ms > 0, bool(entry.xid))
        except UnsupportedSqlError:
            self._doubt(statement, table)  # so that the reason is looked at again, once somebody has mended it
            raise

    def _rewritten(
        self,
        statement: Statement,
        tables: tuple[Table, ...],
        server: Server,
        bare: bool,
        first: bool,
        limited: bool,
        recorded: bool,
    ) -> Captured:
        binds = Binds.NONE if bare and self._binds is Binds.PERCENT else self._binds
        if statement.verb is Verb.LOCKING_READ:
            return capture_read(statement, tables, binds, first, limited)
        return capture(statement, tables[0], server, binds, first, limited, recorded)

    def _learnt(self, cursor: Any) -> Server:
        cursor.execute(SERVER)
        version, schema = cursor.fetchone()
        schema = self._schema or schema
        if schema is None:
            raise ConfigurationError(
                "this database has no table txcoord_undo_log on the search path: run `txcoord-agent init`, or name its schema"
            )
        self._server = Server(version, f"{quoted(schema)}.txcoord_undo_log")
        return self._server

    @contextmanager
    def _doubting(self, statement: Statement, table: Table, reached: Mapping[str, Table] = _NONE) -> Iterator[None]:
        """If something is wrong, or the database knows a name or type otherwise, facts of the table are read again next time."""
        try:
            yield
        except Exception as error:
            wrong = checks.found(error)
            sqlstate = str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None))
            if checks.TABLE in wrong or sqlstate.startswith("42"):
                old = self._doubt(statement, table, reached)
                if sqlstate in _UNFITTING and old:
                    raise checks.explained([checks.TABLE], [table], str(error)) from error
            if wrong:
                raise checks.explained(wrong, [table]) from error
            raise

    def _doubt(self, statement: Statement, table: Table, reached: Mapping[str, Table] = _NONE) -> bool:
        """Read facts of the statement's tables again next time; whether those that it had were read long ago."""
        for other_name in reached:
            self._tables.pop(other_name, None)
        if statement.target is None:
            return False
        name = statement.target.written
        known = self._tables.pop(name, None) or self._ambiguous.get(name, {}).pop(table.oid, None)
        self._doubted[name] = table
        for further in statement.locked[1:]:
            if other := self._tables.pop(further.written, None):
                self._doubted[further.written] = other.table
        return known is not None and known.until < time.monotonic() + _FRESH_S - _RECENT_S


def _foresight(statement: Statement, table: Table) -> Foresight | None:
    return foresight(statement, table, may_change(statement, table))


def _keys(touched: Sequence[Any], captured: Captured) -> frozenset[str]:
    found = [row[captured.keys] for row in touched]
    if found and isinstance(found[0], str):
        return frozenset(found)
    return frozenset(key for keys in found for key in keys)


def _own(entry: Entry) -> dict[str, object]:
    return {"xid": entry.xid, "branch_id": entry.branch_id, "limit_ms": entry.limit_ms}
