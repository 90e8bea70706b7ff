"""Which rows a condition can only be about, told from its constants and parameters without looking at the table.

Looking would begin the transaction's snapshot: what it then reads would be older than the lock for which it waited.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from txcoord_rm.capture.mysql_check import assigned
from txcoord_rm.capture.mysql_values import canonical, is_text, is_whole_number, of_column, text_constant
from txcoord_rm.catalogue.table import Column, Table
from txcoord_rm.sql.lexer import Kind, Token
from txcoord_rm.sql.statement import Statement, Verb

_FURTHER = re.compile(r"\b(select|with)\b", re.IGNORECASE)
"""Rows of other tables may be read, and locked."""
_MANY = 10_000
"""Rows of one condition of which the keys are worked out."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a column has to equal.

    Args:
        constant: It, in SQL.
        canonical: A text that is the same for equal values, or, if `asked`, the SQL that makes it.
        asked: Whether the database makes it.
    """

    constant: str
    canonical: str
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Pin:
    """A primary key that a row has to have.

    Args:
        constants: Its values, in SQL.
        canonical: Texts that are the same for equal values, by column.
    """

    constants: tuple[str, ...]
    canonical: Mapping[str, str | None]


def columns_of(keys: Sequence[Pin], names: Iterable[str]) -> dict[str, list[str | None]]:
    """Canonical texts of columns, key by key."""
    return {name: [pin.canonical[name] for pin in keys] for name in names}


def pinned(cursor: Any, statement: Statement, table: Table, parameter_rows: Sequence[Any]) -> list[list[Pin]] | None:
    """Primary keys of which rows must have one that fulfil the condition.

    Args:
        cursor: The database is asked how texts are compared.
        statement: An UPDATE or DELETE.
        table: Its target.
        parameter_rows: Its parameters, more than once.

    Returns:
        Those of each row of parameters; None: the condition leaves them open.
    """
    equal = {equality.column.lower(): equality.values for equality in statement.equalities}
    wanted = [(table.column(name), equal.get(name.lower(), ())) for name in table.primary_key]
    if not all(tokens for _, tokens in wanted):
        return None
    keys = [
        list(product(*([said(statement, column, token, parameters) for token in tokens] for column, tokens in wanted)))
        for parameters in parameter_rows
    ]
    return pins(cursor, table.primary_key, keys)


def locks_only(statement: Statement, table: Table, parameters: Any, found: bool) -> bool:
    """Whether InnoDB locks nothing for a statement but the rows that it changes, or that a locking read returns.

    It locks all that it scans, and the gap where it finds nothing: so only one whole primary key is certain, and what is new.

    Args:
        statement: Without foreign keys it is right; the row to which a new one refers is locked as well.
        table: Its target.
        parameters: Its own.
        found: Whether there was anything to change or return.
    """
    own = 0 if statement.items is None else statement.items.start
    if _FURTHER.search(statement.sql, own):
        return False
    if statement.verb is Verb.INSERT:
        return not statement.either and not statement.assigned
    equal = {equality.column.lower(): equality.values for equality in statement.equalities}
    for name in table.primary_key:
        tokens = equal.get(name.lower(), ())
        if len(tokens) != 1 or said(statement, table.column(name), tokens[0], parameters) is None:
            return False
    return found and table.follows(assigned(statement, table)).isdisjoint(table.primary_key)


def pins(cursor: Any, columns: tuple[str, ...], keys: Sequence[Sequence[Sequence[Value | None]]]) -> list[list[Pin]] | None:
    """Values of columns with their canonical texts; None: one is not known, or they are too many.

    Args:
        cursor: The database is asked, once, where it compares otherwise than by bytes.
        columns: Their names.
        keys: Values of these columns, in groups.
    """
    if sum(map(len, keys)) > _MANY or any(value is None for group in keys for key in group for value in key):
        return None
    certain = [[[value for value in key if value is not None] for key in group] for group in keys]
    asked = list(dict.fromkeys(value.canonical for group in certain for key in group for value in key if value.asked))
    known = _ask(cursor, asked)
    return [
        [
            Pin(
                tuple(value.constant for value in key),
                {name: known[value.canonical] if value.asked else value.canonical for name, value in zip(columns, key)},
            )
            for key in group
        ]
        for group in certain
    ]


def canonical_texts(cursor: Any, columns: Mapping[str, Sequence[Value | None]]) -> dict[str, list[str | None]] | None:
    """Of values of columns: texts that are the same for equal ones; None: one is not known, or they are too many.

    Args:
        cursor: See `pins`.
        columns: Values by name, row by row.
    """
    every = [value for values in columns.values() for value in values]
    if len(every) > _MANY * len(columns) or not all(every):
        return None
    known = _ask(cursor, list(dict.fromkeys(value.canonical for value in every if value and value.asked)))
    return {
        name: [known[value.canonical] if value.asked else value.canonical for value in values if value]
        for name, values in columns.items()
    }


def said(statement: Statement, column: Column, token: Token, parameters: Any) -> Value | None:
    """What a token says of a column's value, where that is certain: integers for integers, texts for texts."""
    if token.kind is Kind.BIND:
        value = _bound(statement, token, parameters)
        if type(value) is int and is_whole_number(column):
            return Value(str(value), str(value))
        if type(value) is str and is_text(column):
            return _text(column, text_constant(value))
        return None
    if token.kind is Kind.NUMBER and token.text.isdigit() and is_whole_number(column):
        return Value(token.text, str(int(token.text)))
    if token.kind is Kind.STRING and is_text(column) and token.text[0] == "'":
        return _text(column, token.text if parameters is None else token.text.replace("%%", "%"))
    return None


def _text(column: Column, constant: str) -> Value:
    own = constant if column.charset == "utf8mb4" else f"CONVERT({constant} USING {column.charset})"
    return Value(own, canonical(column, of_column(column, constant)), asked=True)


def _bound(statement: Statement, token: Token, parameters: Any) -> Any:
    if parameters is None:
        return None
    if isinstance(parameters, Mapping):
        return parameters.get(token.text[2:-2])
    return parameters[bisect_left(statement.binds, token.start, key=lambda bind: bind.start)]


def _ask(cursor: Any, expressions: list[str]) -> dict[str, str]:
    """What the database makes of expressions."""
    if not expressions:
        return {}
    cursor.execute("SELECT " + ", ".join(expressions))
    (row,) = cursor.fetchall()
    return dict(zip(expressions, map(str, row)))
