"""Phase one: register the branch, write the fence row, run the try, report.

The logic is one generator of effects for both worlds; `SyncFirstPhase` and `AsyncFirstPhase` say how each of them does the few
things that differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from txcoord_proto.errors import ConfigurationError, DeadlinePassedError, NoTransactionError
from txcoord_proto.failpoints import durable
from txcoord_proto.status import BranchType, PhaseOne

from txcoord_sdk.client import Client
from txcoord_sdk.context import current
from txcoord_sdk.database import Database
from txcoord_sdk.fence import fence
from txcoord_sdk.fence.retention import boot_time
from txcoord_sdk.local_transaction import check_can_enlist, check_holds_together, enlist, limit
from txcoord_sdk.sealed_transaction import AsyncSealedTransaction, SealedTransaction
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.tcc.action import Action
from txcoord_sdk.tcc.branch import TccBranch, within
from txcoord_sdk.tcc.enlistment import BranchEnlistment, IntentEnlistment
from txcoord_sdk.tcc.retries import again_after_transient_errors
from txcoord_sdk.transaction.effects import Invoke, Steps
from txcoord_sdk.transaction.transaction import GlobalTransaction

Work: TypeAlias = Callable[[Connection], Any]


class FirstPhase(Protocol):
    """How one world does what differs; each result may be awaitable."""

    def prepare(self, database: Database) -> Any:
        """Get the database ready; gives its identity."""

    def apart(self, database: Database, work: Work) -> Any:
        """Run `work` in a local transaction of its own, committed at once."""

    def on(self, given: Any, work: Work, database: Database) -> Any:
        """Run `work` on the caller's connection or session."""

    def open(self, database: Database, work: Work) -> Any:
        """A local transaction of the SDK's in which `work` has run."""

    def call_in(self, local: Any, call: Call) -> Any:
        """Call the try in it."""


class Call:
    """One call of a try.

    Args:
        client: Whose service and databases.
        action: It.
        instance: The object, where it is a method.
        arguments: What is carried.
        given: The caller's connection or session, None: the SDK opens one.
    """

    def __init__(self, client: Client, action: Action, instance: Any, arguments: dict[str, Any], given: Any) -> None:
        self.client = client
        self.action = action
        self.instance = instance
        self.arguments = arguments
        self.given = given
        self._asked_at = 0.0
        """`boot_time` at which its registration was asked for: it is not younger than that."""

    def steps(self, phase: FirstPhase) -> Steps[Any]:
        """Phase one, from registration to report.

        Raises:
            NoTransactionError: There is no global transaction.
            DeadlinePassedError: Its deadline has passed, maybe while the try waited for a lock.
            HangingTryError: It was cancelled before this try arrived.
            Exception: What the try raised.
        """
        action = self.action
        action.parts  # noqa: B018 - refuses an action that lacks one
        transaction = current()
        if transaction is None:
            raise NoTransactionError(
                f"{action.name} is the try of a TCC action and has no global transaction to belong to: call it within "
                "@global_transaction, or in a request that carries a txcoord-xid header (through the ASGI or WSGI middleware); "
                "the plain function is its __wrapped__"
            )
        encoded = action.plan.encode(self.arguments)
        database = self.client.databases.get(action.database_name) if action.uses_database else None
        database_id = ""
        if database is not None:
            action.check_engine(database.is_async)
            database_id = database.id or (yield Invoke(lambda: phase.prepare(database)))
        resource = action.resource(self.client.service, database_id)
        registration = Registration(BranchType.TCC, resource, arguments=encoded)
        self._asked_at = boot_time()
        branch_id = yield from transaction.register_steps(registration)
        branch = TccBranch(transaction.known_xid, branch_id, resource)
        if database is None:
            return (yield from self._outside(transaction, branch))
        if action.fence == "intent":
            yield from self._record_intent(phase, database, transaction, branch)
            if not action.attempt.database:
                return (yield from self._outside(transaction, branch))
        if self.given is not None:
            return (yield from self._joined(phase, database, transaction, branch))
        return (yield from self._own(phase, database, transaction, branch))

    def _outside(self, transaction: GlobalTransaction, branch: TccBranch) -> Steps[Any]:
        """Effects that no local transaction holds: where the try fails, they are not known."""
        try:
            with within(branch):
                result = yield Invoke(lambda: self.action.attempt.call(self.instance, self.arguments))
        except BaseException as error:
            transaction.report(branch.branch_id, PhaseOne.UNKNOWN, repr(error))
            raise
        transaction.report(branch.branch_id, PhaseOne.DONE)
        return result

    @durable("tcc.intent")
    def _record_intent(
        self, phase: FirstPhase, database: Database, transaction: GlobalTransaction, branch: TccBranch
    ) -> Steps[None]:
        intent = IntentEnlistment()

        def work(connection: Connection) -> None:
            fence.tried(connection, branch.xid, branch.branch_id, branch.resource)
            enlist(connection, intent)

        try:
            yield Invoke(lambda: phase.apart(database, work))
        except BaseException as error:  # the try has not begun, but its row may be there
            transaction.report(branch.branch_id, intent.failed_as, repr(error))
            raise

    def _joined(self, phase: FirstPhase, database: Database, transaction: GlobalTransaction, branch: TccBranch) -> Steps[Any]:
        """In the caller's local transaction, which reports when he ends it."""
        enlisted: list[BranchEnlistment] = []
        try:
            yield Invoke(lambda: phase.on(self.given, self._opening(database, transaction, branch, enlisted), database))
            with within(branch):
                return (yield Invoke(lambda: self.action.attempt.call(self.instance, self.arguments, self.given)))
        except BaseException as error:
            self._fail(transaction, branch, enlisted, error)
            raise

    @durable("tcc.try")
    def _own(self, phase: FirstPhase, database: Database, transaction: GlobalTransaction, branch: TccBranch) -> Steps[Any]:
        """In a local transaction of the SDK's, on the application's engine."""
        enlisted: list[BranchEnlistment] = []
        local: Any = None
        try:
            opening = self._opening(database, transaction, branch, enlisted)
            local = yield from again_after_transient_errors(database, lambda: _opened(phase, database, opening))
            with within(branch):
                result = yield Invoke(lambda: phase.call_in(local, self))
            yield Invoke(local.commit)
        except BaseException as error:
            self._fail(transaction, branch, enlisted, error)
            raise
        finally:
            if local is not None:
                yield Invoke(local.close)
        return result

    def _opening(
        self, database: Database, transaction: GlobalTransaction, branch: TccBranch, enlisted: list[BranchEnlistment]
    ) -> Work:
        """Write the branch's row before any of its effects, then enlist it."""
        has_row = self.action.fence == "row"
        too_old = self._asked_at + database.fence_retention / 2  # the answer may have waited for us longer than any guard

        def work(connection: Connection) -> None:
            if connection.engine.dialect is not database.sync_engine.dialect:
                raise ConfigurationError(
                    f"{self.action.name} was given a session of another database ({connection.engine.url!r}) than the one that "
                    f"the client is bound to ({database.sync_engine.url!r}): its fence must be where its effects are"
                )
            check_can_enlist(connection)
            if has_row:
                fence.tried(connection, branch.xid, branch.branch_id, branch.resource, transaction.deadline)
                check_holds_together(connection)
            else:
                limit(connection, transaction.deadline)
            enlistment = BranchEnlistment(transaction, branch, connection, has_row, too_old)
            enlist(connection, enlistment)
            enlisted.append(enlistment)

        return work

    @staticmethod
    def _fail(transaction: GlobalTransaction, branch: TccBranch, enlisted: list[BranchEnlistment], error: BaseException) -> None:
        if enlisted:
            enlisted[0].failure = error  # its local transaction reports
        else:
            transaction.report(branch.branch_id, PhaseOne.FAILED, repr(error))
        if isinstance(error, DBAPIError):
            try:
                transaction.check_deadline()
            except DeadlinePassedError as late:  # the database did as it was told, each in its own words
                raise late from error


