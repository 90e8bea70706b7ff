"""UPDATE and DELETE on MySQL and MariaDB: rows are locked and read, changed by their keys, and read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

from txcoord_rm.capture.mysql_check import assigned
from txcoord_rm.capture.mysql_foresight import Pin, pinned
from txcoord_rm.capture.mysql_keys import Columns, ImageTooLargeError, Keys, Reading, Seen, select_packed
from txcoord_rm.capture.mysql_record import next_seq
from txcoord_rm.capture.mysql_run import FEW, Run, execute, unrecorded
from txcoord_rm.capture.mysql_splice import Part
from txcoord_rm.capture.mysql_text import assignments, locking
from txcoord_rm.capture.mysql_values import by_bytes, image, is_text, is_whole_number
from txcoord_rm.capture.port import Entry, Result
from txcoord_rm.catalogue.table import Event
from txcoord_rm.sql.statement import Span
from txcoord_rm.sql.unsupported import refuse


class Change(Run):
    """An UPDATE or DELETE."""

    def look(self, columns: Iterable[str]) -> Seen:
        """The rows that fulfil the condition, without locks, for their lock keys.

        Args:
            columns: Of which canonical texts are wanted.
        """
        return self._matching(Reading(self._table, self._table.primary_key, columns), None)[0]

    def update(self, entry: Entry) -> Result:
        """An UPDATE."""
        keys = Keys(self._table, Event.UPDATE, self._changed())
        reading = Reading(self._table, self._images(), keys.columns)
        before, further = self._matching(reading, entry, self._new_keys() if keys.moves else ())
        after_keys = [self._new_key(row) for row in further] if keys.moves else before.keys
        in_the_way = set(self._by_key(reading, after_keys).keys) - set(before.keys) if keys.moves else set()
        self._change([self._head()], before)
        rowcount, lastrowid = self._cursor.rowcount, self._cursor.lastrowid
        with unrecorded():
            after = self._by_key(reading, after_keys)
            if in_the_way or not set(after_keys) <= set(after.keys):
                raise LookupError("rows have got other primary keys than their assignments said")
            return Result(self._recorded(entry, keys, reading, before, after.ordered(after_keys)), rowcount, lastrowid=lastrowid)

    def delete(self, entry: Entry) -> Result:
        """A DELETE."""
        s, keys = self._s, Keys(self._table, Event.DELETE)
        reading = Reading(self._table, self._written, keys.columns)
        before, _ = self._matching(reading, entry)
        returning: list[Part] = [" RETURNING ", s.returning] if s.returning is not None else []
        if returning and not before:  # a condition that is never true would return no columns
            self._execute(["SELECT ", s.returning, " FROM ", self._target.name, self._alias, " LIMIT 0"])
        else:
            self._change([self._head(), self._alias], before, returning)
        rowcount, lastrowid, description = self._cursor.rowcount, self._cursor.lastrowid, self._cursor.description
        with unrecorded():
            rows = self._cursor.fetchall() if s.returning is not None else ()
            # IGNORE leaves rows to which others refer.
            left = self._by_key(reading, before.keys).keys if rowcount != len(before) else ()
            found = self._recorded(entry, keys, reading, before.without(left), None)
            return Result(found, rowcount, description if s.returning is not None else None, rows, lastrowid)

    def many(self, rows: Sequence[Any], entry: Entry) -> Result | None:
        """The statement for many rows of parameters, in few round trips besides those of the plain one.

        Returns:
            None: it has to run once for each of them.
        """
        event = Event(self._s.verb.value)
        keys = Keys(self._table, event, self._changed())
        if keys.moves or self._s.tail is not None or self._s.returning is not None:
            return None
        pins = pinned(self._cursor, self._s, self._table, rows)
        if pins is None:
            return None
        reading = Reading(self._table, self._written if event is Event.DELETE else self._images(), keys.columns)
        wanted = list(dict.fromkeys(pin.constants for of_row in pins for pin in of_row))
        before = self._select(reading, self._has_key(wanted, "t"), len(wanted))
        identities = set(zip(*(before.canonical[name] for name in self._table.primary_key)))
        rowcount, lastrowid = self._change_each(rows, pins, identities)
        with unrecorded():
            after = self._by_key(reading, before.keys)
            self._number(entry, before)
            if event is Event.DELETE:
                found = self._recorded(entry, keys, reading, before.without(after.keys), None)
            else:
                found = self._recorded(entry, keys, reading, before, after.ordered(before.keys))
            return Result(found, rowcount, lastrowid=lastrowid)

    def _change_each(
        self, rows: Sequence[Any], pins: Sequence[Sequence[Pin]], known: set[tuple[str | None, ...]]
    ) -> tuple[int, Any]:
        """Run the statement as it is for those rows of parameters whose rows were read; how many changed, and `lastrowid`."""
        rowcount = 0
        for n, (row, of_row) in enumerate(zip(rows, pins)):
            if any(self._identity(pin.canonical) in known for pin in of_row):
                with unrecorded(n > 0):
                    execute(self._cursor, self._s.sql, row)
                rowcount += self._cursor.rowcount
        return rowcount, self._cursor.lastrowid

    def _identity(self, canonical: Mapping[str, str | None]) -> tuple[str | None, ...]:
        return tuple(canonical[name] for name in self._table.primary_key)

    # ------------------------------------------------------------ rows before and after

    @property
    def _alias(self) -> str:
        return f" AS {self._target.alias}" if self._target.alias else ""

    def _changed(self) -> frozenset[str]:
        return self._table.follows(assigned(self._s, self._table))

    def _images(self) -> tuple[str, ...]:
        """Columns of the images of an UPDATE: the key and what it sets, if no trigger may set more and no row moves; else all."""
        changed = self._changed()
        if self._table.fires(Event.UPDATE, after=False) or not changed.isdisjoint(self._table.primary_key):
            return self._written
        needed = {*self._table.primary_key, *changed}
        return tuple(name for name in self._written if name in needed)

    def _head(self) -> Span:
        """The statement up to its condition, without an alias of a DELETE."""
        end = self._target.name.end if self._s.set is None else self._s.set.end
        return Span(self._s.main.start, end)

    def _matching(self, reading: Reading, entry: Entry | None, further: Sequence[Part] = ()) -> tuple[Seen, list[Sequence[Any]]]:
        """The rows that the condition is about, and what is selected of them besides.

        Args:
            reading: What is wanted of them.
            entry: With it they are locked, as the statement itself would, and the number of the next record is found.
            further: More columns, each with a comma before it.
        """
        s = self._s
        packs = not further and s.tail is None and s.with_ is None and not self._pinned
        columns = self._packed(reading, entry) if packs else None
        rows: list[Sequence[Any]] = []
        if columns is None:
            self._find([f"SELECT {reading.columns(self._reference)}", *further], entry)
            rows = list(self._cursor.fetchall())
            columns = reading.columns_of(rows)
            if rows and self._numbered(entry):
                self._seq = int(rows[0][-1])
        try:
            return reading.seen(columns), [row[reading.width :] for row in rows] if further else []
        except ImageTooLargeError as error:
            raise refuse(s.sql, str(error), "do the work in a TCC branch") from error

    def _packed(self, reading: Reading, entry: Entry | None) -> Columns | None:
        """The rows that the condition is about, read as one text; None: it would be too long."""
        self._find([select_packed(reading.packed(self._reference))], entry)
        ((count, packed, *seq),) = self._cursor.fetchall()
        if seq:
            self._seq = int(seq[0])
        return reading.unpacked(int(count), packed)

    def _find(self, columns: list[Part], entry: Entry | None) -> None:
        """Select columns of the rows that the condition is about. Arguments are those of `_matching`."""
        s = self._s
        columns += [f", {next_seq(entry.branch_id)}"] if entry is not None and self._numbered(entry) else []
        where = () if s.where is None else (" WHERE ", *(locking(s, s.where, self._flavour) if entry else (s.where,)))
        lock = " FOR UPDATE" if entry else ""
        self._execute([*self._with(), *columns, " FROM ", self._target.name, self._alias, *where, " ", s.tail, lock])

    @staticmethod
    def _numbered(entry: Entry | None) -> bool:
        """Whether the number of the next record is to be found with the rows."""
        return entry is not None and not entry.first

    @property
    def _pinned(self) -> bool:
        """Whether the condition says the primary key of the row, or of a few."""
        equal = {equality.column.lower(): len(equality.values) for equality in self._s.equalities}
        return prod(equal.get(name.lower(), FEW + 1) for name in self._table.primary_key) <= FEW

    def _with(self) -> list[Part]:
        if self._s.with_ is None:
            return []
        return ["WITH RECURSIVE " if self._s.recursive else "WITH ", self._s.with_, " "]

    def _change(self, head: Sequence[Part], rows: Seen, returning: Sequence[Part] = ()) -> None:
        """Run the statement for these rows instead of those that fulfil its condition."""
        where = self._has_key(self._constants(rows.keys), self._reference)
        self._execute([*self._with(), *head, f" WHERE {where} ", self._s.tail, *returning])

    def _new_keys(self) -> list[Part]:
        """Columns with the primary keys that rows will have.

        Raises:
            UnsupportedSqlError: That is not certain before.
        """
        s, primary, earlier = self._s, self._table.primary_key, set[str]()
        values: dict[str, Span] = {}
        for a in assignments(s, self._flavour):
            name = next((name for name in primary if name.lower() == a.column), None)
            if name is not None:
                if not a.plain or a.names & (earlier | {"default"}) or name in values:
                    raise refuse(s.sql, f"what {name} of its primary key becomes is not known before", "assign to it alone")
                values[name] = a.value
            earlier.add(a.column)
        found: list[Part] = []
        for name in primary:
            column = self._table.column(name)
            if name not in values:
                found.append(f", {image(column, self._reference)}")
            elif is_whole_number(column):
                sign = "UNSIGNED" if "unsigned" in column.type else "SIGNED"
                found += [", CAST(CAST((", values[name], f") AS {sign}) AS CHAR)"]
            elif is_text(column) and not by_bytes(column):
                found += [", CONVERT((", values[name], ") USING utf8mb4)"]
            else:
                raise refuse(s.sql, f"what {name} of type {column.type} becomes is not known before", "delete and insert the row")
        return found

    def _new_key(self, row: Sequence[Any]) -> tuple[str, ...]:
        texts = zip(self._table.primary_key, map(str, row))
        return tuple(text.rstrip(" ") if self._table.column(name).base == "char" else text for name, text in texts)
