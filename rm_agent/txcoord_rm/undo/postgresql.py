"""PostgreSQL: rows are put back in sets, by statements whose conditions are the check that nobody else has changed them.

A row is only ever changed from its after image to its before image. What has its before image already is left as it is. What has
neither was written by somebody else: then nothing is overwritten, and a person decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from txcoord_rm.capture.keys import quoted
from txcoord_rm.catalogue.table import Table
from txcoord_rm.undo.item import Change, CorruptRecordError, Image
from txcoord_rm.undo.record import fields

Facts = Callable[[tuple[str, str]], Table]


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not as the transaction left it.

    Args:
        change: What the transaction did to it.
        current: What is there now, in the columns of the images; None: nothing.
        reason: Why it is not restored, where the row itself does not say.
    """

    change: Change
    current: Image | None
    reason: str = ""


class Restorer:
    """Undoes changes in one local transaction.

    Args:
        connection: In it.
        facts: What the catalogue says of a table.
    """

    def __init__(self, connection: Connection, facts: Facts) -> None:
        self._connection = connection
        self._facts = facts

    def restore(self, items: Iterable[Sequence[Change]]) -> list[Difference]:
        """Put rows back.

        An item whose rows do not match is put behind the others until nothing moves any more: two branches of one transaction may
        have written one row in another order than their records tell.

        Args:
            items: Changes of one statement each, in the order in which they are to be undone.

        Returns:
            Rows that are not as the transaction left them; with any, the local transaction has to be rolled back.
        """
        pending = [list(item) for item in items]
        while True:
            left = [rest for item in pending if (rest := self._undo(item))]
            if not left:
                return []
            if sum(map(len, left)) == sum(map(len, pending)):
                return [self._difference(change) for item in left for change in item]
            pending = left

    def _undo(self, item: list[Change]) -> list[Change]:
        """What of an item could not be undone."""
        left: list[Change] = []
        for _, group in groupby(item, key=lambda change: (change.before is None, change.after is None, change.changed)):
            changes = list(group)
            savepoint = self._connection.begin_nested()
            try:
                undone = self._undo_alike(changes)
            except IntegrityError:
                # Rows in a set may stand in each other's way; one by one and backwards they walk through states that there were.
                savepoint.rollback()
                left += [change for change in changes if not self._undo_alone(change)]
            else:
                savepoint.commit()
                left += [change for n, change in enumerate(changes) if n not in undone and not self._is_undone(change)]
        return left

    def _undo_alone(self, change: Change) -> bool:
        savepoint = self._connection.begin_nested()
        try:
            undone = self._undo_alike([change])
        except IntegrityError:
            savepoint.rollback()
            return False
        savepoint.commit()
        return bool(undone) or self._is_undone(change)

    # ------------------------------------------------------------ statements

    def _undo_alike(self, changes: list[Change]) -> set[int]:
        """Undo changes of one kind; which of them were."""
        first = changes[0]
        table = self._table(first)
        name = f"{_name(table.schema)}.{_name(table.name)}"
        rows = _Rows(table, first.columns, changes)
        key = " AND ".join(f"t.{_name(c)} = {rows.after(c)}" for c in table.primary_key)
        if first.after is None:
            known = " AND ".join(f"t.{_name(c)} = {rows.before(c)}" for c in table.primary_key)
            columns = ", ".join(map(_name, first.columns))
            values = ", ".join(rows.before(c) for c in first.columns)
            absent = f"NOT EXISTS (SELECT FROM {name} AS t WHERE {known})"
            chosen = f"chosen (n, {rows.names}) AS (SELECT d.n, {values} FROM {rows.source} WHERE {absent})"
            put = f"put AS (INSERT INTO {name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {rows.names} FROM chosen)"
            statement = f"WITH {chosen}, {put} SELECT n FROM chosen"
        elif first.before is None:
            unchanged = rows.is_after(first.columns) + self._children(table, rows)
            statement = f"DELETE FROM {name} AS t USING {rows.source} WHERE {key} AND {unchanged} RETURNING d.n"
        else:
            sets = ", ".join(f"{_name(c)} = {rows.before(c)}" for c in first.changed)
            statement = (
                f"UPDATE {name} AS t SET {sets} FROM {rows.source} WHERE {key} AND {rows.is_after(first.changed)} RETURNING d.n"
            )
        return {int(n) - 1 for (n,) in self._connection.execute(text(statement), rows.parameters)}

    def _is_undone(self, change: Change) -> bool:
        """Whether the row has its before image already."""
        current = self._current(change, change.before if change.before is not None else change.after)
        if change.before is None or current is None:
            return current is None and change.before is None
        return all(change.value(c, current) == change.value(c, change.before) for c in change.changed)

    def _difference(self, change: Change) -> Difference:
        image = change.after if change.after is not None else change.before
        current = self._current(change, image)
        return Difference(change, current)

    def _current(self, change: Change, image: Image | None) -> Image | None:
        """The row with the primary key that an image has, in the columns of the images."""
        assert image is not None
        table = self._table(change)
        where = " AND ".join(f"t.{_name(c)} = CAST(:k{n} AS {table.column(c).type})" for n, c in enumerate(table.primary_key))
        columns = f"CAST(ROW({', '.join(f't.{_name(c)}' for c in change.columns)}) AS text)"
        keys = {f"k{n}": change.value(c, image) for n, c in enumerate(table.primary_key)}
        query = f"SELECT {columns} FROM {_name(table.schema)}.{_name(table.name)} AS t WHERE {where}"
        record = self._connection.execute(text(query), keys).scalar_one_or_none()
        return None if record is None else fields(record)

    def _children(self, table: Table, rows: _Rows) -> str:
        """A condition that nobody refers to the row in such a way that his row would go or change with it."""
        conditions = []
        for reference in table.references:
            if reference.on_delete:
                joined = " AND ".join(
                    f"c.{_name(theirs)} = t.{_name(ours)}" for theirs, ours in zip(reference.their_columns, reference.columns)
                )
                conditions.append(f" AND NOT EXISTS (SELECT FROM {_escaped(reference.table)} AS c WHERE {joined})")
        return "".join(conditions)

    def _table(self, change: Change) -> Table:
        table = self._facts(change.table)
        known = {column.name for column in table.columns}
        if missing := set(change.columns) - known:
            raise CorruptRecordError(
                f"{'.'.join(change.table)} has no column {min(missing)} any more, which an undo record names"
            )
        return table


