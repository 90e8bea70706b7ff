"""Phase two of AT: rows are put back, or what was kept for that is deleted; on a small pool of our own.

A commit has no other effect than to delete undo records, and nobody waits for it: so commits of many transactions share one
statement, and each is acknowledged by that statement's local commit. A rollback undoes all branches of its transaction in this
database in one local transaction, since they may have written the same rows one after the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, select
from txcoord_proto.failpoints import durable
from txcoord_sdk.client import Client
from txcoord_sdk.database import Database
from txcoord_sdk.fence.retention import Retained
from txcoord_sdk.participant import Command, ParkError
from txcoord_sdk.tcc.cleaning import keep_clean
from txcoord_sdk.tcc.retries import again_after_transient_errors
from txcoord_sdk.transaction.effects import Invoke, Steps, adrive, drive

from txcoord_rm.at.parking import DifferenceError
from txcoord_rm.catalogue.facts import check_known, facts_on
from txcoord_rm.undo.item import CorruptRecordError
from txcoord_rm.undo.log import begin_undo, forget, metadata, undo, undo_log

T = TypeVar("T")

ONLY_LOCKS = b"locks"
"""Arguments of a branch that only holds further lock keys of another one: it has changed nothing."""
UNDO_LOG = Retained(undo_log, undo_log.c.branch_id, undo_log.c.created_at)
"""Guards and what is left of undone branches; and images, where an operator has ended their transaction by his word."""

GATHER_SECONDS = 0.1
_RETRIED_SECONDS = 3.0
"""How long a rollback meets deadlocks and held rows before it makes room for others and is tried again later."""
_SHORT_WAIT = {"postgresql": ("SET LOCAL lock_timeout = '500ms'",)}
"""For commits: only another process that does the same, or a person, holds their records."""


class AtParticipant:
    """Does phase two of AT in one database.

    Args:
        database: It, with the table of undo records.

    Raises:
        ConfigurationError: It is of a kind in which AT cannot work.
    """

    def __init__(self, database: Database) -> None:
        check_known(database.sync_engine.dialect.name)
        self.database = database

    def gathers(self, command: Command) -> float:
        """See `BatchParticipant.gathers`."""
        return GATHER_SECONDS

    def is_async(self, command: Command) -> bool:
        """See `BatchParticipant.is_async`."""
        return self.database.is_async

    def commit(self, commands: Sequence[Command]) -> Awaitable[None] | None:
        """See `BatchParticipant.commit`."""
        return do(
            self.database, self._commit([(command.xid, branch_id) for command in commands for branch_id in changing(command)])
        )

    def rollback(self, command: Command) -> Awaitable[None] | None:
        """See `BatchParticipant.rollback`."""
        return do(self.database, self._rolling_back(command.xid, changing(command)))

    # ------------------------------------------------------------ steps

    @durable("at.commit")
    def _commit(self, branches: list[tuple[str, int]]) -> Steps[None]:
        if branches:
            yield from self._locally(lambda connection: _forget(connection, branches))

    def _rolling_back(self, xid: str, branch_ids: list[int]) -> Steps[None]:
        if not branch_ids:
            return
        try:
            yield from self._undo_again(xid, branch_ids)
        except DifferenceError:
            # A command names all branches, but for those that another process had when this one was sent.
            others: list[int] = yield from self._locally(lambda connection: _others(connection, xid, branch_ids))
            if not others:
                raise
            yield from self._undo_again(xid, [*branch_ids, *others])

    def _undo_again(self, xid: str, branch_ids: list[int]) -> Steps[None]:
        yield from again_after_transient_errors(self.database, lambda: self._undo(xid, branch_ids), _RETRIED_SECONDS)

    @durable("at.rollback")
    def _undo(self, xid: str, branch_ids: list[int]) -> Steps[None]:
        yield from self._locally(lambda connection: _undo(connection, xid, branch_ids))

    def _locally(self, work: Callable[[Connection], T]) -> Steps[T]:
        run: Any = self.database.arun if self.database.is_async else self.database.run
        result: T = yield Invoke(lambda: run(work))
        return result


def do(database: Database, steps: Steps[None]) -> Awaitable[None] | None:
    """Do steps of a second phase: something to await where the database is asynchronous."""
    if database.is_async:
        return adrive(steps)
    drive(steps)
    return None


def resource_of(database_id: str) -> str:
    """What a database is called at the coordinator, whatever service uses it."""
    return f"db@{database_id}"


def serve_second_phases(client: Client, database: Database, ready: Callable[[str], None] = lambda resource: None) -> None:
    """Have `client` do phase two of AT in `database` as soon as it can be reached, and keep its undo log clean.

    Args:
        client: Of this process.
        database: It; our tables are created where they are missing.
        ready: Told the resource once it is served; from any thread.

    Raises:
        ConfigurationError: The database is of a kind in which AT cannot work.
    """
    participant = AtParticipant(database)
    database.add_tables(metadata)

    def serve(database_id: str) -> None:
        resource = resource_of(database_id)
        client.serve(resource, participant)
        keep_clean(client, database, UNDO_LOG)
        ready(resource)

    client.when_prepared(database, serve)


def changing(command: Command) -> list[int]:
    """Branches of a command that may have changed rows."""
    return [branch.branch_id for branch in command.branches if branch.arguments != ONLY_LOCKS]


def _forget(connection: Connection, branches: list[tuple[str, int]]) -> None:
    begin_undo(connection)
    for statement in _SHORT_WAIT.get(connection.dialect.name, ()):
        connection.exec_driver_sql(statement)
    forget(connection, branches)


def _undo(connection: Connection, xid: str, branch_ids: list[int]) -> None:
    begin_undo(connection)
    facts = facts_on(connection)
    try:
        differences = undo(connection, xid, branch_ids, facts)
    except CorruptRecordError as error:
        raise ParkError(f"{error}; nothing was undone, see `txcoord-agent undo show {xid}`") from error
    if differences:
        raise DifferenceError.of(xid, differences, facts)  # which rolls the local transaction back


def _others(connection: Connection, xid: str, branch_ids: list[int]) -> list[int]:
    """Further branches of the transaction that have changed rows in this database: there is no index, this is rare."""
    mine = undo_log.c.branch_id.in_(branch_ids)
    query = select(undo_log.c.branch_id).where(undo_log.c.xid == xid, undo_log.c.state == "IMAGE", ~mine)
    return list(connection.scalars(query.distinct()))
