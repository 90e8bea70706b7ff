"""An action: a try with its confirm and cancel, and how each of the three is run.

The try registers a branch, opens the fence and runs the user's function, all in one local transaction: the caller's, when he passes
one, else one of the SDK's making. Confirm and cancel come back through the coordinator and run on the client's own pool.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session
from tenacity import AsyncRetrying, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from txcoord_proto.errors import ConfigurationError, LocalTransactionOpenError, NoTransactionError
from txcoord_proto.status import BranchType, PhaseOne

from txcoord_sdk.codec import ArgumentPlan
from txcoord_sdk.context import current
from txcoord_sdk.database import Database
from txcoord_sdk.fence import fence
from txcoord_sdk.local_transaction import enlist
from txcoord_sdk.participant import BranchCommand, Command
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.tcc.signature import TccSignature
from txcoord_sdk.transaction.transaction import GlobalTransaction

Fence = Literal["row", "intent"]

_RETRY: dict[str, Any] = {
    "stop": stop_after_attempt(8),
    "wait": wait_random_exponential(multiplier=0.02, max=1.0),
    "reraise": True,
}


class BranchEnlistment:
    """A branch that has to be reported when its local transaction ends."""

    def __init__(self, transaction: GlobalTransaction, branch_id: int, action: str) -> None:
        self._transaction = transaction
        self._branch_id = branch_id
        self._action = action
        self.failure: BaseException | None = None
        """Set when the try raised: the local transaction must not be committed with half of it."""
        transaction.local_opened(self, f"{action}, branch {branch_id}")

    def before_commit(self) -> None:
        """See `Enlistment.before_commit`."""
        if self.failure is not None:
            raise LocalTransactionOpenError(
                f"the try {self._action} failed ({self.failure!r}) in this local transaction, which may hold half of it: roll it back, or "
                "call the try within begin_nested() to go on without it"
            )
        self._transaction.check_deadline()

    def committed(self) -> None:
        """See `Enlistment.committed`."""
        self._end(PhaseOne.DONE)

    def rolled_back(self) -> None:
        """See `Enlistment.rolled_back`."""
        self._end(PhaseOne.FAILED, repr(self.failure) if self.failure is not None else "rolled back")

    def unknown(self, error: BaseException) -> None:
        """See `Enlistment.unknown`."""
        self._end(PhaseOne.UNKNOWN, repr(error))

    def _end(self, result: PhaseOne, error: str = "") -> None:
        self._transaction.report(self._branch_id, result, error)
        self._transaction.local_ended(self)


class Action:
    """One TCC action of a service.

    Args:
        name: Of the action, unique in the service.
        attempt: The try.
        fence_kind: `row`: with the try's local transaction; `intent`: committed before the try runs.
        database_name: Which bound database, where there are several.

    Raises:
        ConfigurationError: The function cannot be a try.
    """

    def __init__(self, name: str, attempt: Callable[..., Any], fence_kind: Fence, database_name: str) -> None:
        self.name = name
        self.attempt = TccSignature.of(attempt, name)
        self.database_name = database_name
        self.plan = ArgumentPlan(name, self.attempt.carried)
        self.confirm: TccSignature | None = None
        self.cancel: TccSignature | None = None
        self._intent = fence_kind == "intent"
        if self._intent and self.attempt.database:
            raise ConfigurationError(
                f"{name}: fence='intent' is for tries without a database parameter; this one has its row in the try"
            )

    @property
    def fenced(self) -> bool:
        """Whether its steps meet at a fence row."""
        return bool(self.attempt.database) or self._intent

    def take(self, part: Literal["confirm", "cancel"], function: Callable[..., Any]) -> None:
        """Take confirm or cancel in.

        Raises:
            ConfigurationError: It is there already, or its parameters are not the try's.
        """
        if getattr(self, part) is not None:
            raise ConfigurationError(f"{self.name} has a {part} already")
        signature = TccSignature.of(function, self.name)
        strange = signature.carried.keys() - self.attempt.carried.keys()
        if strange:
            raise ConfigurationError(
                f"{self.name}: {part} wants {sorted(strange)}, which the try does not have; arguments travel by name"
            )
        if signature.database and not self.fenced:
            raise ConfigurationError(
                f"{self.name}: {part} uses the database but the try has no fence there: give it fence='intent'"
            )
        if signature.is_async is not self.attempt.is_async:
            raise ConfigurationError(f"{self.name}: try and {part} must both be async, or neither")
        setattr(self, part, signature)

    def check_complete(self) -> None:
        """Refuse an action without its confirm or cancel.

        Raises:
            ConfigurationError: One is missing.
        """
        for part in ("confirm", "cancel"):
            if getattr(self, part) is None:
                raise ConfigurationError(f"{self.name} has no {part}: every try needs both, they may do nothing")

    def resource(self, service: str, database_id: str) -> str:
        """Its resource name: `service:action@database-id`."""
        return f"{service}:{self.name}@{database_id or '-'}"

    # ------------------------------------------------------------ try

    def registration(self, service: str, database_id: str, arguments: dict[str, Any]) -> Registration:
        """What the coordinator is told of a try."""
        return Registration(BranchType.TCC, self.resource(service, database_id), arguments=self.plan.encode(arguments))

    def transaction(self) -> GlobalTransaction:
        """The global transaction that a try is called in.

        Raises:
            NoTransactionError: There is none.
        """
        transaction = current()
        if transaction is None:
            raise NoTransactionError(
                f"{self.name} is the try of a TCC action and has no global transaction to belong to: call it within "
                "@global_transaction, or in a request that carries a txcoord-xid header (through the ASGI or WSGI middleware)"
            )
        return transaction

    def open(self, connection: Connection, transaction: GlobalTransaction, branch_id: int, resource: str) -> BranchEnlistment:
        """Enlist the branch with the try's local transaction and write its fence row."""
        enlistment = BranchEnlistment(transaction, branch_id, self.name)
        enlist(connection, enlistment)
        fence.tried(connection, transaction.known_xid, branch_id, resource)
        return enlistment

    def record_intent(self, connection: Connection, transaction: GlobalTransaction, branch_id: int, resource: str) -> None:
        """Write the fence row of a try whose effects are not in this database, in a local transaction of its own."""
        fence.tried(connection, transaction.known_xid, branch_id, resource)