class SyncFirstPhase:
    """Synchronous code."""

    def prepare(self, database: Database) -> str:
        """See `FirstPhase.prepare`."""
        return database.prepare()

    def apart(self, database: Database, work: Work) -> None:
        """See `FirstPhase.apart`."""
        database.run(work)

    def on(self, given: Any, work: Work, database: Database) -> None:
        """See `FirstPhase.on`."""
        work(_connection_of(given, database))

    def open(self, database: Database, work: Work) -> SealedTransaction:
        """See `FirstPhase.open`."""
        local = SealedTransaction(database.sync_engine)
        try:
            local.start(work)
        except BaseException:
            local.close()
            raise
        return local

    def call_in(self, local: SealedTransaction, call: Call) -> Any:
        """See `FirstPhase.call_in`."""
        return local.run(lambda c: call.action.attempt.call_on(c, call.instance, call.arguments))


class AsyncFirstPhase:
    """Coroutines."""

    def prepare(self, database: Database) -> Any:
        """See `FirstPhase.prepare`."""
        return database.aprepare()

    def apart(self, database: Database, work: Work) -> Any:
        """See `FirstPhase.apart`."""
        return database.arun(work)

    def on(self, given: Any, work: Work, database: Database) -> Any:
        """See `FirstPhase.on`."""
        if isinstance(given, AsyncSession):
            return given.run_sync(lambda session: work(_connection_of(session, database)))
        return given.run_sync(work)

    async def open(self, database: Database, work: Work) -> AsyncSealedTransaction:
        """See `FirstPhase.open`."""
        engine = database.engine
        assert isinstance(engine, AsyncEngine)
        local = AsyncSealedTransaction(engine)
        try:
            await local.start(work)
        except BaseException:
            await local.close()
            raise
        return local

    def call_in(self, local: AsyncSealedTransaction, call: Call) -> Any:
        """See `FirstPhase.call_in`."""
        assert local.connection is not None
        return call.action.attempt.acall_on(local.connection, call.instance, call.arguments)


def _opened(phase: FirstPhase, database: Database, work: Work) -> Steps[Any]:
    return (yield Invoke(lambda: phase.open(database, work)))


def _connection_of(given: Connection | Session, database: Database) -> Connection:
    if isinstance(given, Connection):
        return given
    try:
        return given.connection()
    except UnboundExecutionError:  # a session that finds its engine by mapper
        return given.connection(bind_arguments={"bind": database.sync_engine})
