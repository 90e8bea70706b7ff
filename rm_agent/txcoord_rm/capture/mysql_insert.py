"""INSERT on MySQL and MariaDB: RETURNING shows the rows; where it is not known they are found by their keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from txcoord_rm.capture.mysql_foresight import Pin, Value, canonical_texts, pins, said
from txcoord_rm.capture.mysql_keys import Keys, Reading, Seen
from txcoord_rm.capture.mysql_run import Run, execute, together, unrecorded
from txcoord_rm.capture.mysql_splice import ours
from txcoord_rm.capture.mysql_text import value_rows
from txcoord_rm.capture.port import Entry, Result
from txcoord_rm.catalogue.table import Event
from txcoord_rm.sql.backticks import quoted
from txcoord_rm.sql.statement import Source
from txcoord_rm.sql.unsupported import refuse

AT_ONCE = 1000
"""Rows that one INSERT of an executemany() takes."""


class Insert(Run):
    """An INSERT."""

    def foreseen(self, keys: Keys) -> frozenset[str] | None:
        """Keys of the locks of its rows, where all values of which they are made stand in it; None: they do not."""
        names, columns = [name.lower() for name in self._s.columns], tuple(sorted(keys.columns))
        if self._table.fires(Event.INSERT, after=False) or not {name.lower() for name in columns} <= set(names):
            return None
        known = self._values(columns, [names.index(name.lower()) for name in columns])
        values = {name: [row[n] for row in known] for n, name in enumerate(columns)}
        found = canonical_texts(self._cursor, values) if known else None
        return None if found is None else frozenset(keys.of(None, found))

    def insert(self, entry: Entry) -> Result:
        """Run it."""
        s = self._s
        return self._inserted(s.sql[: s.main.end if s.returning is None else s.returning.end], self._parameters, entry)

    def insert_by_key(self, entry: Entry) -> Result:
        """Run it where no RETURNING is known: the rows are found by keys that stand in it, or that the database counts.

        Raises:
            UnsupportedSqlError: Neither is certain.
        """
        s, table, cursor, parameters = self._s, self._table, self._cursor, self._parameters
        keys = Keys(table, Event.INSERT)
        reading = Reading(table, self._written, keys.columns)
        columns = [name.lower() for name in s.columns] or [column.name.lower() for column in table.columns]
        places = [columns.index(name.lower()) for name in table.primary_key if name.lower() in columns]
        counted = [table.column(name).numbered for name in table.primary_key] == [True] and not places
        known: list[list[Pin]] | None = None
        if not counted and len(places) == len(table.primary_key):
            known = pins(cursor, table.primary_key, [self._values(table.primary_key, places)])
        if s.either or s.source is not Source.VALUES or not (counted or known):
            raise refuse(s.sql, "which rows it inserts is not known without RETURNING", "insert rows with their primary keys")
        execute(cursor, s.sql, parameters)
        rowcount, lastrowid = cursor.rowcount, cursor.lastrowid
        with unrecorded():
            if known is None:
                cursor.execute("SELECT @@SESSION.auto_increment_increment")
                step = int(cursor.fetchall()[0][0])
                wanted: list[tuple[str, ...]] = [(str(lastrowid + n * step),) for n in range(rowcount)]
            else:
                wanted = [pin.constants for pin in known[0]]
            rows = self._select(reading, self._has_key(wanted, "t"), len(wanted))
            if len(rows) != rowcount:
                raise LookupError(f"of {rowcount} rows inserted {len(rows)} were found by their keys")
            self._number(entry, rows)
            found = self._recorded(entry, keys, reading, None, rows)
            return Result(found, rowcount, lastrowid=lastrowid)

    def _values(self, names: Sequence[str], places: Sequence[int]) -> list[list[Value | None]]:
        """What stands in VALUES for columns, row by row.

        Args:
            names: Of the columns.
            places: Where their values stand in a row.
        """
        cells = list(zip(map(self._table.column, names), places))
        return [
            [
                None if (token := values[place]) is None else said(self._s, column, token, self._parameters)
                for column, place in cells
            ]
            for _, values in value_rows(self._s, self._flavour)
        ]

    def many(self, rows: Sequence[Any], entry: Entry) -> Result | None:
        """The statement for many rows of parameters, as one INSERT of many rows.

        Returns:
            None: it has to run once for each of them, for its parameters do not all stand in its one row of VALUES.
        """
        s, found = self._s, value_rows(self._s, self._flavour)
        if s.returning is not None or len(found) != 1 or not isinstance(rows[0], (list, tuple)):
            return None
        span = found[0][0]
        if not all(span.start <= bind.start < span.end for bind in s.binds):
            return None
        results = list[Result]()
        for n in range(0, len(rows), AT_ONCE):
            some = rows[n : n + AT_ONCE]
            text = s.sql[: span.start] + ", ".join([span.of(s.sql)] * len(some)) + s.sql[span.end : s.main.end]
            results.append(self._inserted(text, tuple(value for row in some for value in row), entry))
            entry = replace(entry, first=False)
        return together(results)

    def _inserted(self, text: str, parameters: Any, entry: Entry) -> Result:
        """Run a text of the application's, to which only what it returns is to be added."""
        s, keys = self._s, Keys(self._table, Event.INSERT)
        reading = Reading(self._table, self._written, keys.columns)
        columns = ours(reading.columns(quoted(self._target.parts[-1])), parameters, self._flavour.binds)
        execute(self._cursor, f"{text}{' RETURNING' if s.returning is None else ','} {columns}", parameters)
        lastrowid = self._cursor.lastrowid
        description = None if s.returning is None else self._cursor.description[: -reading.width]
        with unrecorded():
            rows = list(self._cursor.fetchall())
            seen = reading.seen(reading.columns_of([row[-reading.width :] for row in rows]))
            lastrowid = lastrowid if s.returning is not None else self._last_numbered(seen, reading)
            self._number(entry, seen)
            found = self._recorded(entry, keys, reading, None, seen)
            shown = () if s.returning is None else [row[: -reading.width] for row in rows]
            return Result(found, len(rows), description, shown, lastrowid)

    def _last_numbered(self, rows: Seen, reading: Reading) -> int:
        """What the driver would say: the first number that the database gave, else the last that the application gave, else 0.

        Where IGNORE has left out the last row, it would say that one's.
        """
        name = next((column.name for column in self._table.columns if column.numbered), None)
        if name is None or not rows:
            return 0
        place = reading.images.index(name)
        numbers = [int(image[place] or 0) % 2**64 for image in rows.images]
        if name.lower() not in {column.lower() for column in self._s.columns} and self._s.columns:
            return numbers[0]
        self._cursor.execute("SELECT LAST_INSERT_ID()")
        given = int(self._cursor.fetchall()[0][0])
        return given if given in numbers else numbers[-1]
