"""Rows that a statement changes on SQLite, as triggers tell of them that live as long as it.

The statement itself runs as the application has written it, so that its rows, counts, conflicts and errors are the plain ones,
and rows change in the same order. TEMP triggers are the connection's own: no other connection sees them, and the database's file
does not change. They tell of every row that counts as changed; of rows that REPLACE deletes only under `recursive_triggers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from txcoord_rm.capture.sqlite_connection import SEEN, Below
from txcoord_rm.capture.sqlite_values import outgoing, values
from txcoord_rm.catalogue.sqlite import SqliteTable
from txcoord_rm.catalogue.table import Event
from txcoord_rm.sql.quoting import quoted
from txcoord_rm.undo.item import Value

_AT_ONCE = 100
"""Arguments of one call: SQLite allows for no more, unless it is built so."""
_SIDES = {Event.INSERT: ("NEW",), Event.DELETE: ("OLD",), Event.UPDATE: ("OLD", "NEW")}
_NUMBERS = {event: number for number, event in enumerate(Event)}
_BY_NUMBER = {number: event for event, number in _NUMBERS.items()}

Row: TypeAlias = tuple[Value, ...] | None


@dataclass(frozen=True, slots=True)
class Seen:
    """Changes of rows in the order in which they happened, in parallel lists, for there may be many.

    Args:
        events: What happened to each.
        befores: The rows; None: there was none.
        afters: The rows after it; None: there is none.
        beyond: Whether columns of which nothing is told have changed, too.
    """

    events: Sequence[Event]
    befores: Sequence[Row]
    afters: Sequence[Row]
    beyond: bool = False

    def rows(self, event: Event) -> list[tuple[Value, ...]]:
        """All that there were or are, of one kind of changes."""
        sides: tuple[Sequence[Row], ...] = self.befores, self.afters
        return [row for side in sides for row, what in zip(side, self.events) if row is not None and what is event]


class Triggers:
    """Tell of changes of a table.

    Args:
        connection: That the statement runs on.
        table: It.
        columns: Of which they tell.
        events: Of which they tell.
        replaces: Whether rows may go because others take their place.
    """

    def __init__(
        self, connection: Below, table: SqliteTable, columns: Sequence[str], events: frozenset[Event], replaces: bool
    ) -> None:
        self._connection = connection
        self._table = table
        self._columns = columns
        self._events = [event for event in Event if event in events]
        self._made: list[Event] = []
        self._recursive = replaces and not connection.rows("PRAGMA recursive_triggers")[0][0]
        self._others = [c.name for c in table.columns if not c.generated and c.name not in columns]
        self._reals = [table.column(name).base == "REAL" for name in columns]

    def create(self) -> None:
        """From now on they tell."""
        for event in self._events:
            values = [str(_NUMBERS[event]), self._same() if event is Event.UPDATE else "1"]
            values += (outgoing(f"{side}.{quoted(column)}") for side in _SIDES[event] for column in self._columns)
            calls = (f"SELECT {SEEN}({', '.join(values[n : n + _AT_ONCE])});" for n in range(0, len(values), _AT_ONCE))
            self._connection.execute(
                f"CREATE TEMP TRIGGER {_name(event)} AFTER {event.value} ON main.{quoted(self._table.name)} "
                f"BEGIN {' '.join(calls)} END"
            )
            self._made.append(event)
        if self._recursive:
            self._connection.execute("PRAGMA recursive_triggers = ON")

    def _same(self) -> str:
        """Whether nothing else has changed."""
        old, new = (", ".join(f"{side}.{quoted(name)}" for name in self._others) for side in _SIDES[Event.UPDATE])
        return f"({old}) IS ({new})" if self._others else "1"

    def drop(self) -> None:
        """Leave nothing behind."""
        self.leave()
        while self._made:
            self._connection.execute(f"DROP TRIGGER temp.{_name(self._made.pop())}")

    def leave(self) -> None:
        """Leave nothing behind that ROLLBACK does not take back."""
        if self._recursive:
            self._connection.execute("PRAGMA recursive_triggers = OFF")

    def told(self, calls: list[Any]) -> Seen:
        """What they have told."""
        if len(self._events) > 1:
            return self._told_of_several(calls)
        width, (event,) = len(self._columns), self._events
        step = 2 + width * len(_SIDES[event])
        sides = [self._rows([calls[first + n :: step] for n in range(width)]) for first in range(2, step, width)]
        none: list[Row] = [None] * (len(calls) // step)
        return Seen(
            [event] * len(none),
            none if event is Event.INSERT else sides[0],
            none if event is Event.DELETE else sides[-1],
            not all(calls[1::step]),
        )

    def _told_of_several(self, calls: list[Any]) -> Seen:
        """What they have told, each call of another length."""
        width, place = len(self._columns), 0
        events, befores, afters, beyond = list[Event](), list[Row](), list[Row](), False
        while place < len(calls):
            event, beyond, place = _BY_NUMBER[calls[place]], beyond or not calls[place + 1], place + 2
            rows = []
            for _ in _SIDES[event]:
                rows += self._rows([calls[n : n + 1] for n in range(place, place + width)])
                place += width
            events.append(event)
            befores.append(None if event is Event.INSERT else rows[0])
            afters.append(None if event is Event.DELETE else rows[-1])
        return Seen(events, befores, afters, beyond)

    def _rows(self, columns: Sequence[Sequence[Any]]) -> list[Row]:
        """Rows of what the triggers have told of their columns."""
        return list(zip(*(values(column, real) for column, real in zip(columns, self._reals))))


def _name(event: Event) -> str:
    return f"txcoord_{event.value.lower()}"
