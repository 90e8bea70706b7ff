"""Why a statement cannot be captured, or its changes not be undone: from what the catalogue says of its table."""

from __future__ import annotations

import re

from txcoord_proto.errors import UnsupportedSqlError

from txcoord_rm.catalogue.table import Column, Event, Table
from txcoord_rm.sql import words
from txcoord_rm.sql.statement import Statement, Verb
from txcoord_rm.sql.unsupported import refuse

OLD_OR_NEW = re.compile(r"\b(?:old|new)\b", re.IGNORECASE)
BY_TRIGGERS = "let triggers capture changes: `txcoord-agent capture install`"
"""What is said where a statement is refused for what triggers would capture."""
_OLD_AND_NEW = 180_000
"""`server_version_num` of the first version whose RETURNING shows both."""
_OURS = frozenset({"txcoord_undo_log", "txcoord_fence"})
_UNSTABLE = frozenset({"money"})


def obstacle(table: Table) -> str:
    """Why changes of a table cannot be captured at all; empty: they can."""
    return table.obstacle or ("it is txcoord's own" if table.name in _OURS else "")


def shows_old(version: int) -> bool:
    """Whether RETURNING shows the row as it was, so that nothing has to be evaluated twice."""
    return version >= _OLD_AND_NEW


def may_change(statement: Statement, table: Table) -> frozenset[str]:
    """Columns of rows that an UPDATE may change: what it sets and what follows from it, or what a trigger makes of the row."""
    if table.fires(Event.UPDATE, after=False):
        return frozenset(column.name for column in table.columns)
    return table.follows(statement.assigned)


def refused_unseen(statement: Statement, why: tuple[str, str]) -> UnsupportedSqlError:
    """The error for a statement that changes rows which its text does not tell.

    Args:
        statement: It.
        why: The reason and what to do.
    """
    reason, remedy = why
    return refuse(statement.sql, reason, f"{remedy}, or {BY_TRIGGERS}")


def check(statement: Statement, table: Table, version: int) -> None:
    """Refuse a statement whose changes of `table` cannot be captured, or not be undone, for certain.

    Args:
        statement: An INSERT, UPDATE, DELETE or MERGE.
        table: Its target.
        version: `server_version_num`.

    Raises:
        UnsupportedSqlError: It is one.
    """
    name = f"{table.schema}.{table.name}"
    if reason := obstacle(table):
        raise refuse(statement.sql, f"{name} cannot be captured: {reason}", "do the work in a TCC branch")
    if statement.unseen is not None:
        raise refused_unseen(statement, statement.unseen)
    check_columns(statement, table)
    now, then = events(statement, table)
    effects = [table.carried_on(event, table.follows(statement.assigned)) for event in now]
    effects += [table.triggered(event) for event in (*now, *then)]
    if effect := next(filter(None, effects), ""):
        advice = "change those rows by statements of their own"
        if any(table.carried_on(event, table.follows(statement.assigned)) for event in now):
            advice += f", or {BY_TRIGGERS} for both tables"
        raise refuse(statement.sql, f"{effect}, without undo records", advice)
    _check_version(statement, version)


def unsteady_column(column: Column) -> str:
    """Why values of a column have no images; empty: they have."""
    if column.base in _UNSTABLE or column.base.startswith("reg"):
        return f"how {column.name} of type {column.type} is written depends on settings"
    return ""


def check_columns(statement: Statement, table: Table) -> None:
    """Refuse a statement of whose columns one has no image, or cannot be set back.

    Raises:
        UnsupportedSqlError: It is one.
    """
    name = f"{table.schema}.{table.name}"
    if unknown := set(statement.assigned) - {column.name for column in table.columns}:
        raise refuse(statement.sql, f"{name} has no column {min(unknown)}", "write names as the catalogue has them")
    for column in table.columns:
        _check_column(statement, name, column)


def _check_column(statement: Statement, name: str, column: Column) -> None:
    if why := unsteady_column(column):
        raise refuse(statement.sql, f"in {name}, {why}")
    if column.identity and column.name in statement.assigned:
        raise refuse(statement.sql, f"{name}.{column.name} is numbered by the database and cannot be set back")
    if column.writer and (statement.verb in (Verb.INSERT, Verb.MERGE) or column.name in statement.assigned):
        raise refuse(
            statement.sql,
            f"the default of {name}.{column.name} calls {column.writer}(), which may write rows",
            "declare the function STABLE if it only reads",
        )


def _check_version(statement: Statement, version: int) -> None:
    returning = statement.returning
    if returning is not None and all(map(OLD_OR_NEW.search, (returning.of(statement.sql), statement.sql[: returning.start]))):
        raise refuse(statement.sql, "old and new may be names of its own", "name its tables and columns otherwise")
    if statement.verb is Verb.MERGE and version < _OLD_AND_NEW:
        raise refused_unseen(statement, words.REASONS["MERGE"])
    if version < _OLD_AND_NEW and statement.others is not None and statement.verb is Verb.UPDATE and statement.stars:
        raise refuse(
            statement.sql, "RETURNING * of an UPDATE ... FROM cannot be told apart before version 18", "name its columns"
        )
    if statement.unsteady and version < _OLD_AND_NEW:
        raise refuse(
            statement.sql,
            f"{statement.unsteady} may choose other rows each time, and before version 18 FROM and WHERE are evaluated twice",
            "put it into a query of WITH",
        )
    if statement.verb is Verb.INSERT and statement.assigned and version < _OLD_AND_NEW:
        raise refuse(
            statement.sql,
            "before version 18 PostgreSQL does not tell which rows ON CONFLICT DO UPDATE has changed",
            f"update first, and insert where that changed nothing, or {BY_TRIGGERS}",
        )


def events(statement: Statement, table: Table) -> tuple[list[Event], list[Event]]:
    """What happens to rows now, and what happens to them in an undo."""
    if statement.verb is Verb.MERGE or (statement.assigned and table.partitioned):
        now = set(Event)  # a row that moves to another partition goes here and comes there
    else:
        now = {Event(statement.verb.value)} | ({Event.UPDATE} if statement.assigned else set())
    return [event for event in Event if event in now], [event.undone for event in now]
