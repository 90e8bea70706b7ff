"""Lock keys of the rows that a statement will touch, from its text and parameters alone: where both are certain.

A condition that pins the whole primary key leaves at most those rows. Their keys are made here as `capture.keys` has the database
make them; values whose text the database may see otherwise are left to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, product
from typing import Any
from uuid import UUID

from txcoord_rm.capture.keys import Keys
from txcoord_rm.catalogue.table import Column, Event, Table
from txcoord_rm.sql.lexer import Kind, Token
from txcoord_rm.sql.statement import Statement, Verb

_MOST = 1000
"""Keys; of a statement that may touch more, they are asked for when they are known."""
_INTEGERS = {"smallint": 1 << 15, "integer": 1 << 31, "bigint": 1 << 63}
_TEXTS = frozenset({"text", "character varying"})


def foreseen(statement: Statement, table: Table, changed: Iterable[str], parameters: Any) -> frozenset[str] | None:
    """See `capture.port.Capture.foreseen`.

    Args:
        statement: A captured one.
        table: Its target.
        changed: Columns that it may change.
        parameters: Of the application.
    """
    if statement.verb not in (Verb.UPDATE, Verb.DELETE):
        return None
    keys = Keys(table)
    primary, *others = keys.needs(Event(statement.verb.value), changed)
    if any(not need.shared for need in others) or (statement.verb is Verb.UPDATE and primary.moved):
        return None
    values = [_values(statement, table.column(name), parameters) for name in table.primary_key]
    if any(found is None for found in values):
        return None
    rows = list(islice(product(*(found or () for found in values)), _MOST + 1))
    if len(rows) > _MOST:
        return None
    return frozenset([keys.known(row) for row in rows] + [keys.shared(need) for need in others if rows])


def _values(statement: Statement, column: Column, parameters: Any) -> list[str] | None:
    """Canonical texts of all values that a column of the touched rows can have."""
    for equality in statement.equalities:
        if equality.column == column.name:
            found = [_text(statement, column, token, parameters) for token in equality.values]
            return None if None in found else [text for text in found if text is not None]
    return None


def _text(statement: Statement, column: Column, token: Token, parameters: Any) -> str | None:
    match token.kind:
        case Kind.BIND:
            return _canonical(column, _parameter(statement, token, parameters))
        case Kind.NUMBER if token.text.isdecimal() and token.text.isascii():
            return _canonical(column, int(token.text))
        case Kind.STRING if token.text[0] == "'" and "\\" not in token.text and "%" not in token.text and column.base in _TEXTS:
            return _canonical(column, token.text[1:-1].replace("''", "'"))
    return None


def _parameter(statement: Statement, token: Token, parameters: Any) -> object:
    mark = token.text
    if mark[0] == "$":
        return parameters[int(mark[1:]) - 1]
    if mark[1] == "(":
        return parameters[mark[2 : mark.index(")")]]
    return parameters[statement.binds.index(token)]


def _canonical(column: Column, value: object) -> str | None:
    """As the database writes it; kinds of numbers and texts that are not Python's own may be anything to the driver."""
    if type(value) is int and column.base in _INTEGERS:
        limit = _INTEGERS[column.base]
        return str(value) if -limit <= value < limit else None
    if type(value) is str and column.base in _TEXTS and column.deterministic and value.isascii() and "\0" not in value:
        return value
    if type(value) is UUID and column.base == "uuid":
        return str(value)
    return None
