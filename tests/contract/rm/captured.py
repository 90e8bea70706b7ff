"""Captured statements of tests: what came of one, and its undo record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row
from txcoord_rm.capture.port import Entry
from txcoord_rm.capture.postgresql import PostgresqlCapture
from txcoord_rm.sql.flavour import Binds, Family, Flavour
from txcoord_rm.sql.recogniser import Recogniser

from tests.contract.rm.conftest import Connection

RECOGNISERS = {binds: Recogniser(Flavour(Family.POSTGRESQL, binds)) for binds in (Binds.PERCENT, Binds.NONE)}


@dataclass
class Ran:
    """What came of a statement."""

    keys: set[str]
    rows: list[tuple[Any, ...]]
    names: list[str]
    rowcount: int
    images: list[tuple[str, list[str], list[str | None], list[str | None]]]


def run(connection: Connection, sql: str, parameters: Any = None, capture: PostgresqlCapture | None = None) -> Ran:
    statement = RECOGNISERS[Binds.NONE if parameters is None else Binds.PERCENT].recognise(sql)
    capture = capture or PostgresqlCapture(Binds.PERCENT)
    connection.execute("DELETE FROM txcoord_undo_log")
    with connection.cursor() as cursor:
        result = capture.run(cursor, statement, capture.table(cursor, statement), parameters, Entry("x", 7))
    with connection.cursor(row_factory=dict_row) as reader:
        log = reader.execute("SELECT * FROM txcoord_undo_log").fetchall()
    assert all((r["branch_id"], r["seq"], r["state"], r["xid"], r["format"]) == (7, 1, "IMAGE", "x", 1) for r in log)
    assert len(log) <= 1
    images = [(r["table_name"], r["columns"], r["befores"], r["afters"]) for r in log]
    names = [column.name for column in result.description or ()]
    return Ran(set(result.keys), list(result.rows), names, result.rowcount, images)
