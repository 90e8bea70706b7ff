"""PostgreSQL: rows are put back in sets, by statements whose conditions are the check that nobody else has changed them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from txcoord_rm.capture.keys import Row
from txcoord_rm.catalogue.postgresql import UNDOING
from txcoord_rm.catalogue.table import Event, Reference, Table
from txcoord_rm.sql.quoting import quoted
from txcoord_rm.undo.item import Change, Image
from txcoord_rm.undo.port import Undone
from txcoord_rm.undo.record import fields

_SETTINGS = text(
    "SELECT set_config('datestyle', 'ISO, MDY', true), set_config('extra_float_digits', '1', true), "
    "set_config('intervalstyle', 'postgres', true), set_config('row_security', 'off', true), "
    "set_config('array_nulls', 'on', true), set_config('lock_timeout', '2s', true), "
    f"set_config('{UNDOING}', 'on', true)"
)

_REFERRED = "rows that refer to it would go, or change, with it"


class PostgresqlUndo:
    """See `port.FamilyUndo`.

    Args:
        connection: In the local transaction, at READ COMMITTED.
    """

    fails_alone = False
    at_once = 100_000

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def set_level(self) -> None:
        """See `FamilyUndo.set_level`."""
        self._connection.execute(text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"))

    def prepare(self) -> None:
        """See `FamilyUndo.prepare`: until the transaction's end."""
        self._connection.execute(_SETTINGS)

    def images(self, row: Any) -> tuple[tuple[Image | None, ...], tuple[Image | None, ...]]:
        """See `FamilyUndo.images`: arrays of texts of rows."""
        befores, afters = (tuple(None if t is None else fields(t) for t in texts or ()) for texts in (row.befores, row.afters))
        return befores, afters

    def check(self) -> None:
        """See `FamilyUndo.check`: deferred constraints would else fail at COMMIT."""
        self._connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))

    def forbids(self, error: DBAPIError) -> bool:
        """See `FamilyUndo.forbids`: a constraint, or an exception that a trigger raises."""
        return isinstance(error, IntegrityError) or getattr(error.orig, "sqlstate", None) == "P0001"

    def refers(self, error: DBAPIError) -> bool:
        """See `FamilyUndo.refers`: asked for once all rows of a statement are written."""
        return "23503" in (getattr(error.orig, "sqlstate", None), getattr(error.orig, "pgcode", None))

    # ------------------------------------------------------------ rows

    def put_back(self, table: Table, changes: Sequence[Change]) -> Undone:
        """See `FamilyUndo.put_back`."""
        columns, rows = changes[0].columns, _Rows(table, changes)
        known = " AND ".join(f"t.{_name(c)} = {rows.before(c)}" for c in table.primary_key)
        values = ", ".join(rows.before(c) for c in columns)
        absent = f"NOT EXISTS (SELECT FROM {rows.name} AS t WHERE {known})"
        statement = (
            f"INSERT INTO {rows.name} AS t ({', '.join(map(_name, columns))}) OVERRIDING SYSTEM VALUE "
            f"SELECT {values} FROM {rows.source} WHERE {absent} RETURNING {_record(columns)}"
        )
        written = {fields(record): record for (record,) in self._connection.execute(text(statement), rows.parameters)}
        undone = frozenset(n for n, change in enumerate(changes) if change.before in written)
        strange = written.keys() - {change.before for change in changes}
        reason = f"the database made {written[min(strange, key=str)]} of a row" if strange else ""
        return Undone(undone, dict.fromkeys(range(len(changes)), reason) if reason else {})

    def take_away(self, table: Table, changes: Sequence[Change]) -> Undone:
        """See `FamilyUndo.take_away`."""
        rows = _Rows(table, changes)
        key = rows.key()
        # Locked by a statement of its own: the next one sees what others committed while this one waited.
        self._connection.execute(
            text(f"SELECT 1 FROM {rows.name} AS t, {rows.source} WHERE {key} FOR UPDATE OF t"), rows.parameters
        )
        unchanged = rows.is_after(changes[0].columns) + _unreferred(table, [r for r in table.references if r.on_delete])
        statement = f"DELETE FROM {rows.name} AS t USING {rows.source} WHERE {key} AND {unchanged} RETURNING d.n"
        gone = frozenset(int(n) - 1 for (n,) in self._connection.execute(text(statement), rows.parameters))
        left = set(range(len(changes))) - gone if any(reference.on_delete for reference in table.references) else set[int]()
        return Undone(gone, dict.fromkeys(left, _REFERRED))

    def set_back(self, table: Table, changes: Sequence[Change]) -> Undone:
        """See `FamilyUndo.set_back`."""
        first, rows = changes[0], _Rows(table, changes)
        compared = first.columns if set(table.primary_key) & set(first.changed) else first.changed
        sets = ", ".join(f"{_name(c)} = {rows.before(c)}" for c in first.changed)
        lost = [r for r in table.carrying(Event.UPDATE, first.changed) if not r.follows]  # what follows is not lost
        statement = (
            f"UPDATE {rows.name} AS t SET {sets} FROM {rows.source} "
            f"WHERE {rows.key()} AND {rows.is_after(compared)}{_unreferred(table, lost)} RETURNING d.n, {_record(first.changed)}"
        )
        undone, reasons = set[int](), dict[int, str]()
        for number, record in self._connection.execute(text(statement), rows.parameters):
            n = int(number) - 1
            before = changes[n].before
            assert before is not None, "it was changed, not inserted"
            if fields(record) == tuple(changes[n].value(c, before) for c in first.changed):
                undone.add(n)
            else:
                reasons[n] = f"the database made {record} of a row"
        if lost:
            reasons |= dict.fromkeys(set(range(len(changes))) - undone - reasons.keys(), _REFERRED)
        return Undone(frozenset(undone), reasons)

    def current(self, table: Table, change: Change, image: Image) -> Image | None:
        """See `FamilyUndo.current`."""
        where = " AND ".join(
            f"t.{_name(c)} = CAST(CAST(:k{n} AS text) AS {table.column(c).type})" for n, c in enumerate(table.primary_key)
        )
        keys = {f"k{n}": change.value(c, image) for n, c in enumerate(table.primary_key)}
        query = f"SELECT {_record(change.columns)} FROM {_name(table.schema)}.{_name(table.name)} AS t WHERE {where}"
        record = self._connection.execute(text(query), keys).scalar_one_or_none()
        return None if record is None else fields(record)


