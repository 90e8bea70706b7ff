"""A MariaDB database with an undo log, and transactions that write in it, branch by branch, through one driver or another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from txcoord_rm.capture.mysql import MysqlCapture
from txcoord_rm.capture.port import Entry, Result
from txcoord_rm.catalogue.mysql import MysqlCatalogue
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.flavour import Binds, Family, Flavour
from txcoord_rm.sql.recogniser import Recogniser
from txcoord_rm.sql.statement import Statement
from txcoord_rm.undo.images import decode
from txcoord_rm.undo.log import begin_undo, metadata, undo
from txcoord_rm.undo.restorer import Difference

FLAVOUR = Flavour(Family.MYSQL, Binds.PERCENT, backslashes=True)
RECOGNISERS = {binds: Recogniser(Flavour(Family.MYSQL, binds, backslashes=True)) for binds in (Binds.PERCENT, Binds.NONE)}
EACH_DRIVER = pytest.mark.parametrize("maria", ["pymysql", "aiomysql"], indirect=True)
"""Of a test in which a driver may show otherwise than another what the database says."""
Found = TypeVar("Found")
Text = str | tuple[str, Any]
"""A statement, or one and its parameters."""


class Maria:
    """See above.

    Args:
        url: Of the database, with a driver.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.branch_id = 0
        self.capture = MysqlCapture(FLAVOUR)
        self.database = url.partition("?")[0].rpartition("/")[2]
        self.results: list[Result] = []
        self.work(lambda connection: metadata.create_all(connection))

    def work(self, job: Callable[[Connection], Found]) -> Found:
        """Do something in a local transaction of its own."""
        if "aiomysql" not in self.url and "asyncmy" not in self.url:
            engine = self.engine()
            try:
                with engine.begin() as connection:
                    return job(connection)
            finally:
                engine.dispose()

        async def there() -> Found:
            engine = create_async_engine(self.url)
            try:
                async with engine.begin() as connection:
                    return await connection.run_sync(job)
            finally:
                await engine.dispose()

        return asyncio.run(there())

    def engine(self) -> Engine:
        """A new one, through a driver that waits."""
        return create_engine(self.url.replace("aiomysql", "pymysql"))

    def plain(self, *statements: str) -> None:
        """Run statements as they are."""
        self.work(lambda connection: [connection.exec_driver_sql(s.replace("%", "%%")) for s in statements])

    def recognised(self, sql: str) -> Statement:
        """A statement without parameters."""
        return RECOGNISERS[Binds.NONE].recognise(sql)

    def forget_facts(self) -> None:
        """As a process that has just begun."""
        self.capture = MysqlCapture(FLAVOUR)

    def known_to_return(self, returns: bool) -> None:
        """Whether the server counts as one that has INSERT ... RETURNING."""
        catalogue = MysqlCatalogue()
        self.capture = MysqlCapture(FLAVOUR, catalogue)
        self.work(lambda c: catalogue.table(c.connection.cursor(), self.database, "acct"))
        catalogue.returns_inserted = returns

    def captured(self, connection: Connection, sql: str, parameters: Any = None, entry: Entry | None = None) -> Result:
        """Run a statement with its images in the connection's local transaction."""
        statement = RECOGNISERS[Binds.NONE if parameters is None else Binds.PERCENT].recognise(sql)
        cursor = connection.connection.cursor()
        table = self.capture.table(cursor, statement)
        entry = entry or Entry("x", self.branch_id, first=True)
        if isinstance(parameters, list):
            return self.capture.run_many(cursor, statement, table, parameters, entry)
        return self.capture.run(cursor, statement, table, parameters, entry)

    def foreseen(self, sql: str, parameters: Any = None) -> frozenset[str] | None:
        """Keys that are known before a statement runs."""

        def job(connection: Connection) -> frozenset[str] | None:
            statement = RECOGNISERS[Binds.NONE if parameters is None else Binds.PERCENT].recognise(sql)
            cursor = connection.connection.cursor()
            return self.capture.foreseen(cursor, statement, self.capture.table(cursor, statement), parameters)

        return self.work(job)

    def branch(self, *statements: Text) -> int:
        """Run captured statements in a local transaction of their own."""
        self.branch_id += 1

        def job(connection: Connection) -> list[Result]:
            results = list[Result]()
            for n, each in enumerate(statements):
                sql, parameters = (each, None) if isinstance(each, str) else each
                entry = Entry("x", self.branch_id, first=n == 0, limit_ms=60_000)
                results.append(self.captured(connection, sql, parameters, entry))
            return results

        self.results = self.work(job)
        return self.branch_id

    def run(self, sql: str, parameters: Any = None) -> Result:
        """Run one captured statement; what came of it."""
        self.branch((sql, parameters))
        return self.results[0]

    def undo(self, *branch_ids: int) -> list[Difference]:
        """Undo branches."""

        def job(connection: Connection) -> list[Difference]:
            cursor = connection.connection.cursor()
            begin_undo(connection)
            found = undo(connection, "x", branch_ids, lambda name: self.known(cursor, *name))
            if found:
                connection.rollback()
            return found

        return self.work(job)

    def known(self, cursor: Any, schema: str, name: str) -> Table | None:
        """What the catalogue says now."""
        return MysqlCatalogue().table(cursor, schema, name)

    def wait_for_lock(self, job: Future[Any]) -> None:
        """Until a transaction waits for a row's lock, for which this job is the only one."""
        engine = self.engine()
        with engine.connect() as watcher:
            while not watcher.exec_driver_sql("SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'").all():
                assert not job.done(), job.exception() or job.result()
                time.sleep(0.15)  # what it shows is made anew only where nobody has asked for a tenth of a second
        engine.dispose()

    def rows(self, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
        """All rows, in the order of the first columns."""
        return self.work(lambda c: sorted((tuple(r) for r in c.exec_driver_sql(f"SELECT {columns} FROM {table}")), key=repr))

    def state(self, *tables: str) -> list[Any]:
        """All that tables hold, to the bit; CHECKSUM TABLE counts also what is left in the place of a NULL."""
        return self.work(lambda connection: [_dump(connection, table) for table in tables])

    def images(self, branch_id: int | None = None) -> list[tuple[str, list[str], list[Any], list[Any]]]:
        """Table, columns and images of the last branch's records."""
        wanted = self.branch_id if branch_id is None else branch_id
        query = text("SELECT table_name, columns, befores, afters FROM txcoord_undo_log WHERE branch_id = :b ORDER BY seq")
        with self.engine().connect() as connection:
            found = connection.execute(query.columns(columns=metadata.tables["txcoord_undo_log"].c.columns.type), {"b": wanted})
            return [(r.table_name, r.columns, list(decode(r.befores)), list(decode(r.afters))) for r in found]

    def log(self) -> Sequence[tuple[Any, ...]]:
        """Branch, number and state of every record."""
        return self.work(
            lambda c: [tuple(r) for r in c.exec_driver_sql("SELECT branch_id, seq, state FROM txcoord_undo_log ORDER BY 1, 2")]
        )


def _dump(connection: Connection, table: str) -> list[Any]:
    connection.exec_driver_sql("SET time_zone = '+00:00'")
    query = "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s"
    columns = [
        _bits(f"`{name}`", kind) for name, kind in connection.exec_driver_sql(query + " ORDER BY ordinal_position", (table,))
    ]
    return sorted((tuple(row) for row in connection.exec_driver_sql(f"SELECT {', '.join(columns)} FROM {table}")), key=repr)


def _bits(cell: str, kind: str) -> str:
    if kind in ("float", "double"):
        return f"CAST({cell} * 1e0 AS CHAR)"
    if kind in ("enum", "set", "bit"):
        return f"{cell} + 0"
    return (
        f"HEX({cell})"
        if any(part in kind for part in ("char", "text", "blob", "binary", "geom", "point"))
        else f"CAST({cell} AS CHAR)"
    )
