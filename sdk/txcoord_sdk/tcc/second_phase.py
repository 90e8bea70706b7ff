"""Phase two: confirm and cancel, behind the fence, on the client's own pool."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable
from typing import Any

from sqlalchemy import Connection
from txcoord_proto.errors import InvalidArgumentError
from txcoord_proto.failpoints import durable

from txcoord_sdk.database import Database
from txcoord_sdk.fence import fence
from txcoord_sdk.participant import BranchCommand, Command
from txcoord_sdk.sealed_transaction import AsyncSealedTransaction
from txcoord_sdk.tcc.action import Action
from txcoord_sdk.tcc.branch import TccBranch, within
from txcoord_sdk.tcc.retries import again_after_transient_errors
from txcoord_sdk.tcc.signature import TccSignature
from txcoord_sdk.transaction.effects import Invoke, Steps, adrive, drive

log = logging.getLogger(__name__)

_MAX_RESULT = 16_000


class TccParticipant:
    """Confirms and cancels one action.

    Args:
        action: It.
        database: Where it works; None: it has none.
        instance: The object whose methods they are, for actions in classes.
    """

    def __init__(self, action: Action, database: Database | None, instance: Any = None) -> None:
        self._action = action
        self._instance = instance
        self.database = database

    def is_async(self, command: Command) -> bool:
        """See `Participant.is_async`."""
        return self._part_of(command).is_async if self.database is None else self.database.is_async

    def settle(self, command: Command, branch: BranchCommand) -> Awaitable[None] | None:
        """See `Participant.settle`."""
        if self.is_async(command):
            return self._asettle(command, branch)
        if self.database is None:
            part, arguments = self._part(command, branch)
            with within(TccBranch(command.xid, branch.branch_id, command.resource)):
                part.call(self._instance, arguments)
        else:
            drive(self._settling(self.database, command, branch))
        return None

    async def _asettle(self, command: Command, branch: BranchCommand) -> None:
        if self.database is not None:
            await adrive(self._settling(self.database, command, branch))
            return
        part, arguments = self._part(command, branch)
        with within(TccBranch(command.xid, branch.branch_id, command.resource)):
            await part.call(self._instance, arguments)

    def _part_of(self, command: Command) -> TccSignature:
        confirm, cancel = self._action.parts
        return confirm if command.commit else cancel

    def _part(self, command: Command, branch: BranchCommand) -> tuple[TccSignature, dict[str, Any]]:
        """Confirm or cancel, and what it is called with."""
        part = self._part_of(command)
        wanted = [name for name in part.carried if name in self._action.attempt.carried]
        arguments = self._action.plan.decode(branch.arguments, wanted)
        if missing := part.carried.keys() - arguments.keys() - part.defaults.keys():
            raise InvalidArgumentError(
                f"{self._action.name}: the try of this branch stored no {sorted(missing)}, it was of an older version: give the "
                f"{'confirm' if command.commit else 'cancel'} a default for it"
            )
        return part, arguments

    def _settling(self, database: Database, command: Command, branch: BranchCommand) -> Steps[None]:
        second_phase = self._confirm if command.commit else self._cancel
        with within(TccBranch(command.xid, branch.branch_id, command.resource)):
            yield from again_after_transient_errors(database, lambda: second_phase(database, command, branch))

    @durable("tcc.confirm")
    def _confirm(self, database: Database, command: Command, branch: BranchCommand) -> Steps[None]:
        yield from self._in_database(database, command, branch)

    @durable("tcc.cancel")
    def _cancel(self, database: Database, command: Command, branch: BranchCommand) -> Steps[None]:
        yield from self._in_database(database, command, branch)

    def _in_database(self, database: Database, command: Command, branch: BranchCommand) -> Steps[None]:
        part, arguments = self._part(command, branch)
        local: Any = database.own_async_transaction() if database.is_async else database.own_transaction()
        try:
            with database.reaching():
                runs = yield Invoke(lambda: local.start(lambda c: self._enter(c, command, branch)))
            result = None
            if runs:
                # What user code raises says nothing about the database, unless its own connection is lost.
                with database.reaching(lambda: local.is_lost):
                    result = yield Invoke(lambda: self._call(local, part, arguments))
            with database.reaching():
                if result is not None and self._action.fence is not None:
                    yield Invoke(lambda: local.run(lambda c: self._remember(c, command, branch, result)))
                yield Invoke(local.commit)
        finally:
            yield Invoke(local.close)

    def _call(self, local: Any, part: TccSignature, arguments: dict[str, Any]) -> Any:
        """Call confirm or cancel; what it returns is awaited where it is asynchronous."""
        if part.is_async:
            assert isinstance(local, AsyncSealedTransaction)
            assert local.connection is not None
            return part.acall_on(local.connection, self._instance, arguments)
        return local.run(lambda c: part.call_on(c, self._instance, arguments))

    def _enter(self, connection: Connection, command: Command, branch: BranchCommand) -> bool:
        """Close the branch; whether user code has to run."""
        if self._action.fence is None:
            return True
        if command.commit:
            runs = fence.confirmed(connection, command.xid, branch.branch_id)
        else:
            runs = fence.cancelled(connection, command.xid, branch.branch_id, command.resource)
        if not runs:
            log.debug(
                "%s: branch %d of %s was settled before, with result %s",
                command.xid,
                branch.branch_id,
                command.resource,
                fence.remembered(connection, command.xid, branch.branch_id),
                extra={"xid": command.xid},
            )
        return runs

    @staticmethod
    def _remember(connection: Connection, command: Command, branch: BranchCommand, result: Any) -> None:
        """Keep what confirm or cancel returned, for people; what JSON cannot hold as its text."""
        try:
            text = json.dumps(result, ensure_ascii=False, default=repr)
        except (TypeError, ValueError):
            text = json.dumps(repr(result))
        if len(text) <= _MAX_RESULT:
            fence.remember(connection, command.xid, branch.branch_id, text)
