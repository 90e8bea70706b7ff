"""Phase two in a database: of AT and XA branches alike, since both are of one resource.

Any process that serves it gets the commands of all its branches, whatever mode its own engine is in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from txcoord_sdk.client import Client
from txcoord_sdk.participant import Command
from txcoord_sdk.tcc.cleaning import keep_clean
from txcoord_sdk.transaction.effects import Invoke, Steps, adrive, drive

from txcoord_rm.at.participant import UNDO_LOG, AtParticipant, resource_of
from txcoord_rm.undo.log import metadata
from txcoord_rm.xa.branch import ARGUMENTS
from txcoord_rm.xa.identifier import Identifier
from txcoord_rm.xa.resource import XaResource
from txcoord_rm.xa.scan import Scan, keep_scanning
from txcoord_rm.xa.second_phase import XaSecondPhase


class DatabaseParticipant:
    """Does phase two of all branches in one database.

    Args:
        at: Of AT branches.
        xa: Of XA branches.
        is_waited_for: Whether there may be XA branches: their commits hold rows, and somebody waits for them.
    """

    def __init__(self, at: AtParticipant, xa: XaSecondPhase, is_waited_for: Callable[[], bool]) -> None:
        self.database = at.database
        self._at = at
        self._xa = xa
        self._is_waited_for = is_waited_for

    @property
    def gathers(self) -> float:
        """See `BatchParticipant.gathers`."""
        return 0.0 if self._is_waited_for() else self._at.gathers

    def is_async(self, command: Command) -> bool:
        """See `BatchParticipant.is_async`."""
        return self.database.is_async

    def commit(self, commands: Sequence[Command]) -> Awaitable[None] | None:
        """See `BatchParticipant.commit`."""
        return self._do(self._commit(commands))

    def rollback(self, command: Command) -> Awaitable[None] | None:
        """See `BatchParticipant.rollback`."""
        return self._do(self._roll_back(command))

    def _do(self, steps: Steps[None]) -> Awaitable[None] | None:
        if self.database.is_async:
            return adrive(steps)
        drive(steps)
        return None

    def _commit(self, commands: Sequence[Command]) -> Steps[None]:
        for command in commands:
            yield from self._settle(command)
        if undoable := [at for command in commands if (at := _without_xa(command)).branches]:
            yield Invoke(lambda: self._at.commit(undoable))

    def _roll_back(self, command: Command) -> Steps[None]:
        yield from self._settle(command)  # first: it holds rows locked
        if (at := _without_xa(command)).branches:
            yield Invoke(lambda: self._at.rollback(at))

    def _settle(self, command: Command) -> Steps[None]:
        database_id = command.resource.partition("@")[2]
        for branch in command.branches:
            if branch.arguments == ARGUMENTS:
                yield from self._xa.settle_steps(Identifier(database_id, command.xid, branch.branch_id), command.commit)


def _without_xa(command: Command) -> Command:
    return replace(command, branches=tuple(branch for branch in command.branches if branch.arguments != ARGUMENTS))


def serve(client: Client, xa: XaResource, undoes: bool) -> None:
    """Have `client` do phase two in a database as soon as it can be reached.

    Args:
        client: It.
        xa: An engine of the database.
        undoes: Whether AT mode is served there, so that its table is needed.
    """
    database = xa.resource.database
    if undoes:
        database.add_tables(metadata)

    def ready(database_id: str) -> None:
        second_phase = XaSecondPhase(database, xa.preparing, resource_of(database_id))
        client.serve(resource_of(database_id), DatabaseParticipant(AtParticipant(database), second_phase, lambda: xa.used))
        keep_clean(client, database)
        if undoes:
            keep_clean(client, database, UNDO_LOG)
        scan = Scan(second_phase, client.astatus if database.is_async else client.status)
        xa.when_used(lambda: keep_scanning(client, database, scan))

    client.when_prepared(database, ready)
