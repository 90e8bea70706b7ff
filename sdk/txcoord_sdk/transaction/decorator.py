"""`@global_transaction` and `with global_transaction(...)`, synchronous and asynchronous."""

from __future__ import annotations

import functools
import inspect
import string
from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from txcoord_proto.errors import ConfigurationError, NoTransactionError, TransactionExistsError

from txcoord_sdk.context import current, enter, leave
from txcoord_sdk.transaction.effects import Steps, adrive, drive
from txcoord_sdk.transaction.options import Hooks, Options, Propagation
from txcoord_sdk.transaction.template import end_with_commit, end_with_rollback, run_steps
from txcoord_sdk.transaction.transaction import GlobalTransaction

P = ParamSpec("P")
R = TypeVar("R")


class Beginner(Protocol):
    """What makes transactions: a client."""

    def new_transaction(self, name: str, timeout: float, key: str, first_begun_at: int) -> GlobalTransaction:
        """A transaction that this process decides."""


class Scope:
    """A function's or block's part in global transactions; what `global_transaction(...)` returns.

    As a decorator it may be used for many calls at once; as a block (`with`, `async with`) once.
    """

    def __init__(self, options: Options, client: Callable[[], Beginner]) -> None:
        self.options = options
        self._client = client
        self._transaction: GlobalTransaction | None = None
        self._token: Token[GlobalTransaction | None] | None = None

    # ------------------------------------------------------------ decorator

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate `function`; its signature stays."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(f"{function.__qualname__} is a generator: a global transaction ends when a function returns")
        name = self.options.name or function.__qualname__
        signature = inspect.signature(function)
        self._check_key(signature, function.__qualname__)

        def steps(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Steps[Any]:
            key = self._key(signature, args, kwargs)
            client = self._client()
            return run_steps(
                self.options,
                lambda first: client.new_transaction(name, self.options.timeout, key, first),
                lambda: function(*args, **kwargs),
            )

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def arun(*args: Any, **kwargs: Any) -> Any:
                return await adrive(steps(args, kwargs))

            return arun  # type: ignore[return-value]

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            return drive(steps(args, kwargs))

        return run

    def _check_key(self, signature: inspect.Signature, name: str) -> None:
        for _, field, _, _ in string.Formatter().parse(self.options.key):
            if field is not None and field.split(".")[0].split("[")[0] not in signature.parameters:
                raise ConfigurationError(f"key={self.options.key!r}: {name} has no parameter {field!r}")

    def _key(self, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if not self.options.key:
            return ""
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self.options.key.format(**bound.arguments)

    # ------------------------------------------------------------ block

    def __enter__(self) -> GlobalTransaction | None:
        return self._enter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._leave():
            drive(self._end_steps(error))

    async def __aenter__(self) -> GlobalTransaction | None:
        return self._enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._leave():
            await adrive(self._end_steps(error))

    def _enter(self) -> GlobalTransaction | None:
        if self._token is not None:
            raise ConfigurationError("a block of global_transaction(...) is used once: make a new one for each `with`")
        options, existing = self.options, current()
        joins = options.propagation in (Propagation.REQUIRED, Propagation.SUPPORTS, Propagation.MANDATORY)
        if options.propagation is Propagation.MANDATORY and existing is None:
            raise NoTransactionError("this block needs a global transaction (propagation MANDATORY): run it in one")
        if options.propagation is Propagation.NEVER and existing is not None:
            raise TransactionExistsError(f"this block must not run in a global transaction (propagation NEVER): {existing!r}")
        inner = existing if joins else None
        if inner is None and options.propagation in (Propagation.REQUIRED, Propagation.REQUIRES_NEW):
            if options.retries:
                raise ConfigurationError("a block cannot be run again: use retries with the decorator")
            inner = self._client().new_transaction(options.name or "block", options.timeout, options.key, 0)
            self._transaction = inner
        self._token = enter(inner)
        return inner

    def _leave(self) -> bool:
        """Out of the context; True when this block has a transaction to end."""
        assert self._token is not None
        leave(self._token)
        return self._transaction is not None

    def _end_steps(self, error: BaseException | None) -> Steps[None]:
        transaction = self._transaction
        assert transaction is not None
        if transaction.status is not transaction.status.ACTIVE:
            return  # ended by hand, in the block
        if error is None or not self.options.rolls_back(error):
            yield from end_with_commit(self.options, transaction)
        else:
            yield from end_with_rollback(self.options, transaction, repr(error))


class Suspended:
    """A block outside the current global transaction, which goes on after it."""

    def __enter__(self) -> None:
        self._token = enter(None)

    def __exit__(self, *_: object) -> None:
        leave(self._token)


def suspend() -> Suspended:
    """Set the current global transaction aside for the length of a `with` block."""
    return Suspended()


class GlobalTransactionFactory:
    """What `global_transaction` is: a callable that makes scopes."""

    def __init__(self, client: Callable[[], Beginner]) -> None:
        self._client = client

    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def __call__(
        self,
        /,
        *,
        name: str = "",
        timeout: float = 60.0,
        key: str = "",
        propagation: Propagation = Propagation.REQUIRED,
        rollback_for: tuple[type[BaseException], ...] = (),
        no_rollback_for: tuple[type[BaseException], ...] = (),
        retries: int = 0,
        hooks: Hooks | None = None,
    ) -> Scope: ...

    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str = "",
        timeout: float = 60.0,
        key: str = "",
        propagation: Propagation = Propagation.REQUIRED,
        rollback_for: tuple[type[BaseException], ...] = (),
        no_rollback_for: tuple[type[BaseException], ...] = (),
        retries: int = 0,
        hooks: Hooks | None = None,
    ) -> Any:
        """Make a function, or a block, a global transaction.

        Works on `def` and `async def` and keeps the signature. Returning commits, an exception rolls back; the function runs
        again from its beginning where `retries` say so.

        Args:
            function: When used without parentheses.
            name: For people; the function's name unless given.
            timeout: Seconds until the coordinator rolls it back unless it is decided.
            key: Business key; in a decorator a format string over the arguments, such as `order:{order_id}`.
            propagation: What happens where a global transaction exists already; see `Propagation`.
            rollback_for: Exceptions that roll back although a base class of theirs is in `no_rollback_for`.
            no_rollback_for: Exceptions after which it commits all the same.
            retries: How often the function runs again after an error that is retryable.
            hooks: Called around its end; see `Hooks`.

        Raises:
            RolledBackError: From the call: it was rolled back instead of committed; the reason is in it.
            OutcomeUnknownError: From the call: no coordinator answered; it will be finished, ask for its status by XID.
            ConfigurationError: An option is outside its range.
        """
        options = Options(name, timeout, key, propagation, rollback_for, no_rollback_for, retries, hooks or Hooks())
        scope = Scope(options, self._client)
        return scope if function is None else scope(function)
