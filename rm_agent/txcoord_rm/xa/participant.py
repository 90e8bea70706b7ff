"""Phase two in a database: of AT and XA branches alike, since both are of one resource.

Any process that serves it gets the commands of all its branches, whatever mode its own engine is in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from txcoord_sdk.client import Client
from txcoord_sdk.database import Database
from txcoord_sdk.participant import Command
from txcoord_sdk.tcc.cleaning import keep_clean
from txcoord_sdk.transaction.effects import Invoke, Steps

from txcoord_rm.at.participant import UNDO_LOG, AtParticipant, do, resource_of, serve_second_phases
from txcoord_rm.undo.log import metadata
from txcoord_rm.xa.branch import ARGUMENTS
from txcoord_rm.xa.identifier import Identifier
from txcoord_rm.xa.port import Preparing
from txcoord_rm.xa.resource import XaResource, preparing_for
from txcoord_rm.xa.scan import Scan, keep_scanning
from txcoord_rm.xa.second_phase import XaSecondPhase


class DatabaseParticipant:
    """Does phase two of all branches in one database.

    Args:
        at: Of AT branches.
        xa: Of XA branches.
    """

    def __init__(self, at: AtParticipant, xa: XaSecondPhase) -> None:
        self.database = at.database
        self._at = at
        self._xa = xa

    def gathers(self, command: Command) -> float:
        """See `BatchParticipant.gathers`: XA branches hold rows until they are committed."""
        return 0.0 if any(branch.arguments == ARGUMENTS for branch in command.branches) else self._at.gathers(command)

    def is_async(self, command: Command) -> bool:
        """See `BatchParticipant.is_async`."""
        return self.database.is_async

    def commit(self, commands: Sequence[Command]) -> Awaitable[None] | None:
        """See `BatchParticipant.commit`."""
        return do(self.database, self._commit(commands))

    def rollback(self, command: Command) -> Awaitable[None] | None:
        """See `BatchParticipant.rollback`."""
        return do(self.database, self._roll_back(command))

    def _commit(self, commands: Sequence[Command]) -> Steps[None]:
        for command in commands:
            yield from self._settle(command)
        if undoable := [at for command in commands if (at := _without_xa(command)).branches]:
            yield Invoke(lambda: self._at.commit(undoable))

    def _roll_back(self, command: Command) -> Steps[None]:
        met = None
        try:
            yield from self._settle(command)  # first: it holds rows locked
        except Exception as error:
            met = error
        if (at := _without_xa(command)).branches:
            yield Invoke(lambda: self._at.rollback(at))
        if met is not None:
            raise met

    def _settle(self, command: Command) -> Steps[None]:
        """End all of its XA branches that can be ended; raises what the first of the others has met."""
        database_id, met = command.resource.partition("@")[2], list[Exception]()
        for branch in command.branches:
            if branch.arguments == ARGUMENTS:
                try:
                    yield from self._xa.settle_steps(Identifier(database_id, command.xid, branch.branch_id), command.commit)
                except Exception as error:
                    met.append(error)
        if met:
            raise met[0]


def _without_xa(command: Command) -> Command:
    return replace(command, branches=tuple(branch for branch in command.branches if branch.arguments != ARGUMENTS))


def serve(client: Client, xa: XaResource, undoes: bool) -> None:
    """Have `client` do phase two in the database of an enrolled engine as soon as it can be reached.

    Args:
        client: It.
        xa: An engine of the database.
        undoes: Whether AT mode is served there, so that its table is needed.
    """
    database = xa.resource.database

    def ready(resource: str, scan: Scan) -> None:
        xa.when_used(lambda: keep_scanning(client, database, scan))

    _serve(client, database, xa.preparing, undoes, ready)


def serve_database(client: Client, database: Database, ready: Callable[[str], None] = lambda resource: None) -> None:
    """Have `client` do phase two of AT and XA in a database that none of this process's engines writes in.

    It is looked for prepared transactions from the start on: what others left behind is why such a process is there.

    Args:
        client: Of this process.
        database: It; our tables are created where they are missing.
        ready: Told the resource once it is served; from any thread.

    Raises:
        ConfigurationError: The database is of a kind in which neither works.
    """
    dialect = database.sync_engine.dialect
    if dialect.name == "sqlite":  # which prepares nothing
        serve_second_phases(client, database, ready)
        return

    def served(resource: str, scan: Scan) -> None:
        keep_scanning(client, database, scan)
        ready(resource)

    _serve(client, database, preparing_for(dialect), True, served)


def _serve(
    client: Client,
    database: Database,
    preparing: Preparing,
    undoes: bool,
    ready: Callable[[str, Scan], None],
) -> None:
    at = AtParticipant(database)
    if undoes:
        database.add_tables(metadata)

    def prepared(database_id: str) -> None:
        resource = resource_of(database_id)
        second_phase = XaSecondPhase(database, preparing, resource)
        client.serve(resource, DatabaseParticipant(at, second_phase))
        keep_clean(client, database)
        if undoes:
            keep_clean(client, database, UNDO_LOG)
        ready(resource, Scan(second_phase, client.astatus if database.is_async else client.status))

    client.when_prepared(database, prepared)
