"""Branches on PostgreSQL as phase one leaves them: captured statements in a local transaction, with their undo records."""

from __future__ import annotations

from sqlalchemy import Connection, Engine
from txcoord_rm.capture.port import Entry
from txcoord_rm.capture.postgresql import PostgresqlCapture
from txcoord_rm.sql.flavour import Binds, Family, Flavour
from txcoord_rm.sql.recogniser import Recogniser

_RECOGNISER = Recogniser(Flavour(Family.POSTGRESQL, Binds.NONE))


def plain(engine: Engine, *statements: str) -> None:
    """Run statements that nobody captures."""
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))


def phase_one(engine: Engine, xid: str, branch_id: int, *statements: str) -> None:
    """Run statements as a branch, and commit them locally."""
    with engine.begin() as connection:
        _run(connection, xid, branch_id, statements)


def _run(connection: Connection, xid: str, branch_id: int, statements: tuple[str, ...]) -> None:
    cursor, capture = connection.connection.cursor(), PostgresqlCapture(Binds.PERCENT)
    for sql in statements:
        statement = _RECOGNISER.recognise(sql)
        capture.run(cursor, statement, capture.table(cursor, statement), None, Entry(xid, branch_id))


def rows(engine: Engine, name: str) -> list[str]:
    """All rows of a table as texts, sorted."""
    with engine.connect() as connection:
        return list(connection.exec_driver_sql(f'SELECT t::text FROM {name} AS t ORDER BY t::text COLLATE "C"').scalars())


def log(engine: Engine) -> list[tuple[str, int, int, str]]:
    """XID, branch, number and state of all undo records."""
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT xid, branch_id, seq, state FROM txcoord_undo_log ORDER BY 1, 2, 3")
        return [(xid, branch_id, seq, state) for xid, branch_id, seq, state in found]
