"""`@tcc("stock.reserve")`, `.confirm`, `.cancel`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session
from txcoord_proto.errors import ConfigurationError
from txcoord_proto.status import PhaseOne

from txcoord_sdk.client import Client, default_client
from txcoord_sdk.database import Database
from txcoord_sdk.tcc.action import Action, BranchEnlistment, Fence
from txcoord_sdk.tcc.registry import announce
from txcoord_sdk.transaction.transaction import GlobalTransaction

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class Try(Generic[P, R]):
    """A decorated try: call it like the function that it is, and give it its confirm and cancel."""

    def __init__(self, action: Action, client: Client | None) -> None:
        self.action = action
        self._client = client
        self._instance: Any = None
        self._run = self._arun if action.attempt.is_async else self._run_sync
        functools.update_wrapper(self, action.attempt.function)

    def confirm(self, function: F) -> F:
        """Make `function` its confirm: by name it gets those of the try's arguments that it has parameters for."""
        self.action.take("confirm", function)
        self._announce_if_complete()
        return function

    def cancel(self, function: F) -> F:
        """Make `function` its cancel: it undoes what the try did; it may be called although the try never ran where there is no fence."""
        self.action.take("cancel", function)
        self._announce_if_complete()
        return function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Try: register a branch with the current global transaction and run the function."""
        result: R = self._run(self._instance, args, kwargs)  # type: ignore[assignment]
        return result

    def __get__(self, instance: Any, owner: type) -> Any:
        """As a method: bound to its object."""
        if instance is None:
            return self
        return functools.partial(self._run_bound, instance)

    def _run_bound(self, instance: Any, *args: Any, **kwargs: Any) -> Any:
        return self._run(instance, args, kwargs)

    # ------------------------------------------------------------ inside

    @property
    def client(self) -> Client:
        """The client that it registers through."""
        return self._client or default_client()

    def _announce_if_complete(self) -> None:
        if self.action.confirm is not None and self.action.cancel is not None and not self.action.attempt.bound_self:
            announce(self.action, self._client)

    def _arguments(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The carried arguments by name, and the caller's database if he passed one."""
        self.action.check_complete()
        attempt = self.action.attempt
        bound = inspect.signature(attempt.function).bind_partial(*((instance, *args) if attempt.bound_self else args), **kwargs)
        bound.apply_defaults()
        values = dict(bound.arguments)
        values.pop("self", None)
        given = values.pop(attempt.database, None) if attempt.database else None
        missing = attempt.carried.keys() - values.keys()
        if missing:
            raise TypeError(f"{self.action.name}: missing arguments {sorted(missing)}")
        return values, given

    def _database(self) -> Database | None:
        return self.client.databases.get(self.action.database_name) if self.action.fenced else None

    def _check_same(self, connection: Connection, database: Database) -> None:
        if connection.engine.pool is not database.sync_engine.pool:
            raise ConfigurationError(
                f"{self.action.name} was given a session of another database ({connection.engine.url!r}) than the one that the client is "
                f"bound to ({database.sync_engine.url!r}): its fence must be where its effects are"
            )

    def _run_sync(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values, given = self._arguments(instance, args, kwargs)
        action, transaction, database = self.action, self.action.transaction(), self._database()
        call = self._caller(instance, values)
        database_id = database.prepare() if database is not None else ""
        registration = action.registration(self.client.service, database_id, values)
        branch_id = transaction.register(registration)
        if database is None or not action.attempt.database:
            if database is not None:
                database.run(lambda c: action.record_intent(c, transaction, branch_id, registration.resource))
            return _outside(transaction, branch_id, call)
        if given is not None:
            connection = given.connection() if isinstance(given, Session) else given
            self._check_same(connection, database)
            return _within(action.open(connection, transaction, branch_id, registration.resource), lambda: call(given))
        kind = action.attempt.database_type
        with database.sync_engine.connect() as connection, connection.begin():
            enlistment = action.open(connection, transaction, branch_id, registration.resource)
            if kind is not None and issubclass(kind, Session):
                with Session(bind=connection) as session:

                    def flushed() -> Any:
                        result = call(session)
                        session.flush()
                        return result

                    return _within(enlistment, flushed)
            return _within(enlistment, lambda: call(connection))

    async def _arun(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values, given = self._arguments(instance, args, kwargs)
        action, transaction, database = self.action, self.action.transaction(), self._database()
        call = self._caller(instance, values)
        database_id = await database.aprepare() if database is not None else ""
        registration = action.registration(self.client.service, database_id, values)
        branch_id = await transaction.aregister(registration)
        resource = registration.resource
        if database is None or not action.attempt.database:
            if database is not None:
                await database.arun(lambda c: action.record_intent(c, transaction, branch_id, resource))
            return await _aoutside(transaction, branch_id, call)
        if given is not None:
            connection = await given.connection() if isinstance(given, AsyncSession) else given
            assert isinstance(connection, AsyncConnection)
            assert connection.sync_connection is not None
            self._check_same(connection.sync_connection, database)
            enlistment = await connection.run_sync(action.open, transaction, branch_id, resource)
            return await _awithin(enlistment, lambda: call(given))
        kind = action.attempt.database_type
        async with database.engine.connect() as own, own.begin():  # type: ignore[union-attr]
            enlistment = await own.run_sync(action.open, transaction, branch_id, resource)
            if kind is not None and issubclass(kind, AsyncSession):
                async with AsyncSession(bind=own) as session:

                    async def flushed() -> Any:
                        result = await call(session)
                        await session.flush()
                        return result

                    return await _awithin(enlistment, flushed)
            return await _awithin(enlistment, lambda: call(own))

    def _caller(self, instance: Any, values: dict[str, Any]) -> Callable[..., Any]:
        attempt = self.action.attempt

        def call(database: Any = None) -> Any:
            arguments = dict(values)
            if attempt.bound_self:
                arguments["self"] = instance
            if attempt.database:
                arguments[attempt.database] = database
            return attempt.function(**arguments)

        return call


def _within(enlistment: BranchEnlistment, call: Callable[[], Any]) -> Any:
    """Run a try inside its local transaction; where it fails, that must not be committed."""
    try:
        return call()
    except BaseException as error:
        enlistment.failure = error
        raise


async def _awithin(enlistment: BranchEnlistment, call: Callable[[], Any]) -> Any:
    try:
        return await call()
    except BaseException as error:
        enlistment.failure = error
        raise


def _outside(transaction: GlobalTransaction, branch_id: int, call: Callable[[], Any]) -> Any:
    """Run a try whose effects are outside a fenced local transaction: where it fails, they are not known."""
    try:
        result = call()
    except BaseException as error:
        transaction.report(branch_id, PhaseOne.UNKNOWN, repr(error))
        raise
    transaction.report(branch_id, PhaseOne.DONE)
    return result


async def _aoutside(transaction: GlobalTransaction, branch_id: int, call: Callable[[], Any]) -> Any:
    try:
        result = await call()
    except BaseException as error:
        transaction.report(branch_id, PhaseOne.UNKNOWN, repr(error))
        raise
    transaction.report(branch_id, PhaseOne.DONE)
    return result


def tcc(
    name: str, *, fence: Fence = "row", database: str = "", client: Client | None = None
) -> Callable[[Callable[P, R]], Try[P, R]]:
    """Make a function the try of a TCC action.

    The parameter annotated Connection or Session of SQLAlchemy (or AsyncConnection, AsyncSession) is the database: the caller may pass
    his own, and the fence joins its local transaction, or leave it out, and one is opened and committed. The other arguments reach
    confirm and cancel by name.

    Args:
        name: Of the action, unique in the service: `stock.reserve`.
        fence: `row`: the fence is written with the try's local transaction. `intent`: for a try whose effects are outside the database;
            its row is committed first, and cancel is always called.
        database: Which of the client's databases, where several are bound.
        client: Another client than the one that `connect` made last.

    Raises:
        ConfigurationError: When applied: the function cannot be a try, or a parameter cannot be carried.
    """
    if not name or len(name) > 80 or not all(c.isalnum() or c in "._-" for c in name):
        raise ConfigurationError(f"{name!r}: an action's name has 1 to 80 letters, digits, '.', '_' and '-'")
    if fence not in ("row", "intent"):
        raise ConfigurationError(f"fence={fence!r}: 'row' or 'intent'")

    def decorate(function: Callable[P, R]) -> Try[P, R]:
        return Try(Action(name, function, fence, database), client)

    return decorate


def serve_object(instance: Any, *, client: Client | None = None) -> None:
    """Have an object's TCC methods confirm and cancel on it; call it once per process for each class with actions."""
    for member in vars(type(instance)).values():
        if isinstance(member, Try):
            announce(member.action, client or member._client, instance)