def _unreferred(table: Table, references: Iterable[Reference]) -> str:
    """A condition that by none of these somebody refers to the row `t` in such a way that his row would go or change with it."""
    conditions = []
    for reference in references:
        joined = " AND ".join(
            f"c.{_name(theirs)} = t.{_name(ours)}" for theirs, ours in zip(reference.their_columns, reference.columns)
        )
        if reference.to_itself:
            joined += " AND NOT (" + " AND ".join(f"c.{_name(k)} = t.{_name(k)}" for k in table.primary_key) + ")"
        conditions.append(f" AND NOT EXISTS (SELECT FROM {_escaped(reference.table)} AS c WHERE {joined})")
    return "".join(conditions)


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

    def __init__(self, table: Table, changes: Sequence[Change]) -> None:
        self._table = table
        self._columns = columns = changes[0].columns
        self.name = f"{_name(table.schema)}.{_name(table.name)}"
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

    def key(self) -> str:
        """The condition that a row `t` has the primary key of the after image."""
        return " AND ".join(f"t.{_name(c)} = {self.after(c)}" for c in self._table.primary_key)

    def is_after(self, columns: tuple[str, ...]) -> str:
        """The condition that the row is as the after image says in some columns: to the bit, or as it is written.

        Values that are written alike may differ in bits that say nothing, such as the sign of NaN.
        """
        current = f"ROW({', '.join(f't.{_name(column)}' for column in columns)})"
        after = f"ROW({', '.join(self.after(column) for column in columns)})"
        return f"(record_image_eq({current}, {after}) OR CAST({current} AS text) = CAST({after} AS text))"
