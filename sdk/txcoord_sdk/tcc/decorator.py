"""`@tcc("stock.reserve")`, `.confirm`, `.cancel`: they check and register, and do nothing else."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session
from txcoord_proto.errors import ConfigurationError

from txcoord_sdk.client import Client, default_client
from txcoord_sdk.tcc.action import Action, Fence
from txcoord_sdk.tcc.first_phase import AsyncFirstPhase, Call, SyncFirstPhase
from txcoord_sdk.tcc.registry import announce
from txcoord_sdk.transaction.effects import adrive, drive

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
D = TypeVar("D", bound=Connection | Session | AsyncConnection | AsyncSession)
F = TypeVar("F", bound=Callable[..., Any])

_NAME = re.compile(r"[\w.-]{1,80}", re.ASCII)
_SYNC, _ASYNC = SyncFirstPhase(), AsyncFirstPhase()


class Try(Generic[P, R_co]):
    """A decorated try: call it like the function that it is, and give it its confirm and cancel.

    The function itself is its `__wrapped__`.
    """

    def __init__(self, action: Action, client: Client | None) -> None:
        self.action = action
        self._client = client
        functools.update_wrapper(self, action.attempt.function)

    def confirm(self, function: F) -> F:
        """Make `function` its confirm: it gets those of the try's arguments that it has parameters for, by name.

        Raises:
            ConfigurationError: It has one already, or its parameters do not fit.
        """
        self.action.take("confirm", function)
        self._announce_if_complete()
        return function

    def cancel(self, function: F) -> F:
        """Make `function` its cancel: it undoes what the try did.

        Without a fence it may be called more than once, and although the try never ran.

        Raises:
            ConfigurationError: It has one already, or its parameters do not fit.
        """
        self.action.take("cancel", function)
        self._announce_if_complete()
        return function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Try: register a branch with the current global transaction and run the function.

        Raises:
            NoTransactionError: There is no global transaction.
            InvalidArgumentError: An argument cannot be carried to confirm and cancel.
            HangingTryError: The transaction was rolled back before the try arrived.
            Exception: What the function raised.
        """
        result: R_co = self._run(None, args, kwargs)
        return result

    def __get__(self, instance: Any, owner: type) -> Any:
        """As a method: bound to its object."""
        return self if instance is None else functools.partial(self._bound, instance)

    def _bound(self, instance: Any, *args: Any, **kwargs: Any) -> Any:
        return self._run(instance, args, kwargs)

    def _run(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        attempt = self.action.attempt
        arguments, given = attempt.bind(args, kwargs)
        call = Call(self._client or default_client(), self.action, instance, arguments, given)
        if attempt.is_async:
            return adrive(call.steps(_ASYNC))
        return drive(call.steps(_SYNC))

    def _announce_if_complete(self) -> None:
        action = self.action
        if action.confirm is not None and action.cancel is not None and not action.attempt.is_method:
            announce(action, self._client)


class DatabaseTry(Try[P, R_co], Generic[D, P, R_co]):
    """A try whose first parameter is the database, for type checkers: it may be left out."""

    @overload
    def __call__(self, database: D, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]  # accepts what both forms do
        """See `Try.__call__`."""
        return self._run(None, args, kwargs)


class TccDecorator:
    """What `tcc` returns: makes a function a try."""

    def __init__(self, name: str, fence: Fence, database: str, client: Client | None) -> None:
        self._name = name
        self._fence = fence
        self._database = database
        self._client = client

    @overload
    def __call__(self, function: Callable[Concatenate[D, P], R_co]) -> DatabaseTry[D, P, R_co]: ...
    @overload
    def __call__(self, function: Callable[P, R_co]) -> Try[P, R_co]: ...
    def __call__(self, function: Callable[..., Any]) -> Try[..., Any]:
        """Make `function` a try.

        Raises:
            ConfigurationError: It cannot be one, or a parameter cannot be carried.
        """
        action = Action(self._name, function, self._fence, self._database)
        kind = DatabaseTry[Any, Any, Any] if action.attempt.database else Try[Any, Any]
        return kind(action, self._client)


def tcc(name: str, *, fence: Fence = "auto", database: str = "", client: Client | None = None) -> TccDecorator:
    """Make a function the try of a TCC action.

    The parameter annotated Connection or Session of SQLAlchemy (or AsyncConnection, AsyncSession) is the database: the caller may
    pass his own, and the fence joins its local transaction, or leave it out, and one is opened and committed. The other arguments
    reach confirm and cancel by name.

    Args:
        name: Of the action, unique in the service: `stock.reserve`. Its resource is `service:stock.reserve@database-id`, with `-`
            in place of the id where it uses no database.
        fence: `row`: the fence stands in the try's local transaction (what `auto` means for a try with a database parameter).
            `intent`: its row is committed before the try runs, for effects outside the database: cancel is then called although
            the try may have failed half-way. None: no fence (what `auto` means without a database parameter): confirm and cancel
            must bear being repeated, and cancel being called without a try.
        database: Which of the client's databases, where several are bound.
        client: Another client than the one that `connect` made last.

    Raises:
        ConfigurationError: The name is not one.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r}: an action's name has 1 to 80 letters, digits, '.', '_' and '-'")
    if fence not in ("auto", "row", "intent", None):
        raise ConfigurationError(f"fence={fence!r}: 'row', 'intent' or None")
    return TccDecorator(name, fence, database, client)


def serve_object(instance: Any, *, client: Client | None = None) -> None:
    """Have an object's TCC methods confirm and cancel on it; call it once per process for each class with actions.

    Raises:
        ConfigurationError: Its class has no actions, or one of them lacks a part.
    """
    members = {name: member for kind in reversed(type(instance).__mro__) for name, member in vars(kind).items()}
    actions = [member for member in members.values() if isinstance(member, Try)]
    if not actions:
        raise ConfigurationError(f"{type(instance).__qualname__} has no methods decorated with @tcc")
    for member in actions:
        announce(member.action, client or member._client, instance)
