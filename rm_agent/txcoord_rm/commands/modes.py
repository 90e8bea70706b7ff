"""In which modes tables of a database are written, as far as the database itself shows it.

Undo records name the tables of AT branches until these end. On PostgreSQL the locks of prepared transactions name those of XA
branches, also until they end. Fence rows show for days that there were branches of XA and TCC, but not in which tables; nothing
shows a write outside global transactions. So what is found is certain, and that nothing is found proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, func, select, text
from txcoord_proto.terminal import Check, Verdict
from txcoord_sdk import schema
from txcoord_sdk.schema import fence

from txcoord_rm.at.participant import resource_of
from txcoord_rm.undo.schema import undo_log
from txcoord_rm.xa.identifier import pattern

_PREPARED = {
    # A prepared transaction has no process, and is told from others by the lock on its own number.
    "postgresql": text(
        "SELECT DISTINCT n.nspname, c.relname FROM pg_catalog.pg_prepared_xacts p "
        "JOIN pg_catalog.pg_locks own ON own.pid IS NULL AND own.transactionid = p.transaction "
        "JOIN pg_catalog.pg_locks l ON l.pid IS NULL AND l.virtualtransaction = own.virtualtransaction "
        "JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE p.database = current_database() AND p.gid LIKE :pattern AND l.mode = 'RowExclusiveLock' "
        "AND c.relkind IN ('r', 'p') AND c.relname NOT LIKE 'txcoord\\_%'"
    )
}
"""Tables that prepared transactions have written: INSERT, UPDATE and DELETE take that lock, reads and FOR UPDATE do not."""
_NOT_RECORDED = "which tables branches of XA and TCC have written is recorded nowhere once they have ended"
_REMEDY = (
    "a process that uses both modes has XA take the global locks of AT, but between processes nobody notices a mixture: let all "
    "services that write the table use one mode"
)


def modes(connection: Connection) -> Iterator[Check]:
    """What is known of the modes in use; our tables have to be there, and readable."""
    database_id = str(connection.scalar(select(schema.database.c.id)))
    own, at, xa = resource_of(database_id), _undo_tables(connection), _prepared_tables(connection, database_id)
    for table in sorted(at & xa):
        yield Check("modes", Verdict.WARNING, f"{table}: written in AT and in XA, both not ended; {_REMEDY}")
    counted = select(fence.c.resource, func.count()).group_by(fence.c.resource)
    branches: dict[str, int] = {row[0]: row[1] for row in connection.execute(counted)}
    actions = sorted(name for name in branches if name != own)
    used = []
    if at:
        used.append(f"AT ({_listed(sorted(at))} now)")
    if own in branches or xa:
        used.append(f"XA ({branches.get(own, 0)} branches{f', {_listed(sorted(xa))} now' if xa else ''})")
    if actions:
        used.append(f"TCC ({_listed([action.partition('@')[0] for action in actions])})")
    if not used:
        yield Check("modes", Verdict.OK, "no branch is recorded; those of AT that were committed leave nothing behind")
        return
    verdict, more = (
        (Verdict.OK, "") if len(used) == 1 else (Verdict.WARNING, f": {_NOT_RECORDED}, see that they are not the same")
    )
    yield Check("modes", verdict, f"used here lately: {', '.join(used)}{more}")


def _undo_tables(connection: Connection) -> set[str]:
    columns = undo_log.c
    found = connection.execute(select(columns.table_schema, columns.table_name).where(columns.state == "IMAGE").distinct())
    return {f"{of_schema}.{name}" for of_schema, name in found}


def _prepared_tables(connection: Connection, database_id: str) -> set[str]:
    asked = _PREPARED.get(connection.dialect.name)
    if asked is None:
        return set()
    return {f"{of_schema}.{name}" for of_schema, name in connection.execute(asked, {"pattern": pattern(database_id)})}


def _listed(names: Sequence[str], longest: int = 5) -> str:
    more = len(names) - longest
    return ", ".join(names[:longest]) + (f" and {more} more" if more > 0 else "")
