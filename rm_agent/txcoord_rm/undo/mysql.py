"""MySQL and MariaDB: rows are locked and read, compared with their images, written in sets, and read again.

Neither says which rows an UPDATE has changed. So the check that nobody else has changed them is a read that locks: until the
transaction ends nothing can come between it and what is then written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from txcoord_rm.capture.mysql_values import UnknownTypeError, compared, constant, image
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.backticks import quoted
from txcoord_rm.undo.images import decode
from txcoord_rm.undo.item import Change, CorruptRecordError, Image, Value
from txcoord_rm.undo.port import Undone

_BY_STATEMENT = "SELECT @@log_bin AND @@SESSION.binlog_format = 'STATEMENT'"
"""Then nothing may be written at READ COMMITTED, which else keeps gaps between rows free for others."""
_LEVELS = "READ COMMITTED", "REPEATABLE READ"  # never SERIALIZABLE, at which rows that are only read are locked, too
_SETTINGS = (
    "SET NAMES utf8mb4",
    # Not strict: zero dates and the like were there before. What the database makes of a row is read again.
    "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES', SESSION time_zone = '+00:00', "
    "SESSION foreign_key_checks = 1, SESSION unique_checks = 1, SESSION sql_select_limit = DEFAULT, "
    "SESSION innodb_lock_wait_timeout = 2, SESSION lock_wait_timeout = 2",
)
_FORBIDDEN = frozenset({1048, 1062, 1169, 1216, 1217, 1364, 1451, 1452, 1557, 1586, 1644, 1761, 1762, 3819, 4025})
"""Numbers of errors: constraints, and what a trigger signals."""
Found = dict[int, tuple[Image, bool]]


class MysqlUndo:
    """See `port.FamilyUndo`.

    Args:
        connection: At the beginning of its local transaction; settings of its session stay as this changes them.
    """

    fails_alone = True
    at_once = 500

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def set_level(self) -> None:
        """See `FamilyUndo.set_level`: a session's level, which is that of the transaction that the next statement begins."""
        ((by_statement,),) = self._run(_BY_STATEMENT)
        self._run(f"SET SESSION TRANSACTION ISOLATION LEVEL {_LEVELS[bool(by_statement)]}")

    def prepare(self) -> None:
        """See `FamilyUndo.prepare`."""
        for statement in _SETTINGS:
            self._run(statement)

    def images(self, row: Any) -> tuple[tuple[Image | None, ...], tuple[Image | None, ...]]:
        """See `FamilyUndo.images`: JSON, in which all values are texts."""
        befores, afters = decode(bytes(row.befores or b"")), decode(bytes(row.afters or b""))
        if not all(value is None or isinstance(value, str) for values in (*befores, *afters) for value in values or ()):
            raise ValueError("a value is no text")
        return befores, afters

    def check(self) -> None:
        """See `FamilyUndo.check`: nothing is deferred here."""

    def forbids(self, error: DBAPIError) -> bool:
        """See `FamilyUndo.forbids`."""
        number = error.orig.args[0] if error.orig is not None and error.orig.args else None
        return number in _FORBIDDEN or isinstance(error, IntegrityError)

    def refers(self, error: DBAPIError) -> bool:
        """See `FamilyUndo.refers`: InnoDB asks for each row, so that their order counts."""
        return False

    # ------------------------------------------------------------ rows

    def put_back(self, table: Table, changes: Sequence[Change]) -> Undone:
        """See `FamilyUndo.put_back`."""
        columns = changes[0].columns
        befores = _some(change.before for change in changes)
        there = self._found(table, columns, dict(enumerate(befores)))
        missing = [n for n in range(len(changes)) if n not in there]
        rows = (", ".join(_constant(table, c, v) for c, v in zip(columns, befores[n])) for n in missing)
        if missing:
            names = ", ".join(map(quoted, columns))
            self._run(f"INSERT INTO {_name(table)} ({names}) VALUES {', '.join(f'({values})' for values in rows)}")
        return self._verified(table, changes, missing)

    def take_away(self, table: Table, changes: Sequence[Change]) -> Undone:
        """See `FamilyUndo.take_away`."""
        first = changes[0]
        afters = _some(change.after for change in changes)
        found = self._found(table, first.columns, dict(enumerate(afters)))
        same = {n: afters[n] for n, current in found.items() if current == afters[n]}
        referred = self._referred(table, first.columns, same)
        gone = {n: image for n, image in same.items() if n not in referred}
        if gone:
            self._run(f"DELETE t FROM {self._joined(table, first.columns, gone)}")
        return Undone(frozenset(gone), dict.fromkeys(referred, "rows that refer to it would go, or change, with it"))

    def set_back(self, table: Table, changes: Sequence[Change]) -> Undone:
        """See `FamilyUndo.set_back`."""
        first = changes[0]
        moves = not set(table.primary_key).isdisjoint(first.changed)
        compared_columns = first.columns if moves else first.changed
        afters = _some(change.after for change in changes)
        found = self._found(table, first.columns, dict(enumerate(afters)))
        same = [
            n
            for n, current in found.items()
            if all(changes[n].value(c, current) == changes[n].value(c, afters[n]) for c in compared_columns)
        ]
        # What the database would set by itself keeps what it has.
        kept = [c.name for c in table.columns if c.touched and c.name not in first.changed]
        own = "".join(f", t.{quoted(name)} = t.{quoted(name)}" for name in kept)
        if moves:
            for n in same:  # one by one: a set would find some rows where others have just gone
                self._set(table, changes[n], own)
        elif same:
            befores = {n: _some([changes[n].before])[0] for n in same}
            extra = {n: [_constant(table, c, changes[n].value(c, befores[n])) for c in first.changed] for n in same}
            sets = ", ".join(f"t.{quoted(c)} = d.v{place}" for place, c in enumerate(first.changed))
            source = self._joined(table, first.columns, {n: afters[n] for n in same}, extra)
            self._run(f"UPDATE {source} SET {sets}{own}")
        return self._verified(table, changes, same)

    def current(self, table: Table, change: Change, image: Image) -> Image | None:
        """See `FamilyUndo.current`."""
        return self._found(table, change.columns, {0: image}).get(0)

    # ------------------------------------------------------------ statements

    def _set(self, table: Table, change: Change, own: str) -> None:
        (before,), (after,) = _some([change.before]), _some([change.after])
        sets = ", ".join(f"t.{quoted(c)} = {_constant(table, c, change.value(c, before))}" for c in change.changed)
        self._run(f"UPDATE {self._joined(table, change.columns, {0: after})} SET {sets}{own}")

    def _joined(
        self, table: Table, columns: tuple[str, ...], rows: dict[int, Image], extra: dict[int, list[str]] | None = None
    ) -> str:
        """A table `d` of primary keys, their numbers `n` and further values `v0` and on, and the rows `t` that have them."""
        selects = []
        for n, row in rows.items():
            key = [_constant(table, name, row[columns.index(name)]) for name in table.primary_key]
            named = [f"{n} AS n", *(f"{value} AS k{place}" for place, value in enumerate(key))]
            named += [f"{value} AS v{place}" for place, value in enumerate(extra[n] if extra else ())]
            selects.append("SELECT " + ", ".join(named))
        key_columns = [table.column(name) for name in table.primary_key]
        same = " AND ".join(f"t.{quoted(c.name)} = {compared(c, f'd.k{place}')}" for place, c in enumerate(key_columns))
        return f"({' UNION ALL '.join(selects)}) AS d STRAIGHT_JOIN {_name(table)} AS t ON {same}"

    def _found(self, table: Table, columns: tuple[str, ...], rows: dict[int, Image]) -> dict[int, Image]:
        """Of images by number: the rows that have their primary keys, locked, as they are now."""
        if not rows:
            return {}
        try:
            texts = ", ".join(image(table.column(name), "t") for name in columns)
        except UnknownTypeError as error:
            raise CorruptRecordError(f"in {table.schema}.{table.name} {error}") from error
        found = self._run(f"SELECT d.n, {texts} FROM {self._joined(table, columns, rows)} FOR UPDATE")
        return {int(row[0]): tuple(row[1:]) for row in found}

    def _referred(self, table: Table, columns: tuple[str, ...], rows: dict[int, Image]) -> set[int]:
        """Which rows, that are locked already, others refer to in such a way that theirs would go or change."""
        found = set[int]()
        for reference in table.references:
            if reference.on_delete and rows:
                joined = " AND ".join(
                    f"c.{quoted(theirs)} = t.{quoted(ours)}"
                    for theirs, ours in zip(reference.their_columns, reference.columns, strict=True)
                )
                if reference.to_itself:
                    joined += " AND NOT (" + " AND ".join(f"c.{quoted(k)} = t.{quoted(k)}" for k in table.primary_key) + ")"
                source = self._joined(table, columns, rows)
                query = f"SELECT d.n FROM {source} STRAIGHT_JOIN {reference.table} AS c ON {joined} FOR UPDATE"
                found |= {int(row[0]) for row in self._run(query)}
        return found

    def _verified(self, table: Table, changes: Sequence[Change], written: Sequence[int]) -> Undone:
        """Which of the changes, whose rows were written, the database has made what they were before."""
        columns = changes[0].columns
        befores = {n: _some([changes[n].before])[0] for n in written}
        found = self._found(table, columns, befores)
        reasons = {}
        for n in written:
            change, current = changes[n], found.get(n)
            if current is None or any(change.value(c, current) != change.value(c, befores[n]) for c in change.changed):
                reasons[n] = f"the database made {current} of a row"
        return Undone(frozenset(n for n in written if n not in reasons), reasons)

    def _run(self, sql: str) -> list[Any]:
        result = self._connection.exec_driver_sql(sql.replace("%", "%%"))
        return list(result) if result.returns_rows else []


def _constant(table: Table, name: str, value: Value) -> str:
    try:
        assert value is None or isinstance(value, str), "`images` lets nothing else pass"
        return constant(table.column(name), value, in_utc=True)
    except (UnknownTypeError, ValueError) as error:
        raise CorruptRecordError(f"an undo record does not fit {table.schema}.{table.name}: {name}: {error}") from error


def _some(images: Iterable[Image | None]) -> list[Image]:
    found = [image for image in images if image is not None]
    return found


def _name(table: Table) -> str:
    return f"{quoted(table.schema)}.{quoted(table.name)}"
