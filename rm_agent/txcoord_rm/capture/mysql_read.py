"""A SELECT that locks rows on MySQL or MariaDB, as a read that global locks protect: it also returns what their keys are made of.

InnoDB locks what it scans, which is more than what is returned unless the condition names full primary keys of rows that are
there. So other rows are looked for without locks first, and after such a read the local transaction waits for nobody any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from txcoord_rm.capture.mysql_foresight import columns_of, pinned
from txcoord_rm.capture.mysql_keys import Keys
from txcoord_rm.capture.mysql_run import execute
from txcoord_rm.capture.mysql_splice import Part, spliced
from txcoord_rm.capture.mysql_values import UnknownTypeError, canonical
from txcoord_rm.capture.port import Result
from txcoord_rm.catalogue.table import Event, Table
from txcoord_rm.sql.backticks import quoted
from txcoord_rm.sql.flavour import Flavour
from txcoord_rm.sql.patience import skips_locked
from txcoord_rm.sql.statement import Span, Statement, Target
from txcoord_rm.sql.unsupported import refuse


class LockingRead:
    """A statement whose tables are certain.

    Args:
        cursor: Of DB-API, in the local transaction.
        statement: It; without a locking clause it gets one.
        tables: Those of `statement.locked`.
        parameters: Of the application.
        flavour: How the text is read.

    Raises:
        UnsupportedSqlError: A row that it locks has no key of its own.
    """

    def __init__(self, cursor: Any, statement: Statement, tables: Sequence[Table], parameters: Any, flavour: Flavour) -> None:
        self._cursor = cursor
        self._s = statement
        self._tables = tables
        self._parameters = parameters
        self._flavour = flavour
        self._columns: list[str] = []
        for target, table in zip(statement.locked, tables, strict=True):
            if table.obstacle:
                reason = f"rows of {table.schema}.{table.name} cannot be locked globally: {table.obstacle}"
                raise refuse(statement.sql, reason, "read it without a lock")
            self._columns += self._keyed(target, table)

    def _keyed(self, target: Target, table: Table) -> list[str]:
        reference = target.reference(self._s.sql, self._flavour.binds)  # `spliced` doubles percent signs again
        try:
            return [canonical(table.column(name), f"{reference}.{quoted(name)}") for name in table.primary_key]
        except UnknownTypeError as error:
            raise refuse(self._s.sql, f"in {table.schema}.{table.name} {error}", "read it without a lock") from error

    def foreseen(self) -> frozenset[str] | None:
        """Keys of the rows that it will return, found without locks; None: those of others are left out, which shows then."""
        if skips_locked(self._s):
            return None
        if len(self._tables) == 1 and (pins := pinned(self._cursor, self._s, self._tables[0], [self._parameters])) is not None:
            (table,) = self._tables
            return frozenset(Keys(table, Event.UPDATE).primary(columns_of(pins[0], table.primary_key)))
        locking = self._s.locking
        self._select(Span(self._select_end, self._s.main.end if locking is None else locking.start))
        return self._keys(self._cursor.fetchall())

    def run(self) -> Result:
        """Run it."""
        self._select(Span(self._select_end, self._s.main.end), "" if self._s.locking else " FOR UPDATE")
        description, rows = self._cursor.description, self._cursor.fetchall()
        keys, own = self._keys(rows), len(self._columns)
        shown = [tuple(row[:-own]) for row in rows]
        return Result(keys, len(shown), description[:-own], shown, self._cursor.lastrowid)

    @property
    def _select_end(self) -> int:
        assert self._s.items is not None, "a statement without is refused before"
        return self._s.items.end

    def _select(self, rest: Span, lock: str = "") -> None:
        head = Span(self._s.main.start, self._select_end)
        parts: list[Part] = [head, ", ", ", ".join(self._columns), " ", rest, lock]
        execute(self._cursor, *spliced(self._s, parts, self._parameters, self._flavour.binds))

    def _keys(self, rows: Sequence[Sequence[Any]]) -> frozenset[str]:
        found, place = set[str](), -len(self._columns)
        for table in self._tables:
            columns = {name: [row[place + n] for row in rows] for n, name in enumerate(table.primary_key)}
            found |= Keys(table, Event.UPDATE).primary(columns)  # an outer join has rows of which a table has none
            place += len(table.primary_key)
        return frozenset(found)
