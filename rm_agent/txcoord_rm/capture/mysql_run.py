"""One statement on MySQL or MariaDB: how its rows are read by their keys, and its undo record written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from txcoord_rm.capture.mysql_keys import Keys, Reading, Seen, select_packed
from txcoord_rm.capture.mysql_record import next_seq, records
from txcoord_rm.capture.mysql_splice import Part, spliced
from txcoord_rm.capture.mysql_values import constants, image, is_whole_number
from txcoord_rm.capture.port import Entry, Result, UnrecordedError
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.backticks import quoted
from txcoord_rm.sql.flavour import Binds, Flavour
from txcoord_rm.sql.statement import Statement, Verb

FEW = 20
"""Rows up to which drivers read them one by one as fast as all in one text."""
_RUN = 8
"""Length of ranges, on average, from which on they are found faster than one number after the other."""


class Run:
    """A statement whose table is certain.

    Args:
        cursor: Of DB-API, in the local transaction.
        statement: It.
        table: Its target.
        parameters: Of the application.
        flavour: How the text is read.
    """

    def __init__(self, cursor: Any, statement: Statement, table: Table, parameters: Any, flavour: Flavour) -> None:
        assert statement.target is not None, "it changes rows"
        self._cursor = cursor
        self._s = statement
        self._table = table
        self._parameters = parameters
        self._flavour = flavour
        self._target = statement.target
        written = self._target.alias or self._target.name.of(statement.sql)
        formats = flavour.binds is Binds.PERCENT
        self._reference = written.replace("%%", "%") if formats else written  # `spliced` doubles it again
        self._name = f"{quoted(table.schema)}.{quoted(table.name)}"
        self._written = tuple(column.name for column in table.columns if not column.generated)
        named = {equality.column.lower() for equality in statement.equalities}
        # A range locks the row behind it, too: not where else nothing but the rows of the condition would be locked.
        self._ranges = statement.verb is not Verb.INSERT and not named >= {name.lower() for name in table.primary_key}
        self._seq = 1
        """Number of the next undo record."""

    def _by_key(self, reading: Reading, keys: Sequence[tuple[str, ...]]) -> Seen:
        """Rows by their primary keys, locked: so they are seen as they are now."""
        return self._select(reading, self._has_key(self._constants(keys), "t"), len(keys))

    def _select(self, reading: Reading, where: str, count: int) -> Seen:
        """Rows that fulfil a condition, locked.

        Args:
            reading: What is wanted of them.
            where: The condition.
            count: How many there may be.
        """
        if not count:
            return reading.seen(reading.columns_of(()))
        source = f" FROM {self._name} AS t WHERE {where} FOR UPDATE"
        if count > FEW:
            self._cursor.execute(select_packed(reading.packed("t")) + source)
            ((found, packed),) = self._cursor.fetchall()
            if (columns := reading.unpacked(int(found), packed)) is not None:
                return reading.seen(columns)
        self._cursor.execute(f"SELECT {reading.columns('t')}{source}")
        return reading.seen(reading.columns_of(self._cursor.fetchall()))

    def _constants(self, keys: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        columns = (self._table.column(name) for name in self._table.primary_key)
        return list(zip(*(constants(column, texts) for column, texts in zip(columns, zip(*keys)))))

    def _has_key(self, keys: Sequence[tuple[str, ...]], row: str) -> str:
        """The condition that a row has one of these primary keys, whose values are written in SQL."""
        columns = [self._table.column(name) for name in self._table.primary_key]
        # What a constant means as a TIMESTAMP depends on the session's time zone, and is not certain in every hour.
        cells = [image(c, row) if c.base == "timestamp" else f"{row}.{quoted(c.name)}" for c in columns]
        if not keys:
            return "1 = 0"
        if len(keys) == 1:
            return " AND ".join(f"{cell} = {value}" for cell, value in zip(cells, keys[0]))
        if len(cells) == 1:
            if self._ranges and len(keys) > FEW and is_whole_number(columns[0]):
                return _among(cells[0], sorted(int(value) for (value,) in keys))
            return f"{cells[0]} IN ({', '.join(value for (value,) in keys)})"
        return f"({', '.join(cells)}) IN ({', '.join('(' + ', '.join(key) + ')' for key in keys)})"

    def _execute(self, parts: Iterable[Part]) -> None:
        execute(self._cursor, *spliced(self._s, parts, self._parameters, self._flavour.binds))

    def _recorded(self, entry: Entry, keys: Keys, reading: Reading, before: Seen | None, after: Seen | None) -> frozenset[str]:
        """Write the undo record of rows; the keys of their locks.

        Args:
            entry: Where it belongs.
            keys: Names of locks.
            reading: How the rows were read.
            before: They; None: there were none.
            after: What they have become, in the same order; None: they are gone.
        """
        if entry.xid:
            befores, afters = (rows.images if rows else [None] * len(before or after or ()) for rows in (before, after))
            for sql in records(entry, self._seq, self._table, reading.images, befores, afters):
                self._cursor.execute(sql)
        old, new = (None if rows is None else rows.canonical for rows in (before, after))
        return frozenset(keys.of(old, new))

    def _number(self, entry: Entry, rows: Seen) -> None:
        if rows and not entry.first:
            self._cursor.execute(f"SELECT {next_seq(entry.branch_id)}")
            self._seq = int(self._cursor.fetchall()[0][0])


def _among(cell: str, numbers: list[int]) -> str:
    """The condition that a whole number is one of many, in order: those without a gap between them are a range."""
    gaps = [n for n in range(1, len(numbers)) if numbers[n] - numbers[n - 1] > 1]
    if len(gaps) > len(numbers) // _RUN:
        return f"{cell} IN ({', '.join(map(str, numbers))})"
    runs = (f"{cell} BETWEEN {numbers[first]} AND {numbers[end - 1]}" for first, end in zip([0, *gaps], [*gaps, len(numbers)]))
    return f"({' OR '.join(runs)})"


def execute(cursor: Any, text: str, parameters: Any) -> None:
    """Run a text; without parameters the driver takes it as it stands."""
    if parameters is None:
        cursor.execute(text)
    else:
        cursor.execute(text, parameters)


@contextmanager
def unrecorded(changed: bool = True) -> Iterator[None]:
    """Errors in the block are those of rows that have changed and have no undo record.

    Args:
        changed: Whether any have; else an error passes as it is.

    Raises:
        UnrecordedError: See there.
    """
    try:
        yield
    except UnrecordedError:
        raise
    except Exception as error:
        if not changed:
            raise
        raise UnrecordedError(f"rows have changed and their undo record could not be written: {error}") from error


def together(results: Sequence[Result]) -> Result:
    """Results of one statement that ran for several rows of parameters."""
    keys = frozenset[str]().union(*(result.keys for result in results))
    return Result(keys, sum(result.rowcount for result in results), lastrowid=results[-1].lastrowid)
