"""`@global_transaction` and `with global_transaction(...)`, synchronous and asynchronous."""

from __future__ import annotations

import functools
import inspect
import string
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Token
from types import TracebackType
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, Unpack, cast, overload

from txcoord_proto.errors import ConfigurationError

from txcoord_sdk.context import current, enter, entered, leave
from txcoord_sdk.transaction.effects import Steps, adrive, drive
from txcoord_sdk.transaction.isolation import Isolation, enter_level, leave_level
from txcoord_sdk.transaction.options import Options, Propagation, ScopeOptions
from txcoord_sdk.transaction.template import end_with_commit, end_with_rollback, run_steps
from txcoord_sdk.transaction.transaction import GlobalTransaction
from txcoord_sdk.transaction.unsaved import unsaved_session

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=GlobalTransaction | None)


class Beginner(Protocol):
    """What makes transactions: a client."""

    def new_transaction(self, name: str, timeout: float, key: str, first_begun_at: int) -> GlobalTransaction:
        """A transaction that this process decides."""


class Scope(Generic[T]):
    """A function's or block's part in global transactions; what `global_transaction(...)` returns.

    As a decorator it may be used for many calls at once; as a block (`with`, `async with`) once.
    """

    def __init__(self, options: Options, client: Callable[[], Beginner]) -> None:
        self.options = options
        self._client = client
        self._transaction: GlobalTransaction | None = None
        self._token: Token[GlobalTransaction | None] | None = None
        self._level: Token[Isolation | None] | None = None

    # ------------------------------------------------------------ decorator

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate `function`; its signature stays.

        Raises:
            ConfigurationError: It cannot be a global transaction, or an option does not fit it.
        """
        if isinstance(function, (classmethod, staticmethod)):
            raise ConfigurationError(f"put @{type(function).__name__} above @global_transaction, not below it")
        if not inspect.isroutine(function):
            raise ConfigurationError(f"{function!r} is no function: write one that calls it, and decorate that")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(f"{function.__qualname__} is a generator: a global transaction ends when a function returns")
        is_async = inspect.iscoroutinefunction(function)
        self.options.check_hooks(is_async)
        signature = _signature(function)
        key = BusinessKey(self.options.key, signature, function.__qualname__)
        options, name, timeout = self.options, self.options.name or function.__qualname__, self.options.timeout

        def steps(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Steps[Any]:
            return run_steps(
                options,
                lambda first: self._client().new_transaction(name, timeout, key.of(args, kwargs), first),
                lambda: function(*args, **kwargs),
                lambda: unsaved_session((*args, *kwargs.values())),
            )

        if is_async:

            @functools.wraps(function)
            async def run(*args: Any, **kwargs: Any) -> Any:
                return await adrive(steps(args, kwargs))

        else:

            @functools.wraps(function)
            def run(*args: Any, **kwargs: Any) -> Any:
                return drive(steps(args, kwargs))

        run.__signature__ = signature  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]  # what R is depends on the function's kind

    # ------------------------------------------------------------ block

    def __enter__(self) -> T:
        self.options.check_hooks(is_async=False)
        return self._enter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if (transaction := self._leave()) is not None:
            drive(self._end_steps(transaction, error))

    async def __aenter__(self) -> T:
        return self._enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if (transaction := self._leave()) is not None:
            await adrive(self._end_steps(transaction, error))

    def _enter(self) -> T:
        if self._token is not None:
            raise ConfigurationError("a block of global_transaction(...) is used once: make a new one for each `with`")
        options = self.options
        if options.retries:
            raise ConfigurationError("a block cannot be run again: use retries with the decorator")
        inner = options.joins(current())
        if inner is None and options.begins:
            inner = self._client().new_transaction(options.name or "block", options.timeout, options.key, 0)
            inner.isolation = options.isolation
            self._transaction = inner
        self._token = enter(inner)
        self._level = enter_level(options.isolation)
        return cast(T, inner)

    def _leave(self) -> GlobalTransaction | None:
        """Out of the context; the transaction that this block has to end."""
        assert self._token is not None
        leave_level(self._level)
        leave(self._token)
        return self._transaction

    def _end_steps(self, transaction: GlobalTransaction, error: BaseException | None) -> Steps[None]:
        if error is None or not self.options.rolls_back(error):
            yield from end_with_commit(self.options, transaction, lambda: "")
        else:
            yield from end_with_rollback(self.options, transaction, repr(error))


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """Its signature, with annotations that are text evaluated where that can be done.

    Frameworks look for the names in such text where the outermost function was defined, which is here.
    """
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:
        return inspect.signature(function)


class BusinessKey:
    """A format string over a function's arguments.

    Args:
        template: `order:{order_id}`; empty: no key.
        signature: Of the function.
        name: Of the function.

    Raises:
        ConfigurationError: It names a parameter that does not exist.
    """

    def __init__(self, template: str, signature: inspect.Signature, name: str) -> None:
        self._template = template
        self._signature = signature
        for _, field, _, _ in string.Formatter().parse(template):
            if field is not None and field.split(".")[0].split("[")[0] not in signature.parameters:
                raise ConfigurationError(f"key={template!r}: {name} has no parameter {field!r}")

    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The key of one call."""
        if not self._template:
            return ""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self._template.format(**bound.arguments)


def suspend() -> AbstractContextManager[None]:
    """Set the current global transaction aside for the length of a `with` block."""
    return entered(None)


def resume(transaction: GlobalTransaction) -> AbstractContextManager[None]:
    """Work for `transaction` for the length of a `with` block: in a thread that was started by hand, or within `suspend()`.

    Threads do not inherit the current transaction; tasks and `asyncio.to_thread` do.
    """
    return entered(transaction)


_Always: TypeAlias = Literal[Propagation.REQUIRED, Propagation.REQUIRES_NEW, Propagation.MANDATORY]
"""There is a transaction in such a block, always."""


class GlobalTransactionFactory:
    """What `global_transaction` is: a callable that makes scopes."""

    def __init__(self, client: Callable[[], Beginner]) -> None:
        self._client = client

    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def __call__(self, /, *, propagation: _Always = ..., **options: Unpack[ScopeOptions]) -> Scope[GlobalTransaction]: ...

    @overload
    def __call__(self, /, *, propagation: Propagation, **options: Unpack[ScopeOptions]) -> Scope[GlobalTransaction | None]: ...

    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        propagation: Propagation = Propagation.REQUIRED,
        **options: Unpack[ScopeOptions],
    ) -> Any:
        """Make a function, or a block, a global transaction.

        Works on `def` and `async def` and keeps the signature. Returning commits, an exception rolls back; the function runs
        again from its beginning where `retries` say so.

        Args:
            function: When used without parentheses.
            propagation: What happens where a global transaction exists already; see `Propagation`.
            options: name, timeout, key, rollback_for, no_rollback_for, retries, wait, hooks, isolation; see `ScopeOptions`.

        Raises:
            RolledBackError: From the call: it was rolled back instead of committed; the reason is in it.
            OutcomeUnknownError: From the call: no coordinator answered; it will be finished, ask for its status by XID.
            ConfigurationError: An option is outside its range.
        """
        scope: Scope[Any] = Scope(Options(propagation=propagation, **options), self._client)
        return scope if function is None else scope(function)