class TccParticipant:
    """Confirms and cancels one action.

    Args:
        action: It.
        database: Where its fence is; None: it has none.
        instance: The object whose methods they are, for actions in classes.
    """

    def __init__(self, action: Action, database: Database | None, instance: Any = None) -> None:
        self.is_async = action.attempt.is_async
        self._action = action
        self._database = database
        self._instance = instance

    def settle(self, command: Command, branch: BranchCommand) -> Awaitable[None] | None:
        """See `Participant.settle`."""
        part = self._action.confirm if command.commit else self._action.cancel
        assert part is not None
        arguments = self._action.plan.decode(branch.arguments, part.carried)
        if part.bound_self:
            arguments["self"] = self._instance
        if self.is_async:
            return self._asettle(command, branch, part, arguments)
        self._settle(command, branch, part, arguments)
        return None

    def _settle(self, command: Command, branch: BranchCommand, part: TccSignature, arguments: dict[str, Any]) -> None:
        database = self._database
        if database is None:
            part.function(**arguments)
            return

        def work(connection: Connection) -> None:
            if not self._enter(connection, command, branch):
                return
            if part.database_type is None:
                part.function(**arguments)
            elif issubclass(part.database_type, Session):
                with Session(bind=connection) as session:
                    part.function(**arguments, **{part.database: session})
                    session.flush()
            else:
                part.function(**arguments, **{part.database: connection})

        Retrying(retry=retry_if_exception(self._transient), **_RETRY)(database.run, work)

    async def _asettle(self, command: Command, branch: BranchCommand, part: TccSignature, arguments: dict[str, Any]) -> None:
        database = self._database
        if database is None:
            await part.function(**arguments)
            return

        async def work(connection: AsyncConnection) -> None:
            if not await connection.run_sync(self._enter, command, branch):
                return
            if part.database_type is None:
                await part.function(**arguments)
            elif issubclass(part.database_type, AsyncSession):
                async with AsyncSession(bind=connection) as session:
                    await part.function(**arguments, **{part.database: session})
                    await session.flush()
            else:
                await part.function(**arguments, **{part.database: connection})

        await AsyncRetrying(retry=retry_if_exception(self._transient), **_RETRY)(database.arun_async, work)

    def _enter(self, connection: Connection, command: Command, branch: BranchCommand) -> bool:
        if command.commit:
            return fence.confirmed(connection, command.xid, branch.branch_id)
        return fence.cancelled(connection, command.xid, branch.branch_id, command.resource)

    def _transient(self, error: BaseException) -> bool:
        return isinstance(error, DBAPIError) and self._database is not None and self._database.dialect.transient(error)
