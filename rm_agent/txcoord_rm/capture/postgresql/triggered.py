"""Statements on tables that capture their changes themselves: they run as they are, between two of ours.

The first names the branch to the triggers, the second fetches the lock keys of what they saw and takes the name away. All tables that
a statement can reach by foreign keys must capture their changes, or nothing of it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from txcoord_rm.capture.port import Entry, Result
from txcoord_rm.capture.postgresql import checks, triggers
from txcoord_rm.capture.postgresql.admission import BY_TRIGGERS, check_columns, events, may_change
from txcoord_rm.capture.splice import Splice, Spliced
from txcoord_rm.catalogue.table import Event, Table
from txcoord_rm.sql.flavour import Binds
from txcoord_rm.sql.statement import Span, Statement, Verb
from txcoord_rm.sql.unsupported import refuse

_OURS = Statement("", Verb.READ, Span(0, 0))


def reached(statement: Statement, table: Table, log: str, read: Callable[[str], Table]) -> Mapping[str, Table]:
    """Tables by name, `table` not among them, of which rows may change with those of a statement.

    Args:
        statement: An INSERT, UPDATE or DELETE.
        table: Its target, which captures its changes.
        log: The undo log's name, as it is written in SQL.
        read: What the catalogue says of a table by its name, as it is written in SQL.

    Raises:
        UnsupportedSqlError: A change would not be captured, or could not be undone.
    """
    check_columns(statement, table)
    found: dict[str, Table] = {}
    now, _ = events(statement, table)
    pending = [(table, event, frozenset(may_change(statement, table))) for event in now]
    seen = set[tuple[int, Event, frozenset[str]]]()
    while pending:
        at, event, changed = pending.pop()
        if (at.oid, event, changed) in seen:
            continue
        seen.add((at.oid, event, changed))
        for effect in (at.triggered(event), at.triggered(event.undone)):
            if effect:
                raise refuse(statement.sql, f"{effect}, without undo records", "change those rows by statements of their own")
        for reference in at.carrying(event, changed):
            known = at if reference.to_itself else read(reference.table)
            if known.oid != table.oid:
                found[reference.table] = known
            if why := triggers.fault(known, log):
                raise refuse(
                    statement.sql, f"rows of {reference.table} change with it by a foreign key, and {why}", BY_TRIGGERS
                )
            theirs = frozenset(reference.their_columns)
            if writer := next((c for c in known.columns if c.writer and c.name in theirs), None):
                raise refuse(statement.sql, f"the default of {reference.table}.{writer.name} calls {writer.writer}()")
            pending.append((known, Event.UPDATE, known.follows(theirs)))
            if event is Event.DELETE:
                pending.append((known, Event.DELETE, frozenset()))
    return found


def run(
    cursor: Any, statement: Statement, tables: Sequence[Table], binds: Binds, rows: Iterable[Any], entry: Entry
) -> Result:
    """Run a statement for each row of parameters, of which there is one at least.

    Args:
        cursor: The driver's.
        statement: It.
        tables: Its target, and those that it reaches.
        binds: How the driver marks parameters.
        rows: Parameters; None: none are given to the driver.
        entry: See `Capture.run`.
    """
    before = _before(binds, entry.limit_ms > 0)
    name = f"{entry.branch_id} {entry.xid}" if entry.xid else triggers.ONLY_KEYS
    cursor.execute(before.sql, before.bind(None, {"entry": name, "limit_ms": entry.limit_ms}))
    rowcount, description, shown = 0, None, []
    for parameters in rows:
        cursor.execute(statement.sql, *(() if parameters is None else (parameters,)))
        rowcount += cursor.rowcount
        description = cursor.description
        if description is not None:
            shown += cursor.fetchall()
    after = _after(statement, tuple(tables), binds)
    cursor.execute(after.sql, after.bind(None, {}))
    _, keys, *_ = cursor.fetchone()
    return Result(frozenset(keys or ()), rowcount, description, shown)


@lru_cache
def _before(binds: Binds, limited: bool) -> Spliced:
    splice = Splice(_OURS, binds)
    splice.ours(f"SELECT set_config('{triggers.KEYS}', '', true), set_config('{triggers.ENTRY}', ").parameter("entry", "text")
    splice.ours(", true)")
    if limited:
        checks.limit(splice)
    return splice.spliced()


@lru_cache(4096)
def _after(statement: Statement, tables: tuple[Table, ...], binds: Binds) -> Spliced:
    """Fails where a table is not as it was known: none can be altered any more, now that its rows have changed."""
    assert statement.target is not None
    splice = Splice(_OURS, binds)
    wrong = " OR ".join(_altered(statement, tables))
    checks.write(splice, {checks.TABLE: wrong}, first=False, limited=False)
    splice.ours(
        f", NULLIF(current_setting('{triggers.KEYS}', true), '')::text[], set_config('{triggers.KEYS}', '', true), "
        f"set_config('{triggers.ENTRY}', '', true)"
    )
    return splice.spliced()


def _altered(statement: Statement, tables: Sequence[Table]) -> Iterator[str]:
    assert statement.target is not None
    yield f"({checks.altered(statement.target, tables[0])})"
    for table in tables[1:]:
        yield f"({table.altered})"
