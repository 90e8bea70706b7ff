"""Several statements of PostgreSQL in one round trip and one transaction, by libpq's pipeline mode itself.

What psycopg's cursors do for each statement (adapt values, look types up, make objects of results) is two thirds of what a small
group commit costs its client: 0.9 ms against 0.3 ms were measured. See https://www.postgresql.org/docs/current/libpq-pipeline-mode.html.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import READY_R, WAIT_R, WAIT_RW

Parameters = Sequence[bytes | None]


class Pipeline:
    """Of one connection. Each text is prepared when it is first used, so there should be few.

    Args:
        connection: It, in autocommit.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._names: dict[str, bytes] = {}
        """Of prepared texts."""
        self._queued: list[tuple[str, bytes] | None] = []
        """In order, texts that are being prepared with their names, and None for each statement that is run."""

    def send(self, statements: Sequence[tuple[str, Parameters]]) -> None:
        """Hand statements over to the server; without `commit` nothing of them stays.

        Args:
            statements: Texts with `$1` and so on, and their parameters in text form.

        Raises:
            psycopg.Error: The connection is lost.
        """
        self._pgconn.enter_pipeline_mode()
        self._queued = []
        fresh: dict[str, bytes] = {}
        for text, parameters in statements:
            name = self._names.get(text) or fresh.get(text)
            if name is None:
                name = fresh[text] = b"txc_%d" % (len(self._names) + len(fresh))
                self._pgconn.send_prepare(name, text.encode())
                self._queued.append((text, name))
            self._pgconn.send_query_prepared(name, parameters)
            self._queued.append(None)
        self._pgconn.flush()

    async def commit(self) -> list[PGresult]:
        """Commit what was sent; the results of its statements.

        Raises:
            psycopg.Error: Of the first statement that failed, so that nothing stays. Without an `sqlstate` its end is not known.
        """
        self._pgconn.pipeline_sync()
        results = await self._connection.wait(_exchange(self._pgconn))
        self._pgconn.exit_pipeline_mode()
        if len(results) != len(self._queued):
            raise psycopg.OperationalError(f"PostgreSQL gave {len(results)} results for {len(self._queued)} commands")
        ran = []
        for prepared, result in zip(self._queued, results, strict=True):
            if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                raise _failure(result)
            if prepared is None:
                ran.append(result)
            else:
                text, name = prepared
                self._names[text] = name
        return ran


def rows(result: PGresult) -> list[tuple[str | None, ...]]:
    """The rows of a result, as text."""
    cells = ([result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples))
    return [tuple(None if cell is None else cell.decode() for cell in row) for row in cells]


def _exchange(pgconn: PGconn) -> Generator[Any, Any, list[PGresult]]:
    """Send what is queued, and take results up to the one of the synchronisation point."""
    while pgconn.flush():
        if (yield WAIT_RW) & READY_R:
            pgconn.consume_input()
    results: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            yield WAIT_R
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            if pgconn.status == ConnStatus.BAD:
                raise psycopg.OperationalError("the connection to PostgreSQL is lost")
        elif result.status == ExecStatus.PIPELINE_SYNC:
            return results
        else:
            results.append(result)


def _failure(result: PGresult) -> psycopg.Error:
    """The error of a result; one with which the server ends the session does not say what became of the transaction."""
    error = error_from_result(result)
    if result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) in (b"FATAL", b"PANIC"):
        return psycopg.OperationalError(str(error))
    return error