def _escaped(sql: str) -> str:
    """So that SQLAlchemy takes no colon in it for a parameter."""
    return sql.replace(":", "\\:")


def _name(name: str) -> str:
    return _escaped(quoted(name))


class _Rows:
    """Images of changes as a table `d` of one statement: `n` counts them from 1."""

    def __init__(self, table: Table, columns: tuple[str, ...], changes: list[Change]) -> None:
        self._table = table
        self._columns = columns
        self.parameters: dict[str, Any] = {}
        arrays, names = [], []
        for side in ("before", "after"):
            for n in range(len(columns)):
                images = [getattr(change, side) for change in changes]
                name = f"{side[0]}{n}"
                self.parameters[name] = [None if image is None else image[n] for image in images]
                arrays.append(f"CAST(:{name} AS text[])")
                names.append(name)
        self.source = f"unnest({', '.join(arrays)}) WITH ORDINALITY AS d ({', '.join(names)}, n)"
        self.names = ", ".join(f"c{n}" for n in range(len(columns)))

    def _cell(self, side: str, column: str) -> str:
        return f"CAST(d.{side}{self._columns.index(column)} AS {self._table.column(column).type})"

    def before(self, column: str) -> str:
        """The before image's value of a column."""
        return self._cell("b", column)

    def after(self, column: str) -> str:
        """The after image's value of a column."""
        return self._cell("a", column)

    def is_after(self, columns: tuple[str, ...]) -> str:
        """The condition that the row is as the after image says in some columns, to the bit."""
        current = ", ".join(f"t.{_name(column)}" for column in columns)
        return f"record_image_eq(ROW({current}), ROW({', '.join(self.after(column) for column in columns)}))"
