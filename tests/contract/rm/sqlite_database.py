"""A SQLite database with an undo log, by sqlite3 or aiosqlite, and a transaction that writes in it, branch by branch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from txcoord_rm.capture.port import Entry, Result
from txcoord_rm.capture.sqlite import SqliteCapture
from txcoord_rm.catalogue.facts import facts_on
from txcoord_rm.sql.flavour import Binds, Family, Flavour
from txcoord_rm.sql.quoting import quoted
from txcoord_rm.sql.recogniser import Recogniser
from txcoord_rm.sql.statement import Statement
from txcoord_rm.undo import operator
from txcoord_rm.undo.log import metadata, undo
from txcoord_rm.undo.restorer import Difference

T = TypeVar("T")
RECOGNISER = Recogniser(Flavour(Family.SQLITE, Binds.NATIVE))
Written = str | tuple[str, Any]
"""A statement, alone or with its parameters; a list of them is for `executemany`."""


class Dirty(Exception):
    """Rows are not as they were left; it rolls the local transaction back."""


class Database:
    """One in a file.

    Args:
        path: Of the file.
        driver: `pysqlite` or `aiosqlite`.
        foreign_keys: Whether its connections enforce them.
        arguments: Of the driver's `connect`.
    """

    def __init__(self, path: Path, driver: str, foreign_keys: bool = False, **arguments: Any) -> None:
        self.path = path
        self.capture = SqliteCapture()
        self.branch_id = 0
        self._runner = asyncio.Runner() if driver == "aiosqlite" else None
        self._async: AsyncEngine | None = None
        url = f"sqlite+{driver}:///{path}"
        if self._runner:
            self._async = create_async_engine(url, connect_args=arguments)
            self._engine = self._async.sync_engine
        else:
            self._engine = create_engine(url, connect_args=arguments)
        if foreign_keys:
            event.listen(self._engine, "connect", _enforce)
        self.local(metadata.create_all)

    def local(self, work: Callable[[Connection], T]) -> T:
        """Do something in a local transaction."""
        if self._async is None:
            return _in_transaction(self._engine, work)
        engine, runner = self._async, self._runner
        assert runner is not None

        async def run() -> T:
            async with engine.begin() as connection:
                return await connection.run_sync(work)

        return runner.run(run())

    def plain(self, *statements: Written) -> list[Result]:
        """Run statements as they are, and see of each what the application sees."""

        def work(connection: Connection) -> list[Result]:
            return [plain_result(connection.connection.cursor(), *_parts(written)) for written in statements]

        return self.local(work)

    def run(self, *statements: Written) -> list[Result]:
        """Run captured statements in a local transaction of their own, the next branch."""
        self.branch_id += 1
        return self.local(lambda connection: self.captured(connection, *statements))

    def branch(self, *statements: Written) -> int:
        """See `run`; returns the branch's number."""
        self.run(*statements)
        return self.branch_id

    def captured(self, connection: Connection, *statements: Written) -> list[Result]:
        """Run captured statements in the local transaction of a connection."""
        results = []
        for n, written in enumerate(statements):
            sql, parameters = _parts(written)
            statement = RECOGNISER.recognise(sql)
            cursor = connection.connection.cursor()
            found = self.capture.table(cursor, statement)
            entry = Entry("x", self.branch_id, first=not n)
            if isinstance(parameters, list):
                results.append(self.capture.run_many(cursor, statement, found, parameters, entry))
                continue
            foreseen = self.capture.foreseen(cursor, statement, found, parameters)
            result = self.capture.run(cursor, statement, found, parameters, entry)
            assert foreseen is None or result.keys <= foreseen, (written, foreseen, result.keys)
            results.append(result)
        return results

    def foreseen(self, sql: str, parameters: Any = None) -> frozenset[str] | None:
        def work(connection: Connection) -> frozenset[str] | None:
            cursor, statement = connection.connection.cursor(), RECOGNISER.recognise(sql)
            return self.capture.foreseen(cursor, statement, self.capture.table(cursor, statement), parameters)

        return self.local(work)

    def undo(self, *branch_ids: int) -> list[Difference]:
        """Undo branches, or do nothing and say which rows stand against it."""
        return self._all_or_none(lambda connection: undo(connection, "x", branch_ids, facts_on(connection)))

    def force(self) -> list[Difference]:
        """Undo all branches over whatever is there, or do nothing and say of which rows that cannot be done."""
        return self._all_or_none(lambda connection: operator.force(connection, "x", facts_on(connection)))

    def _all_or_none(self, work: Callable[[Connection], list[Difference]]) -> list[Difference]:
        differences: list[Difference] = []

        def checked(connection: Connection) -> None:
            differences.extend(work(connection))
            if differences:
                raise Dirty

        with contextlib.suppress(Dirty):
            self.local(checked)
        return differences

    def rows(self, *names: str) -> dict[str, list[Any]]:
        """Everything in tables, to the bit."""
        return self.local(lambda connection: {name: rows(connection, name) for name in names})

    def log(self) -> list[tuple[Any, ...]]:
        """Keys and states of undo records."""
        return self.plain("SELECT branch_id, seq, state FROM txcoord_undo_log ORDER BY 1, 2")[0].rows  # type: ignore[return-value]

    def close(self) -> None:
        if self._runner and self._async:
            self._runner.run(self._async.dispose())
            self._runner.close()
        self._engine.dispose()


def rows(connection: Connection, name: str) -> list[Any]:
    """All rows of a table, each value by its type, by what SQLite writes of it, and by itself if it is a number."""
    columns = [quoted(row[1]) for row in connection.exec_driver_sql(f"PRAGMA table_xinfo({quoted(name)})")]
    shown = ", ".join(f"typeof({c}), hex({c}), iif(typeof({c}) IN ('integer', 'real'), +{c}, NULL)" for c in columns)
    return sorted(map(repr, connection.exec_driver_sql(f"SELECT {shown} FROM {quoted(name)}").all()))


def recognised(sql: str) -> Statement:
    return RECOGNISER.recognise(sql)


def _in_transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)


def _enforce(raw: Any, _: object) -> None:
    raw.execute("PRAGMA foreign_keys = ON")


def _parts(written: Written) -> tuple[str, Any]:
    return (written, None) if isinstance(written, str) else written


def plain_result(cursor: Any, sql: str, parameters: Any) -> Result:
    given: Sequence[Any] = () if parameters is None else (parameters,)
    if isinstance(parameters, list):
        cursor.executemany(sql, *given)
    else:
        cursor.execute(sql, *given)
    found = [] if cursor.description is None else list(cursor.fetchall())
    return Result(frozenset(), cursor.rowcount, cursor.description, found, cursor.lastrowid)
