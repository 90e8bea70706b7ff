"""PostgreSQL: rows are put back in sets, by statements whose conditions are the check that nobody else has changed them.

A row is only ever changed from its after image to its before image. What has its before image already is left as it is. What has
neither was written by somebody else: then nothing is overwritten, and a person decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from txcoord_rm.capture.keys import Row
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.quoting import quoted
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
    """Undoes changes in one local transaction, at READ COMMITTED.

    Args:
        connection: In it.
        facts: What the catalogue says of a table.
    """

    def __init__(self, connection: Connection, facts: Facts) -> None:
        self._connection = connection
        self._facts = facts
        self._reasons: dict[int, str] = {}
        """Why a change could not be undone, by its identity, where the row itself does not say."""

    def restore(self, items: Iterable[Sequence[Change]]) -> list[Difference]:
        """Put rows back.

        An item of which a row does not match is put behind the others until nothing moves any more: two branches of one
        transaction may have written one row in another order than their records tell. Only then a row may count as put back by
        somebody else; earlier it could be one that another item is still to change.

        Args:
            items: Changes of one statement each, in the order in which they are to be undone.

        Returns:
            Rows that are not as the transaction left them; with any, the local transaction has to be rolled back.
        """
        every = [list(item) for item in items]
        pending = every
        while pending:
            left = [item for item in pending if not self._undo(item)]
            if len(left) == len(pending):
                left = [item for item in pending if not self._undo(item, may_be_back=True)]
            if len(left) == len(pending):
                return [d for item in pending for d in self._differences(item)] or [
                    Difference(c, c.after) for i in pending for c in i
                ]
            pending = left
        savepoint = self._connection.begin_nested()
        try:
            self._connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))  # those that would else fail at COMMIT
        except IntegrityError as error:
            savepoint.rollback()
            reason = _first_line(error)
            return [Difference(change, self._found(change), reason) for i in every for change in i]
        savepoint.commit()
        return []

    def _undo(self, item: list[Change], may_be_back: bool = False) -> bool:
        """Undo all of an item or nothing.

        Args:
            item: Changes of one statement.
            may_be_back: Whether rows that have their before image already need nothing done.
        """
        savepoint = self._connection.begin_nested()
        for _, group in groupby(item, key=lambda change: (change.before is None, change.after is None, change.changed)):
            changes = list(group)
            undone = self._undo_alike(changes)
            for n, change in enumerate(changes):
                if n not in undone and not (may_be_back and self._is_back(change)):
                    savepoint.rollback()
                    return False
        savepoint.commit()
        return True

    def _undo_alike(self, changes: list[Change]) -> set[int]:
        """Undo changes of one kind, in a set; which of them were.

        Rows in a set may stand in each other's way; one by one and backwards they walk through states that there were.
        """
        undone = self._tried(changes)
        if undone is None:
            undone = {n for n, change in enumerate(changes) if self._tried([change])}
        return undone

    def _tried(self, changes: list[Change]) -> set[int] | None:
        """Which changes were undone; None: a constraint forbids it, and none was."""
        savepoint = self._connection.begin_nested()
        try:
            undone = self._run(changes)
        except IntegrityError as error:
            savepoint.rollback()
            for change in changes:
                self._reasons[id(change)] = _first_line(error)
            return None
        savepoint.commit()
        for n in undone:
            self._reasons.pop(id(changes[n]), None)
        return undone

    # ------------------------------------------------------------ statements

    def _run(self, changes: list[Change]) -> set[int]:
        first = changes[0]
        table = self._table(first)
        name = f"{_name(table.schema)}.{_name(table.name)}"
        rows = _Rows(table, first.columns, changes)
        key = " AND ".join(f"t.{_name(c)} = {rows.after(c)}" for c in table.primary_key)
        if first.after is None:
            return self._put_back(changes, table, name, rows)
        if first.before is None:
            # Locked by a statement of its own: the next one sees what others committed while this one waited.
            self._connection.execute(
                text(f"SELECT 1 FROM {name} AS t, {rows.source} WHERE {key} FOR UPDATE OF t"), rows.parameters
            )
            unchanged = rows.is_after(first.columns) + self._children(table)
            statement = f"DELETE FROM {name} AS t USING {rows.source} WHERE {key} AND {unchanged} RETURNING d.n"
            gone = {int(n) - 1 for (n,) in self._connection.execute(text(statement), rows.parameters)}
            for n, change in enumerate(changes):
                if n not in gone and any(reference.on_delete for reference in table.references):
                    self._reasons[id(change)] = "rows that refer to it would go, or change, with it"
            return gone
        compared = first.columns if set(table.primary_key) & set(first.changed) else first.changed
        sets = ", ".join(f"{_name(c)} = {rows.before(c)}" for c in first.changed)
        written = _record(first.changed)
        statement = (
            f"UPDATE {name} AS t SET {sets} FROM {rows.source} WHERE {key} AND {rows.is_after(compared)} RETURNING d.n, {written}"
        )
        undone = set()
        for n, record in self._connection.execute(text(statement), rows.parameters):
            change = changes[int(n) - 1]
            assert change.before is not None
            if fields(record) == tuple(change.value(c, change.before) for c in change.changed):
                undone.add(int(n) - 1)
            else:
                self._reasons[id(change)] = f"the database made {record} of a row"
        return undone

    def _put_back(self, changes: list[Change], table: Table, name: str, rows: _Rows) -> set[int]:
        """Insert rows that were deleted, where there are none with their keys."""
        columns = changes[0].columns
        known = " AND ".join(f"t.{_name(c)} = {rows.before(c)}" for c in table.primary_key)
        values = ", ".join(rows.before(c) for c in columns)
        absent = f"NOT EXISTS (SELECT FROM {name} AS t WHERE {known})"
        statement = (
            f"INSERT INTO {name} AS t ({', '.join(map(_name, columns))}) OVERRIDING SYSTEM VALUE "
            f"SELECT {values} FROM {rows.source} WHERE {absent} RETURNING {_record(columns)}"
        )
        written = {fields(record): record for (record,) in self._connection.execute(text(statement), rows.parameters)}
        undone = {n for n, change in enumerate(changes) if change.before in written}
        if strange := written.keys() - {change.before for change in changes}:
            for change in changes:
                self._reasons[id(change)] = f"the database made {written[min(strange, key=str)]} of a row"
        return undone

    def _is_back(self, change: Change) -> bool:
        """Whether the row has its before image already."""
        if change.before is None:
            return self._current(change, change.after) is None
        current = self._current(change, change.before)
        if current is None or any(change.value(c, current) != change.value(c, change.before) for c in change.changed):
            return False
        moved = change.after is not None and not set(self._table(change).primary_key).isdisjoint(change.changed)
        return not moved or self._current(change, change.after) is None

    def _differences(self, item: list[Change]) -> Iterator[Difference]:
        for change in item:
            current = self._found(change)
            if current != change.after or id(change) in self._reasons:
                yield Difference(change, current, self._reasons.get(id(change), ""))

    def _found(self, change: Change) -> Image | None:
        """The row where the change left it, or took it from."""
        return self._current(change, change.after if change.after is not None else change.before)

    def _current(self, change: Change, image: Image | None) -> Image | None:
        """The row with the primary key that an image has, in the columns of the images."""
        assert image is not None
        table = self._table(change)
        where = " AND ".join(f"t.{_name(c)} = CAST(:k{n} AS {table.column(c).type})" for n, c in enumerate(table.primary_key))
        keys = {f"k{n}": change.value(c, image) for n, c in enumerate(table.primary_key)}
        query = f"SELECT {_record(change.columns)} FROM {_name(table.schema)}.{_name(table.name)} AS t WHERE {where}"
        record = self._connection.execute(text(query), keys).scalar_one_or_none()
        return None if record is None else fields(record)

    def _children(self, table: Table) -> str:
        """A condition that nobody refers to the row in such a way that his row would go or change with it."""
        conditions = []
        for reference in table.references:
            if reference.on_delete:
                joined = " AND ".join(
                    f"c.{_name(theirs)} = t.{_name(ours)}" for theirs, ours in zip(reference.their_columns, reference.columns)
                )
                if reference.to_itself:
                    joined += " AND NOT (" + " AND ".join(f"c.{_name(k)} = t.{_name(k)}" for k in table.primary_key) + ")"
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


def _first_line(error: IntegrityError) -> str:
    return str(error.orig).split("\n", 1)[0]


def _escaped(sql: str) -> str:
    """So that SQLAlchemy takes no colon in it for a parameter."""
    return sql.replace(":", "\\:")


def _name(name: str) -> str:
    return _escaped(quoted(name))


def _record(columns: Iterable[str]) -> str:
    """The text of a row `t` in some columns."""
    return _escaped(Row("t").record(columns))


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

    def _cell(self, side: str, column: str) -> str:
        return f"CAST(d.{side}{self._columns.index(column)} AS {self._table.column(column).type})"

    def before(self, column: str) -> str:
        """The before image's value of a column."""
        return self._cell("b", column)

    def after(self, column: str) -> str:
        """The after image's value of a column."""
        return self._cell("a", column)

    def is_after(self, columns: tuple[str, ...]) -> str:
        """The condition that the row is as the after image says in some columns: to the bit, or as it is written.

        Values that are written alike may differ in bits that say nothing, such as the sign of NaN.
        """
        current = f"ROW({', '.join(f't.{_name(column)}' for column in columns)})"
        after = f"ROW({', '.join(self.after(column) for column in columns)})"
        return f"(record_image_eq({current}, {after}) OR CAST({current} AS text) = CAST({after} AS text))"
