"""Rows that a statement changes on SQLite, as triggers tell of them that live as long as it.

The statement itself runs as the application has written it, so that its rows, counts, conflicts and errors are the plain ones,
and rows change in the same order. TEMP triggers are the connection's own: no other connection sees them, and the database's file
does not change. They tell of every row that counts as changed; of rows that REPLACE deletes only under `recursive_triggers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from txcoord_rm.capture.sqlite_connection import SEEN, Below
from txcoord_rm.capture.sqlite_values import outgoing, value
from txcoord_rm.catalogue.sqlite import SqliteTable
from txcoord_rm.catalogue.table import Event
from txcoord_rm.sql.quoting import quoted
from txcoord_rm.undo.item import Value

_AT_ONCE = 100
"""Arguments of one call: SQLite allows for no more, unless it is built so."""
_SIDES = {Event.INSERT: ("NEW",), Event.DELETE: ("OLD",), Event.UPDATE: ("OLD", "NEW")}
_NUMBERS = {event: number for number, event in enumerate(Event)}
_BY_NUMBER = {number: event for event, number in _NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class Seen:
    """A change of one row.

    Args:
        event: What happened.
        before, after: The row; None: there was none, or is none.
        beyond: Whether columns of which nothing is told have changed, too.
    """

    event: Event
    before: Mapping[str, Value] | None
    after: Mapping[str, Value] | None
    beyond: bool = False

    @property
    def rows(self) -> tuple[Mapping[str, Value], ...]:
        """Those that there are."""
        return tuple(row for row in (self.before, self.after) if row is not None)


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

    def told(self, values: list[Any]) -> Iterator[Seen]:
        """What they have told, in the order in which it happened."""
        width, place = len(self._columns), 0
        while place < len(values):
            event, beyond, place = _BY_NUMBER[values[place]], not values[place + 1], place + 2
            rows = []
            for _ in _SIDES[event]:
                rows.append(self._row(values[place : place + width]))
                place += width
            before, after = None if event is Event.INSERT else rows[0], None if event is Event.DELETE else rows[-1]
            yield Seen(event, before, after, beyond)

    def _row(self, values: list[Any]) -> dict[str, Value]:
        """A column of REAL affinity holds no negative zero, but the triggers may show one."""
        return {
            name: value(found + 0.0 if real and isinstance(found, float) else found)
            for name, real, found in zip(self._columns, self._reals, values)
        }


def _name(event: Event) -> str:
    return f"txcoord_{event.value.lower()}"
