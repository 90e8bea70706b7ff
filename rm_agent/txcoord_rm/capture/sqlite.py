"""SQLite: the application's statement runs as it is, watched by triggers of its connection; then its undo record is written.

See `sqlite_rows` for how. Under the lock of the one who writes, which is taken before anything is read, nobody else changes rows
meanwhile. What SQLite does not restore: the next number of AUTOINCREMENT, and rowids that no column of the table is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from operator import ne
from typing import Any

from txcoord_rm.capture.port import Entry, Result, Savepoints
from txcoord_rm.capture.sqlite_connection import Below, below
from txcoord_rm.capture.sqlite_keys import keys, needed
from txcoord_rm.capture.sqlite_read import GlobalRead
from txcoord_rm.capture.sqlite_rows import Seen, Triggers
from txcoord_rm.capture.sqlite_values import outgoing, values
from txcoord_rm.catalogue import sqlite as catalogue
from txcoord_rm.catalogue.sqlite import SqliteTable
from txcoord_rm.catalogue.table import Event, Table
from txcoord_rm.sql.quoting import quoted
from txcoord_rm.sql.statement import Span, Statement, Verb
from txcoord_rm.sql.unsupported import refuse
from txcoord_rm.undo.images import encode
from txcoord_rm.undo.item import FORMAT, Image

_OURS = frozenset({"txcoord_undo_log", "txcoord_fence"})
_UNDONE = {Event.INSERT: Event.DELETE, Event.DELETE: Event.INSERT, Event.UPDATE: Event.UPDATE}
_SCHEMA = (
    "SELECT s.schema_version, (SELECT count(*) FROM temp.sqlite_master WHERE ? IN (name, tbl_name) COLLATE NOCASE) "
    "FROM pragma_schema_version AS s"
)
_SAVEPOINT = "txcoord_statement"
_RECORD = (
    "INSERT INTO main.txcoord_undo_log "
    "(branch_id, seq, state, xid, format, created_at, table_schema, table_name, columns, befores, afters) "
    "SELECT ?1, coalesce((SELECT CASE state WHEN 'IMAGE' THEN seq + 1 ELSE 1 END FROM main.txcoord_undo_log "
    "WHERE branch_id = ?1 ORDER BY seq DESC LIMIT 1), 1), 'IMAGE', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9"
)


class SqliteCapture:
    """See `port.Capture`. One is for one database."""

    begin = "BEGIN IMMEDIATE"
    waits = False
    savepoints: Savepoints | None = None

    def __init__(self) -> None:
        self._tables: dict[tuple[str, ...], SqliteTable] = {}

    def is_idle(self, cursor: Any) -> bool:
        """See `Capture.is_idle`: a SELECT whose rows have all been fetched holds nothing, if it began no transaction."""
        return below(cursor, lambda own: Below(own).is_idle)

    def admit(self, cursor: Any, statement: Statement) -> bool:
        """See `Capture.admit`: functions are built in, or the application's own.

        A savepoint outside a transaction would be one, which its RELEASE commits without anybody's noticing; so one begins first.
        """
        if statement.verb is Verb.SAVEPOINT:
            below(cursor, lambda own: Below(own).open())
        return False

    def table(self, cursor: Any, statement: Statement) -> Table:
        """See `Capture.table`. In an open transaction the lock of the one who writes is taken."""
        return below(cursor, lambda raw: self._table_now(Below(raw), statement))

    def foreseen(self, cursor: Any, statement: Statement, table: Table, parameters: Any) -> frozenset[str] | None:
        """See `Capture.foreseen`. In an open transaction, where nobody may wait for other locks, nothing is."""
        return below(cursor, lambda raw: self._foreseen(Below(raw), statement, parameters))

    def run(self, cursor: Any, statement: Statement, table: Table, parameters: Any, entry: Entry) -> Result:
        """See `Capture.run`. Where it raises anything, nothing of the statement is left."""
        given = () if parameters is None else (parameters,)
        return below(cursor, lambda raw: self._run(raw, statement, entry, "execute", given))

    def run_many(self, cursor: Any, statement: Statement, table: Table, rows: Sequence[Any], entry: Entry) -> Result:
        """See `Capture.run_many`. Where it raises anything, nothing of any row is left."""
        return below(cursor, lambda raw: self._run(raw, statement, entry, "executemany", (rows,)))

    def _table_now(self, connection: Below, statement: Statement) -> Table:
        if connection.in_transaction:
            connection.begin()
        return self._table(connection, statement)

    def _foreseen(self, connection: Below, statement: Statement, parameters: Any) -> frozenset[str] | None:
        if statement.verb is Verb.LOCKING_READ:
            return None if connection.in_transaction else self._read(connection, statement).keys(parameters)
        plan = _Plan(statement, self._table(connection, statement), connection)
        return None if connection.in_transaction else plan.foreseen(parameters)

    def _run(self, cursor: Any, statement: Statement, entry: Entry, method: str, given: tuple[Any, ...]) -> Result:
        connection = Below(cursor)
        began = connection.begin()
        try:
            if statement.verb is Verb.LOCKING_READ:
                return self._read(connection, statement).run(cursor, method, given)
            # Asked again: what `table` was told before may have been before the lock.
            return _Plan(statement, self._table(connection, statement), connection).run(cursor, entry, method, given)
        except BaseException:
            if began and connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _read(self, connection: Below, statement: Statement) -> GlobalRead:
        tables = [self._table(connection, replace(statement, target=target)) for target in statement.locked]
        return GlobalRead(statement, tables, connection)

    def _table(self, connection: Below, statement: Statement) -> SqliteTable:
        assert statement.target is not None, "it changes or reads rows"
        parts = statement.target.parts
        ((version, temporary),) = connection.rows(_SCHEMA, (parts[-1],))
        known = self._tables.get(parts)
        if known is not None and known.schema_version == version and not temporary:
            return known
        found = catalogue.table(connection.rows, parts)
        if found is None:
            raise refuse(statement.sql, f"there is no table {'.'.join(parts)}")
        if not temporary:
            self._tables[parts] = found
        return found


class _Plan:
    """What one statement is to be watched for.

    Args:
        statement: An INSERT, UPDATE, DELETE or REPLACE.
        table: Its target.
        connection: That it will run on.

    Raises:
        UnsupportedSqlError: Its changes cannot be captured for certain.
    """

    def __init__(self, statement: Statement, table: SqliteTable, connection: Below) -> None:
        self._statement = statement
        self._table = table
        self._connection = connection
        self._verb = Event.INSERT if statement.verb is Verb.REPLACE else Event(statement.verb.value)
        self._replaces = "REPLACE" in (statement.verb.value, statement.either) or "REPLACE" in table.conflicts
        self._events = {self._verb} | ({Event.UPDATE} if statement.assigned else set[Event]())
        if self._replaces and self._verb is not Event.DELETE:
            self._events |= {Event.DELETE}
        self._changed = table.follows(self._assigned())
        self._check(bool(connection.rows("PRAGMA foreign_keys")[0][0]))
        self._image = self._images()
        extra = frozenset[str]().union(*(needed(table, event, self._changed) for event in self._events))
        self._columns = (*self._image, *sorted(extra - set(self._image)))

    def _assigned(self) -> frozenset[str]:
        names = {name: self._table.named(name) for name in self._statement.assigned}
        if not self._table.obstacle and None in names.values():
            unknown = min(name for name, found in names.items() if found is None)
            raise self._refuse(f"{self._shown} has no column {unknown}", "name columns as the catalogue has them")
        return frozenset(name for name in names.values() if name is not None)

    def _check(self, foreign_keys: bool) -> None:
        table, statement = self._table, self._statement
        if table.obstacle or table.name in _OURS:
            reason = table.obstacle or "it is txcoord's own"
            raise self._refuse(f"{self._shown} cannot be captured: {reason}", "do the work in a TCC branch")
        if statement.either in ("FAIL", "ROLLBACK"):
            raise self._refuse(f"OR {statement.either} leaves it half done, or ends the transaction", "leave that out")
        effects = [table.carried_on(event, self._changed) for event in self._events] if foreign_keys else []
        effects += [table.triggered(event) for now in self._events for event in (now, _UNDONE[now])]
        if effect := next(filter(None, effects), ""):
            raise self._refuse(f"{effect}, without undo records", "change those rows by statements of their own")

    def _images(self) -> tuple[str, ...]:
        """Columns of the images: of an UPDATE the key and what it sets; else, and where the key changes, all that is written."""
        written = tuple(column.name for column in self._table.columns if not column.generated)
        if self._events != {Event.UPDATE} or not self._changed.isdisjoint(self._table.primary_key):
            return written
        return tuple(name for name in written if name in self._changed or name in self._table.primary_key)

    # ------------------------------------------------------------ before it runs

    def foreseen(self, parameters: Any) -> frozenset[str] | None:
        """See `Capture.foreseen`."""
        s, table = self._statement, self._table
        uniques = {name for unique in table.uniques for name in unique.columns}
        moves = not self._changed.isdisjoint(uniques.union(table.primary_key))
        if self._events not in ({Event.UPDATE}, {Event.DELETE}) or s.others is not None or s.tail is not None or moves:
            return None
        given = _given(s, [span for span in (s.with_, s.where) if span is not None], parameters)
        if given is None or self._connection.has_own(s.functions):
            return None
        columns = sorted(needed(table, self._verb, self._changed))
        shown = ", ".join(f"{outgoing(quoted(name))} AS c{n}" for n, name in enumerate(columns))
        assert s.target is not None
        with_ = f"WITH {'RECURSIVE ' if s.recursive else ''}{s.with_.of(s.sql)} " if s.with_ else ""
        alias = f" AS {s.target.alias}" if s.target.alias else ""
        where = f" WHERE {s.where.of(s.sql)}" if s.where else ""
        rows = self._connection.rows(f"{with_}SELECT {shown} FROM {s.target.name.of(s.sql)}{alias}{where}", given)
        found = {name: values([row[n] for row in rows]) for n, name in enumerate(columns)}
        return frozenset(keys(table, self._verb, self._changed, found))

    # ------------------------------------------------------------ while it runs

    def run(self, cursor: Any, entry: Entry, method: str, given: tuple[Any, ...]) -> Result:
        """See `Capture.run`.

        Args:
            cursor: The application's.
            entry: Where the undo record belongs.
            method: Of the cursor, that runs the statement: `execute` or `executemany`.
            given: What it takes besides the statement.
        """
        connection = self._connection
        triggers = Triggers(connection, self._table, self._columns, frozenset(self._events), self._replaces)
        changes, _ = connection.take()
        connection.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            triggers.create()
            getattr(cursor, method)(self._statement.sql, *given)
            rows = [] if cursor.description is None else list(cursor.fetchall())
            description, rowcount, lastrowid = cursor.description, cursor.rowcount, cursor.lastrowid
            now, calls = connection.take()
            triggers.drop()
            seen = triggers.told(calls)
            keyed = self._keyed(seen)
            self._check_seen(seen, keyed, now - changes)
            self._write(seen, entry)
        except BaseException:
            triggers.leave()
            if connection.in_transaction:  # some errors make SQLite roll back by itself
                cursor.execute("SELECT 1 WHERE 0")  # ends the statement, also where reading its rows has failed
                if connection.take()[0] == changes:
                    triggers.drop()
                else:  # this ends reads that are under way
                    connection.execute(f"ROLLBACK TO {_SAVEPOINT}")
                connection.execute(f"RELEASE {_SAVEPOINT}")
            raise
        connection.execute(f"RELEASE {_SAVEPOINT}")
        touched = (keys(self._table, event, self._changed, columns) for event, columns in keyed.items())
        return Result(frozenset().union(*touched), rowcount, description, rows, lastrowid)

    def _keyed(self, seen: Seen) -> dict[Event, dict[str, list[Any]]]:
        """Of what has changed: columns of which lock keys are made."""
        wanted = {event: needed(self._table, event, self._changed) for event in self._events}
        rows = {event: seen.rows(event) for event in self._events}
        return {
            event: {name: [row[n] for row in rows[event]] for n, name in enumerate(self._columns) if name in names}
            for event, names in wanted.items()
        }

    def _check_seen(self, seen: Seen, keyed: dict[Event, dict[str, list[Any]]], changes: int) -> None:
        """Refuse it where more has changed than the triggers have told of, or a row has no key of its own."""
        told = len(seen.events)
        if self._verb is not Event.DELETE:
            told -= seen.events.count(Event.DELETE)  # REPLACE's do not count
        if told != changes:
            raise self._refuse(f"it has changed {changes} rows, {told} of which were seen", "do the work in a TCC branch")
        if seen.beyond:
            raise self._refuse("which columns it changes is not recognised", "write its SET in another way")
        if any(None in columns[name] for columns in keyed.values() for name in self._table.primary_key):
            raise self._refuse(f"a row of {self._shown} has no value in its primary key", "declare its columns NOT NULL")

    def _write(self, seen: Seen, entry: Entry) -> None:
        """The undo record, if any row is another than before."""
        befores, afters = self._imaged(seen.befores), self._imaged(seen.afters)
        differ = list(map(ne, befores, afters))
        if entry.xid and any(differ):
            numbers = (entry.branch_id, entry.xid, FORMAT, time.time_ns() // 1_000_000)
            names = (self._table.schema, self._table.name, json.dumps(self._image))
            images = (encode(list(compress(side, differ))) for side in (befores, afters))
            self._connection.execute(_RECORD, (*numbers, *names, *images))

    def _imaged(self, rows: Sequence[Image | None]) -> Sequence[Image | None]:
        """Of rows as the triggers tell of them: their images, which come first."""
        if self._columns == self._image:
            return rows
        return [None if row is None else row[: len(self._image)] for row in rows]

    @property
    def _shown(self) -> str:
        return f"{self._table.schema}.{self._table.name}"

    def _refuse(self, reason: str, remedy: str) -> Exception:
        return refuse(self._statement.sql, reason, remedy)


def _given(statement: Statement, spans: Sequence[Span], parameters: Any) -> Any:
    """The parameters of some parts of a statement; None: which these are is not certain."""
    if parameters is None or isinstance(parameters, Mapping):
        return parameters or ()
    within = [any(span.start <= bind.start < span.end for span in spans) for bind in statement.binds]
    if all(bind.text == "?" for bind in statement.binds):
        return tuple(parameter for parameter, here in zip(parameters, within) if here)
    return None if any(within) else ()
