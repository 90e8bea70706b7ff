"""Lock keys of the rows that a statement will touch, from its text and parameters alone: where both are certain.

A condition that pins the whole primary key leaves at most those rows. Their keys are made here as `capture.keys` has the database
make them; values whose text the database may see otherwise are left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from math import prod
from typing import Any, NamedTuple
from uuid import UUID

from txcoord_rm.capture.keys import Keys, Need
from txcoord_rm.catalogue.table import Column, Event, Table
from txcoord_rm.sql.lexer import Kind, Token
from txcoord_rm.sql.statement import Statement, Verb

_MOST = 1000
"""Keys; of a statement that may touch more, they are asked for when they are known."""
_INTEGERS = {"smallint": 1 << 15, "integer": 1 << 31, "bigint": 1 << 63}
_TEXTS = frozenset({"text", "character varying"})


Text = Callable[[Any], str | None]
"""The canonical text of a value, given the application's parameters; None: the database may see it otherwise."""


class Foresight(NamedTuple):
    """How the lock keys of the rows that a statement touches follow from its parameters.

    Attributes:
        keys: Of its table.
        values: By column of the primary key: each value that it can have.
        shared: Keys that it takes besides, if it may touch a row.
    """

    keys: Keys
    values: tuple[tuple[Text, ...], ...]
    shared: frozenset[str]

    def of(self, parameters: Any) -> frozenset[str] | None:
        """See `capture.port.Capture.foreseen`."""
        texts: list[list[str]] = []
        for values in self.values:
            try:
                found = [text(parameters) for text in values]
            except IndexError:  # there are too few, as the driver will say
                return None
            if None in found:
                return None
            texts.append(found)  # type: ignore[arg-type]  # mypy does not see that none is None
        rows = frozenset(self.keys.known(row) for row in product(*texts))
        return rows | self.shared if rows and self.shared else rows


def foresight(statement: Statement, table: Table, changed: Iterable[str]) -> Foresight | None:
    """How its keys are foreseen; None: not from its text and parameters.

    Args:
        statement: A captured one.
        table: Its target.
        changed: Columns that it may change.
    """
    keys, others = Keys(table), list[Need]()
    match statement.verb:
        case Verb.UPDATE | Verb.DELETE:
            primary, *others = keys.needs(Event(statement.verb.value), changed)
            if any(not need.shared for need in others) or (statement.verb is Verb.UPDATE and primary.moved):
                return None
        case Verb.LOCKING_READ if len(statement.locked) == 1:
            pass
        case _:
            return None
    values = tuple(_values(statement, table.column(name)) for name in table.primary_key)
    if not all(values) or prod(map(len, values)) > _MOST:
        return None
    return Foresight(keys, values, frozenset(map(keys.shared, others)))


def _values(statement: Statement, column: Column) -> tuple[Text, ...]:
    """All values that a column of the touched rows can have; none: the text does not say."""
    for equality in statement.equalities:
        if equality.column == column.name:
            found = [_text(statement, column, token) for token in equality.values]
            return () if None in found else tuple(text for text in found if text is not None)
    return ()


def _text(statement: Statement, column: Column, token: Token) -> Text | None:
    canonical = _canonical(column)
    if canonical is None:
        return None
    constant: object
    match token.kind:
        case Kind.BIND:
            place = _place(statement, token)
            return lambda parameters: canonical(parameters[place])
        case Kind.NUMBER if token.text.isdecimal() and token.text.isascii():
            constant = int(token.text)
        case Kind.STRING if token.text[0] == "'" and "\\" not in token.text and "%" not in token.text and column.base in _TEXTS:
            constant = token.text[1:-1].replace("''", "'")
        case _:
            return None
    text = canonical(constant)
    return None if text is None else lambda parameters: text


def _place(statement: Statement, token: Token) -> int | str:
    """Where a parameter stands among the application's."""
    mark = token.text
    if mark[0] == "$":
        return int(mark[1:]) - 1
    if mark[1] == "(":
        return mark[2 : mark.index(")")]
    return statement.binds.index(token)


def _canonical(column: Column) -> Callable[[object], str | None] | None:
    """Makes of a value the text that the database makes of it. None: of no value of this column.

    It makes none of kinds of numbers and texts that are not Python's own: they may be anything to the driver.
    """
    if (limit := _INTEGERS.get(column.base)) is not None:
        return lambda value: str(value) if type(value) is int and -limit <= value < limit else None
    if column.base in _TEXTS and column.deterministic:
        return lambda value: value if type(value) is str and value.isascii() and "\0" not in value else None
    if column.base == "uuid":
        return lambda value: str(value) if type(value) is UUID else None
    return None
