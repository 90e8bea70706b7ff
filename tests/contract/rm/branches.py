"""Branches on PostgreSQL as phase one leaves them: captured statements in a local transaction, with their undo records."""

from __future__ import annotations

from sqlalchemy import Connection, Engine
from txcoord_rm.capture.postgresql import capture
from txcoord_rm.catalogue.postgresql import query, table
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
    version = connection.exec_driver_sql("SELECT current_setting('server_version_num')::int").scalar_one()
    seq = 1
    for sql in statements:
        statement = _RECOGNISER.recognise(sql)
        assert statement.target is not None
        facts = table(connection.exec_driver_sql(query(statement.target.name.of(sql))).scalar_one())
        captured = capture(statement, facts, version, Binds.NONE)
        own = {"xid": xid, "branch_id": branch_id, "seq": seq}
        ran = connection.exec_driver_sql(captured.spliced.sql, captured.spliced.bind(None, own))
        seq += next((row[0] for row in ran), 0)


def rows(engine: Engine, name: str) -> list[str]:
    """All rows of a table as texts, sorted."""
    with engine.connect() as connection:
        return list(connection.exec_driver_sql(f'SELECT t::text FROM {name} AS t ORDER BY t::text COLLATE "C"').scalars())


def log(engine: Engine) -> list[tuple[str, int, int, str]]:
    """XID, branch, number and state of all undo records."""
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT xid, branch_id, seq, state FROM txcoord_undo_log ORDER BY 1, 2, 3")
        return [(xid, branch_id, seq, state) for xid, branch_id, seq, state in found]
