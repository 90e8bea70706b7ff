"""One statement on MySQL or MariaDB: how its rows are read by their keys, and its undo record written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from txcoord_rm.capture.mysql_keys import Keys, Reading, Seen
from txcoord_rm.capture.mysql_record import next_seq, records
from txcoord_rm.capture.mysql_splice import Part, spliced
from txcoord_rm.capture.mysql_values import constant, image
from txcoord_rm.capture.port import Entry, Result, UnrecordedError
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.backticks import literal, quoted
from txcoord_rm.sql.flavour import Binds, Flavour
from txcoord_rm.sql.statement import Statement
from txcoord_rm.undo.item import Image

Both: TypeAlias = tuple[Seen | None, Seen | None]
"""A row before and after."""


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
        self._seq = 1
        """Number of the next undo record."""

    def _by_key(self, reading: Reading, keys: Sequence[tuple[str | None, ...]]) -> dict[tuple[str, ...], Seen]:
        """Rows by their primary keys, locked: so they are seen as they are now."""
        if not keys:
            return {}
        where = self._has_key([self._constants(key) for key in keys], "t")
        return {row.key: row for row in self._select(reading, where)}

    def _select(self, reading: Reading, where: str) -> list[Seen]:
        self._cursor.execute(f"SELECT {reading.columns('t')} FROM {self._name} AS t WHERE {where} FOR UPDATE")
        return [reading.seen(row) for row in self._cursor.fetchall()]

    def _constants(self, key: tuple[str | None, ...]) -> tuple[str, ...]:
        columns = (self._table.column(name) for name in self._table.primary_key)
        return tuple(literal(str(text)) if c.base == "timestamp" else constant(c, text) for c, text in zip(columns, key))

    def _has_key(self, keys: Sequence[tuple[str, ...]], row: str) -> str:
        """The condition that a row has one of these primary keys, whose values are written in SQL."""
        columns = (self._table.column(name) for name in self._table.primary_key)
        # What a constant means as a TIMESTAMP depends on the session's time zone, and is not certain in every hour.
        cells = [image(c, row) if c.base == "timestamp" else f"{row}.{quoted(c.name)}" for c in columns]
        if not keys:
            return "1 = 0"
        if len(keys) == 1:
            return " AND ".join(f"{cell} = {value}" for cell, value in zip(cells, keys[0]))
        if len(cells) == 1:
            return f"{cells[0]} IN ({', '.join(value for (value,) in keys)})"
        return f"({', '.join(cells)}) IN ({', '.join('(' + ', '.join(key) + ')' for key in keys)})"

    def _execute(self, parts: Iterable[Part]) -> None:
        execute(self._cursor, *spliced(self._s, parts, self._parameters, self._flavour.binds))

    def _recorded(self, entry: Entry, keys: Keys, reading: Reading, pairs: Sequence[Both]) -> frozenset[str]:
        """Write the undo record of rows; the keys of their locks."""
        images = ((_image(before), _image(after)) for before, after in pairs)
        changes = [(before, after) for before, after in images if before != after]
        for sql in records(entry, self._seq, self._table, reading.images, changes) if entry.xid else ():
            self._cursor.execute(sql)
        found = (keys.of(before.canonical if before else None, after.canonical if after else None) for before, after in pairs)
        return frozenset(key for of_row in found for key in of_row)

    def _number(self, entry: Entry, rows: Sequence[Seen]) -> None:
        if rows and not entry.first:
            self._cursor.execute(f"SELECT {next_seq(entry.branch_id)}")
            self._seq = int(self._cursor.fetchall()[0][0])


def _image(row: Seen | None) -> Image | None:
    return None if row is None else row.image


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
