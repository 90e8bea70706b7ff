"""Which changes on MySQL and MariaDB cannot be captured for certain, and which settings of a session would falsify images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from txcoord_rm.capture.mysql_values import UnknownTypeError, image
from txcoord_rm.catalogue.table import Event, Table
from txcoord_rm.sql.flavour import Flavour
from txcoord_rm.sql.statement import Statement, Verb
from txcoord_rm.sql.unsupported import refuse

_OURS = frozenset({"txcoord_undo_log", "txcoord_fence"})
_FALSIFYING = frozenset({"PAD_CHAR_TO_FULL_LENGTH", "ORACLE", "EMPTY_STRING_IS_NULL", "SIMULTANEOUS_ASSIGNMENT"})
_NO_LIMIT = 2**64 - 1
SETTINGS = (
    "SELECT DATABASE(), @@SESSION.sql_mode, @@SESSION.character_set_client, @@SESSION.character_set_connection, "
    "@@SESSION.character_set_results, @@SESSION.sql_select_limit"
)


def events(statement: Statement) -> tuple[Event, ...]:
    """What happens to rows."""
    return (Event(statement.verb.value),)


def assigned(statement: Statement, table: Table) -> tuple[str, ...]:
    """Columns that an UPDATE assigns to, as the catalogue writes them.

    Raises:
        UnsupportedSqlError: There is no such column.
    """
    names = {column.name.lower(): column.name for column in table.columns}
    if unknown := [name for name in statement.assigned if name.lower() not in names]:
        raise refuse(statement.sql, f"{table.schema}.{table.name} has no column {unknown[0]}", "name a column that it has")
    return tuple(dict.fromkeys(names[name.lower()] for name in statement.assigned))


def check(statement: Statement, table: Table) -> None:
    """Refuse what cannot be captured.

    Raises:
        UnsupportedSqlError: With the reason and the remedy.
    """
    name = f"{table.schema}.{table.name}"
    if table.obstacle or table.name in _OURS:
        reason = table.obstacle or "it is txcoord's own"
        raise refuse(statement.sql, f"{name} cannot be captured: {reason}", "do the work in a TCC branch")
    if statement.verb is Verb.REPLACE:
        raise refuse(statement.sql, "REPLACE deletes rows that no statement names", "delete, then insert")
    if statement.conflict is not None:
        raise refuse(
            statement.sql,
            "which rows ON DUPLICATE KEY UPDATE will change is not known before, and what they were not after",
            "update first, and insert where that changed nothing",
        )
    changed = table.follows(assigned(statement, table))
    (now,) = events(statement)
    undone = {Event.INSERT: Event.DELETE, Event.DELETE: Event.INSERT, Event.UPDATE: Event.UPDATE}[now]
    effects = (table.carried_on(now, changed), *(table.triggered(event) for event in dict.fromkeys((now, undone))))
    if effect := next(filter(None, effects), ""):
        raise refuse(statement.sql, f"{effect}, without undo records", "change those rows by statements of their own")
    if statement.verb is Verb.UPDATE and statement.returning is not None:
        raise refuse(statement.sql, "RETURNING of an UPDATE is not captured", "select the rows after it")
    moves = not changed.isdisjoint(table.primary_key)
    if statement.verb is Verb.UPDATE and moves and statement.either:
        raise refuse(statement.sql, "rows whose primary key IGNORE leaves cannot be told from others", "leave IGNORE out")
    rows = (statement.where, statement.tail)
    if statement.verb is not Verb.INSERT and any(":=" in span.of(statement.sql) for span in rows if span is not None):
        raise refuse(statement.sql, "its condition sets variables, and is evaluated more than once", "set them before")
    try:
        for column in table.columns:
            image(column, "t")
    except UnknownTypeError as error:
        raise refuse(statement.sql, f"in {name} {error}", "do the work in a TCC branch") from error


def check_settings(sql: str, settings: Sequence[Any], flavour: Flavour) -> None:
    """Refuse to work in a session in which images would not be exact, or in which SQL is read otherwise than it was recognised.

    Args:
        sql: The statement, for the error.
        settings: The answer to `SETTINGS`.
        flavour: How it was recognised.

    Raises:
        UnsupportedSqlError: With the setting and the remedy.
    """
    modes = set(str(settings[1]).upper().split(","))
    charsets = {str(charset) for charset in settings[2:5]}
    if bad := modes & _FALSIFYING:
        raise refuse(sql, f"the session's sql_mode has {min(bad)}, which falsifies images", "take it out")
    if charsets != {"utf8mb4"}:
        raise refuse(
            sql,
            f"the session's character set is {', '.join(sorted(charsets))}, which cannot hold every text",
            "connect with utf8mb4",
        )
    if int(settings[5]) != _NO_LIMIT:
        raise refuse(sql, "sql_select_limit would hide rows that it changes", "set it to DEFAULT")
    if flavour.backslashes is ("NO_BACKSLASH_ESCAPES" in modes) or flavour.ansi_quotes is not ("ANSI_QUOTES" in modes):
        raise refuse(
            sql,
            "NO_BACKSLASH_ESCAPES or ANSI_QUOTES in the session's sql_mode is not what it was when the engine was enrolled",
            "set sql_mode when connecting, alike on all connections of an engine",
        )
