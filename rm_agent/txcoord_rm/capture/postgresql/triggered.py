"""Statements whose changes triggers capture: they run as they are, between two of ours.

The first names the branch to the triggers, the second fetches the lock keys of what they saw and takes the name away. What a
statement can reach by foreign keys is known before it runs, and must capture its changes. What it reaches by functions or by
triggers of users only the database knows: it counts the rows that a transaction has written, table by table. If it has counted
any in a table that does not capture its changes, the local transaction is not committed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from txcoord_rm.capture.port import Entry, Result, UnrecordedError
from txcoord_rm.capture.postgresql import checks, triggers
from txcoord_rm.capture.postgresql.admission import BY_TRIGGERS, check_columns, events, may_change
from txcoord_rm.capture.splice import Splice, Spliced
from txcoord_rm.catalogue.table import Event, Table, spread
from txcoord_rm.sql.flavour import Binds
from txcoord_rm.sql.quoting import literal
from txcoord_rm.sql.statement import Span, Statement, Verb
from txcoord_rm.sql.unsupported import refuse

ANYWHERE = Table(0, "", "", ("", ""), (), ())
"""The target of a statement that names none."""
_OURS = Statement("", Verb.READ, Span(0, 0))
_COUNTED = "txcoord.counted"
_COUNTS = (
    "SELECT c.oid, c.relname, c.relnamespace, pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid)"
    " + pg_stat_get_xact_tuples_deleted(c.oid) AS rows FROM pg_catalog.pg_class AS c WHERE c.relkind IN ('r', 'm')"
)
"""Rows that were written, by table; some of transactions before may be among them."""
_UNCOUNTED = (
    "concat_ws(' and ', CASE WHEN current_setting('track_counts') <> 'on' THEN 'track_counts is off' END, "
    "CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_foreign_table) THEN 'there are foreign tables' END)"
)


@dataclass(frozen=True, slots=True)
class Reach:
    """Of which tables rows may change with those of a statement's target.

    Args:
        tables: By name; the target is not among them.
        watched: Whether there may be others, so that the database has to be asked.
    """

    tables: Mapping[str, Table] = field(default_factory=dict)
    watched: bool = False


@dataclass(frozen=True, slots=True)
class Database:
    """What is known of it.

    Args:
        log: The undo log's name, as it is written in SQL.
        binds: How the driver marks parameters.
        read: What the catalogue says of a table by its name, as it is written in SQL.
    """

    log: str
    binds: Binds
    read: Callable[[str], Table]


def reached(statement: Statement, table: Table, database: Database) -> Reach:
    """What a statement reaches.

    Args:
        statement: An INSERT, UPDATE, DELETE or MERGE.
        table: Its target, which captures its changes.
        database: Where it runs.

    Raises:
        UnsupportedSqlError: A change would not be captured, or could not be undone.
    """
    check_columns(statement, table)
    found: dict[str, Table] = {}
    watched = False
    begin = [(table, event, may_change(statement, table)) for event in events(statement, table)[0]]
    for at, event, changed, by in spread(begin, database.read):
        if by is not None:
            if at.oid != table.oid:
                found[by.table] = at
            if why := triggers.fault(at, database.log):
                raise refuse(statement.sql, f"rows of {by.table} change with it by a foreign key, and {why}", BY_TRIGGERS)
            if writer := next((c for c in at.columns if c.writer and c.name in changed), None):
                raise refuse(statement.sql, f"the default of {by.table}.{writer.name} calls {writer.writer}()")
        watched |= bool(at.triggered(event))
        _check_triggers(statement, at, (event, event.undone))
    return Reach(found, watched)


def _check_triggers(statement: Statement, table: Table, happening: Iterable[Event]) -> None:
    for event in happening:
        if effect := table.triggered(event, but_aside=True):
            raise refuse(
                statement.sql,
                f"{effect} of its own when it fires while rows are put back",
                "give it the condition WHEN (current_setting('txcoord.undoing', true) IS DISTINCT FROM 'on'), as the first one",
            )


def run(
    cursor: Any, statement: Statement, table: Table, reach: Reach, database: Database, rows: Iterable[Any], entry: Entry
) -> Result:
    """Run a statement for each row of parameters, of which there is one at least.

    Args:
        cursor: The driver's.
        statement: It.
        table: Its target.
        reach: What it reaches besides.
        database: Where it runs.
        rows: Parameters; None: none are given to the driver.
        entry: See `Capture.run`.

    Raises:
        UnsupportedSqlError: What it reaches would not be known afterwards; nothing has run.
        UnrecordedError: It has reached a table that does not capture its changes.
    """
    before = _before(database.binds, entry.limit_ms > 0, reach.watched)
    name = f"{entry.branch_id} {entry.xid}" if entry.xid else triggers.ONLY_KEYS
    cursor.execute(before.sql, before.bind(None, {"entry": name, "limit_ms": entry.limit_ms}))
    if reach.watched and (why := cursor.fetchone()[0]):
        raise refuse(statement.sql, f"which tables it reaches would not be known, since {why}", "do the work in a TCC branch")
    rowcount, description, shown = 0, None, []
    for parameters in rows:
        cursor.execute(statement.sql, *(() if parameters is None else (parameters,)))
        rowcount += cursor.rowcount
        description = cursor.description
        if description is not None:
            shown += cursor.fetchall()
    after = _after(statement, (table, *reach.tables.values()), database.binds, database.log if reach.watched else "")
    cursor.execute(after.sql, after.bind(None, {}))
    _, keys, written, *_ = cursor.fetchone()
    if written:
        _check_written(cursor, statement, json.loads(written), database)
    return Result(frozenset(keys or ()), rowcount, description, shown, elsewhere=bool(reach.tables) or reach.watched)


def _check_written(cursor: Any, statement: Statement, names: Iterable[str], database: Database) -> None:
    """Look at tables of which a statement has changed rows; none of them can be altered any more."""
    try:
        tables = [database.read(name) for name in names]
        for table in tables:
            if why := triggers.fault(table, database.log):
                reason = f"it has changed rows of {table.schema}.{table.name}, and {why}"
                raise refuse(statement.sql, reason, f"roll the local transaction back; {BY_TRIGGERS}")
            _check_triggers(statement, table, Event)
        cursor.execute("SELECT " + " OR ".join(f"({table.altered})" for table in tables))
        if cursor.fetchone()[0]:
            raise checks.explained([checks.TABLE], tables)
    except Exception as error:
        raise UnrecordedError from error


@lru_cache
def _before(binds: Binds, limited: bool, watched: bool) -> Spliced:
    """The first of its columns says why written rows are not counted; empty: they are."""
    splice = Splice(_OURS, binds)
    splice.ours(f"SELECT {_UNCOUNTED if watched else literal('')}, set_config('{triggers.KEYS}', '', true), ")
    splice.ours(f"set_config('{triggers.ENTRY}', ").parameter("entry", "text").ours(", true)")
    if watched:
        counts = f"SELECT jsonb_object_agg(c.oid, c.rows)::text FROM ({_COUNTS}) AS c WHERE c.rows > 0"
        splice.ours(f", set_config('{_COUNTED}', COALESCE(({counts}), '{{}}'), true)")
    if limited:
        checks.limit(splice)
    return splice.spliced()


@lru_cache(4096)
def _after(statement: Statement, tables: tuple[Table, ...], binds: Binds, log: str) -> Spliced:
    """Fails where a table is not as it was known: none can be altered any more, now that its rows have changed.

    Args:
        statement: What has run.
        tables: Its target, and those that it reaches.
        binds: How the driver marks parameters.
        log: Where tables with written rows are to be found out: the undo log, which is none of them; else empty.
    """
    splice = Splice(_OURS, binds)
    # a function may have changed settings of the session, on which rewritten statements rely
    checks.write(splice, {checks.TABLE: " OR ".join(_altered(statement, tables)) or "false"}, first=bool(log), limited=False)
    written = "NULL"
    if log:
        written = (
            "(SELECT jsonb_agg(quote_ident(n.nspname) || '.' || quote_ident(c.relname) ORDER BY c.oid)::text "
            f"FROM ({_COUNTS}) AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
            f"WHERE c.rows > COALESCE((current_setting('{_COUNTED}')::jsonb ->> c.oid::text)::bigint, 0) "
            f"AND c.oid <> {literal(log)}::regclass)"
        )
    splice.ours(
        f", NULLIF(current_setting('{triggers.KEYS}', true), '')::text[], {written}, set_config('{triggers.KEYS}', '', true), "
        f"set_config('{triggers.ENTRY}', '', true)"
    )
    return splice.spliced()


def _altered(statement: Statement, tables: tuple[Table, ...]) -> Iterator[str]:
    if statement.target is not None:
        yield f"({checks.altered(statement.target, tables[0])})"
        for table in tables[1:]:
            yield f"({table.altered})"
