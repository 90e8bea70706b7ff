"""A SELECT on SQLite as a read that global locks protect: it runs as it is, beside one of ours that finds its rows' keys.

Both run under the lock of the one who writes. So nobody writes these rows, or puts them back, before the local transaction ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from txcoord_rm.capture.port import Result
from txcoord_rm.capture.sqlite_connection import Below
from txcoord_rm.capture.sqlite_keys import primary
from txcoord_rm.capture.sqlite_values import outgoing, value
from txcoord_rm.catalogue.sqlite import SqliteTable
from txcoord_rm.sql.flavour import Binds
from txcoord_rm.sql.quoting import quoted
from txcoord_rm.sql.statement import Statement
from txcoord_rm.sql.unsupported import refuse


class GlobalRead:
    """A statement whose tables are known.

    Args:
        statement: A read whose rows come from one row of each of its tables.
        tables: Those of `statement.locked`.
        connection: That it runs on.

    Raises:
        UnsupportedSqlError: A row that it reads has no key, or it calls a function of the application's.
    """

    def __init__(self, statement: Statement, tables: Sequence[SqliteTable], connection: Below) -> None:
        assert statement.items is not None, "a statement without is refused before"
        self._s = statement
        self._tables = tables
        self._connection = connection
        if connection.has_own(statement.functions):
            raise refuse(statement.sql, "it calls a function that the application has made, and would twice", "leave it out")
        columns: list[str] = []
        for target, table in zip(statement.locked, tables, strict=True):
            if table.obstacle:
                reason = f"rows of {table.schema}.{table.name} cannot be locked globally: {table.obstacle}"
                raise refuse(statement.sql, reason, "read it without a lock")
            reference = target.reference(statement.sql, Binds.NATIVE)
            columns += (outgoing(f"{reference}.{quoted(name)}") for name in table.primary_key)
        main, end = statement.main, statement.items.end
        self._sql = f"{statement.sql[main.start : end]}, {', '.join(columns)} {statement.sql[end : main.end]}"
        self._width = len(columns)

    def keys(self, parameters: Any) -> frozenset[str]:
        """Of the rows that it returns now."""
        found = set[str]()
        for row in self._connection.rows(self._sql, () if parameters is None else parameters):
            values = [value(cell) for cell in row[-self._width :]]
            for table in self._tables:
                own, values = values[: len(table.primary_key)], values[len(table.primary_key) :]
                if None not in own:  # who has no key is written by no global transaction
                    found.add(primary(table, own))
        return frozenset(found)

    def run(self, cursor: Any, method: str, given: tuple[Any, ...]) -> Result:
        """Run it.

        Args:
            cursor: The application's.
            method: Of the cursor, that runs it.
            given: What it takes besides the statement.
        """
        getattr(cursor, method)(self._s.sql, *given)
        rows = list(cursor.fetchall())
        return Result(self.keys(*(given or (None,))), cursor.rowcount, cursor.description, rows, cursor.lastrowid)
