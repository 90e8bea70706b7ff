"""SQLite: rows are compared here, value by value to the bit, and go back one by one under the lock of the one who writes.

A table may say of its constraints that rows in the way are replaced: OR ABORT overrides that, or rows of others would go. Foreign
keys are asked at the end, as at a COMMIT, because rows of one statement may refer to each other in any order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError
from txcoord_sdk.dialects import sqlite_connection

from txcoord_rm.capture.sqlite_keys import primary
from txcoord_rm.capture.sqlite_values import Real, incoming, outgoing, parameter, value
from txcoord_rm.catalogue.sqlite import SqliteTable
from txcoord_rm.catalogue.table import Reference, Table
from txcoord_rm.sql.quoting import quoted
from txcoord_rm.undo.images import decode
from txcoord_rm.undo.item import Change, Image
from txcoord_rm.undo.port import Undone

_PATIENCE = 2_000
"""Milliseconds for which the lock of the one who writes is waited for."""
_AT_ONCE = 800
"""Parameters of one query: SQLite allows for 999, unless it is new or built otherwise."""


class SqliteUndo:
    """See `port.FamilyUndo`.

    Args:
        connection: In the local transaction. It should enforce foreign keys exactly if the application's connections do.
    """

    at_once = 10_000
    fails_alone = False  # many rows go by one call of the driver, which stops at the one that fails

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._foreign_keys = False
        self._asked: list[tuple[str, tuple[object, ...]]] = []
        """Queries, with their parameters, that find rows which refer to nothing."""

    def set_level(self) -> None:
        """See `FamilyUndo.set_level`: there is one level, at which nobody else writes."""

    def prepare(self) -> None:
        """See `FamilyUndo.prepare`: the lock is taken before anything is read, so that nobody writes in between."""
        run = self._connection.exec_driver_sql
        run(f"PRAGMA busy_timeout = {_PATIENCE}")
        if not sqlite_connection(self._connection.connection.dbapi_connection).in_transaction:
            run("BEGIN IMMEDIATE")
        run("PRAGMA defer_foreign_keys = ON")  # until the transaction's end
        self._foreign_keys = bool(run("PRAGMA foreign_keys").scalar_one())

    def images(self, row: Any) -> tuple[tuple[Image | None, ...], tuple[Image | None, ...]]:
        """See `FamilyUndo.images`."""
        befores, afters = (tuple(map(_exact, decode(images))) for images in (row.befores, row.afters))
        return befores, afters

    def forbids(self, error: DBAPIError) -> bool:
        """See `FamilyUndo.forbids`."""
        return isinstance(error, IntegrityError)

    def refers(self, error: DBAPIError) -> bool:
        """See `FamilyUndo.refers`: foreign keys are asked for at the end."""
        return False

    def check(self) -> None:
        """See `FamilyUndo.check`: SQLite itself would tell at COMMIT only."""
        for query, parameters in self._asked:
            if self._connection.exec_driver_sql(query, parameters).first() is not None:
                raise IntegrityError(query, parameters, sqlite3.IntegrityError("FOREIGN KEY constraint failed"))

    # ------------------------------------------------------------ rows

    def put_back(self, table: Table, changes: Sequence[Change]) -> Undone:
        """See `FamilyUndo.put_back`."""
        columns, befores = changes[0].columns, [_there(change.before) for change in changes]
        absent = {n: befores[n] for n, found in enumerate(self._read(table, columns, befores)) if found is None}
        values = ", ".join(incoming(n + 1) for n in range(len(columns)))
        self._apply(f"INSERT OR ABORT INTO {_name(table)} ({', '.join(map(quoted, columns))}) VALUES ({values})", absent.values())
        self._ask_for_parents(table, columns, absent.values())
        return self._verified(table, columns, columns, absent)

    def take_away(self, table: Table, changes: Sequence[Change]) -> Undone:
        """See `FamilyUndo.take_away`."""
        columns, afters = changes[0].columns, [_there(change.after) for change in changes]
        left = [n for n, found in enumerate(self._read(table, columns, afters)) if found == afters[n]]
        keys = [_values(columns, image, table.primary_key) for image in afters]
        statement = f"DELETE FROM {_name(table)} WHERE {_keyed(table, 0)}"
        carrying = [reference for reference in table.references if reference.on_delete and self._foreign_keys]
        if not carrying:
            self._apply(statement, [keys[n] for n in left])
            gone = left
        else:
            gone = self._taken_one_by_one(table, carrying, statement, keys, left)
        self._ask_for_children(table, columns, columns, (afters[n] for n in gone))
        reasons = dict.fromkeys(set(left).difference(gone), "rows that refer to it would go, or change, with it")
        return Undone(frozenset(gone), reasons)

    def _taken_one_by_one(
        self, table: Table, carrying: Sequence[Reference], statement: str, keys: Sequence[Image], left: Sequence[int]
    ) -> list[int]:
        """Delete rows that nobody refers to, until there are no more of them: they may have referred to each other."""
        gone, pending = list[int](), list(left)
        while pending:
            referred = []
            for n in pending:
                if self._referred(table, carrying, keys[n]):
                    referred.append(n)
                else:
                    self._apply(statement, [keys[n]])
                    gone.append(n)
            if len(referred) == len(pending):
                break
            pending = referred[::-1]
        return gone

    def set_back(self, table: Table, changes: Sequence[Change]) -> Undone:
        """See `FamilyUndo.set_back`."""
        undone, reasons, done = set[int](), dict[int, str](), 0
        for some in _apart(table, changes):
            found = self._set_back(table, some)
            undone.update(done + n for n in found.places)
            reasons.update((done + n, reason) for n, reason in found.reasons.items())
            done += len(some)
        return Undone(frozenset(undone), reasons)

    def _set_back(self, table: Table, changes: Sequence[Change]) -> Undone:
        columns, changed = changes[0].columns, changes[0].changed
        befores, afters = [_there(change.before) for change in changes], [_there(change.after) for change in changes]
        compared = changed if set(table.primary_key).isdisjoint(changed) else columns
        carrying = [r for r in table.references if r.on_update and self._foreign_keys and not set(changed).isdisjoint(r.columns)]
        matching = {}
        for n, found in enumerate(self._read(table, columns, afters)):
            unchanged = found is not None and _values(columns, found, compared) == _values(columns, afters[n], compared)
            if unchanged and not self._referred(table, carrying, _values(columns, afters[n], table.primary_key)):
                matching[n] = befores[n]
        sets = ", ".join(f"{quoted(column)} = {incoming(n + 1)}" for n, column in enumerate(changed))
        self._apply(
            f"UPDATE OR ABORT {_name(table)} SET {sets} WHERE {_keyed(table, len(changed))}",
            [
                (*_values(columns, before, changed), *_values(columns, afters[n], table.primary_key))
                for n, before in matching.items()
            ],
        )
        self._ask_for_parents(table, columns, matching.values())
        self._ask_for_children(table, columns, changed, (afters[n] for n in matching))
        return self._verified(table, columns, changed, matching)

    def current(self, table: Table, change: Change, image: Image) -> Image | None:
        """See `FamilyUndo.current`."""
        return self._read(table, change.columns, [image])[0]

    # ------------------------------------------------------------ statements

    def _read(self, table: Table, columns: Sequence[str], images: Sequence[Image]) -> list[Image | None]:
        """The rows with the primary keys that images have, as they are now."""
        found: list[Image | None] = [None] * len(images)
        shown = ", ".join(f"{outgoing(f't.{quoted(column)}')} AS c{n}" for n, column in enumerate(columns))
        key = table.primary_key
        joined = " AND ".join(f"t.{quoted(column)} = d.column{n + 2}" for n, column in enumerate(key))
        some = max(1, _AT_ONCE // len(key))
        for start in range(0, len(images), some):
            keys = [_values(columns, image, key) for image in images[start : start + some]]
            rows = (
                f"({n}, {', '.join(incoming(n * len(key) + place + 1) for place in range(len(key)))})" for n in range(len(keys))
            )
            query = f"SELECT d.column1, {shown} FROM (VALUES {', '.join(rows)}) AS d CROSS JOIN {_name(table)} AS t ON {joined}"
            sent = tuple(parameter(part) for values in keys for part in values)
            for n, *row in self._connection.exec_driver_sql(query, sent):
                found[start + n] = tuple(map(value, row))
        return found

    def _apply(self, statement: str, rows: Iterable[Image]) -> None:
        """Run a statement for rows of parameters, in this order."""
        if sent := [tuple(map(parameter, row)) for row in rows]:
            self._connection.exec_driver_sql(statement, sent)

    def _verified(self, table: Table, columns: Sequence[str], written: Sequence[str], wanted: dict[int, Image]) -> Undone:
        """Which of the rows are as they were to become in the columns that were written."""
        undone, reasons = set[int](), dict[int, str]()
        for (n, image), found in zip(wanted.items(), self._read(table, columns, list(wanted.values()))):
            if found is not None and _values(columns, found, written) == _values(columns, image, written):
                undone.add(n)
            else:
                reasons[n] = f"the database made {found} of a row"
        return Undone(frozenset(undone), reasons)

    # ------------------------------------------------------------ foreign keys

    def _referred(self, table: Table, references: Iterable[Reference], key: Image) -> bool:
        """Whether another row refers to the one with a primary key."""
        for reference in references:
            pairs = zip(reference.columns, reference.their_columns, strict=True)
            joined = " AND ".join(f"t.{quoted(ours)} = c.{quoted(theirs)}" for ours, theirs in pairs)
            if reference.to_itself:
                joined += " AND NOT (" + " AND ".join(f"c.{quoted(k)} = t.{quoted(k)}" for k in table.primary_key) + ")"
            query = f"SELECT 1 FROM {_name(table)} AS t JOIN {reference.table} AS c ON {joined} WHERE {_keyed(table, 0, 't.')}"
            if self._connection.exec_driver_sql(f"{query} LIMIT 1", tuple(map(parameter, key))).first() is not None:
                return True
        return False

    def _ask_for_children(self, table: Table, columns: Sequence[str], changed: Sequence[str], images: Iterable[Image]) -> None:
        """Ask in the end whether somebody refers to rows that are no longer as these images."""
        touched = [r for r in table.references if self._foreign_keys and not set(changed).isdisjoint(r.columns)]
        for image in images if touched else ():
            for reference in touched:
                known = [place for place, column in enumerate(reference.columns) if column in columns]
                where = " AND ".join(f"c.{quoted(reference.their_columns[p])} = {incoming(n + 1)}" for n, p in enumerate(known))
                query = _dangling(reference.table, reference.their_columns, _name(table), reference.columns, where)
                self._asked.append((query, tuple(map(parameter, _values(columns, image, [reference.columns[p] for p in known])))))

    def _ask_for_parents(self, table: Table, columns: Sequence[str], images: Iterable[Image]) -> None:
        """Ask in the end whether these rows refer to others that there are."""
        assert isinstance(table, SqliteTable), "the catalogue of SQLite tells of it"
        for image in images if self._foreign_keys and table.parents else ():
            for parent in table.parents:
                where = _keyed(table, 0, "c.")
                query = _dangling(_name(table), parent.columns, parent.table, parent.their_columns, where)
                self._asked.append((query, tuple(map(parameter, _values(columns, image, table.primary_key)))))


def _apart(table: Table, changes: Sequence[Change]) -> Iterable[Sequence[Change]]:
    """Changes in order, apart where one is of a row as another before it leaves it: one statement may change a row twice."""
    assert isinstance(table, SqliteTable), "the catalogue of SQLite tells of it"
    some, touched = list[Change](), set[str]()
    for change in changes:
        before, after = (
            primary(table, _values(change.columns, _there(image), table.primary_key)) for image in (change.before, change.after)
        )
        if after in touched:
            yield some
            some, touched = [], set()
        some.append(change)
        touched |= {before, after}
    yield some


def _dangling(child: str, theirs: Sequence[str], parent: str, ours: Sequence[str], where: str) -> str:
    """A query for a row of the child that refers to no row of the parent."""
    complete = " AND ".join(f"c.{quoted(column)} IS NOT NULL" for column in theirs)
    joined = " AND ".join(f"p.{quoted(our)} = c.{quoted(their)}" for our, their in zip(ours, theirs, strict=True))
    return (
        f"SELECT 1 FROM {child} AS c WHERE {where} AND {complete} "
        f"AND NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE {joined}) LIMIT 1"
    )


def _name(table: Table) -> str:
    return f"{quoted(table.schema)}.{quoted(table.name)}"


def _keyed(table: Table, before: int, prefix: str = "") -> str:
    """The condition that a row has the primary key that parameters say, before which there are others."""
    return " AND ".join(f"{prefix}{quoted(column)} = {incoming(before + n + 1)}" for n, column in enumerate(table.primary_key))


def _values(columns: Sequence[str], image: Image, wanted: Sequence[str]) -> Image:
    return tuple(image[columns.index(column)] for column in wanted)


def _there(image: Image | None) -> Image:
    assert image is not None, "changes of one kind have images on the same sides"
    return image


def _exact(image: Image | None) -> Image | None:
    return None if image is None else tuple(Real(part) if isinstance(part, float) else part for part in image)
