"""How a function or block takes part in global transactions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypedDict

from txcoord_proto.errors import ConfigurationError, NoTransactionError, TransactionExistsError
from txcoord_proto.status import Wait

from txcoord_sdk.transaction.isolation import isolation_of
from txcoord_sdk.transaction.transaction import GlobalTransaction

_WAITS = {"settled": Wait.SETTLED, "decided": Wait.DECIDED}


class Propagation(StrEnum):
    """What happens where a global transaction exists already, and where none does."""

    REQUIRED = "REQUIRED"
    """Join it; else begin one."""
    REQUIRES_NEW = "REQUIRES_NEW"
    """Set it aside and begin another."""
    SUPPORTS = "SUPPORTS"
    """Join it; else run without."""
    NOT_SUPPORTED = "NOT_SUPPORTED"
    """Set it aside and run without."""
    MANDATORY = "MANDATORY"
    """Join it; else `NoTransactionError`."""
    NEVER = "NEVER"
    """`TransactionExistsError`; else run without."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called in the initiator around the end of its transaction, with the transaction; what they raise is logged, not passed on.

    They may be coroutine functions where the function is one, or the block an `async with`. Only the first runs within the
    transaction.

    Attributes:
        before_commit: Before commit is asked for.
        after_commit: When commit is decided.
        after_rollback: When rollback is decided.
        after_completion: Last, whatever the end, also when it is not known.
    """

    before_commit: Callable[[GlobalTransaction], object] | None = None
    after_commit: Callable[[GlobalTransaction], object] | None = None
    after_rollback: Callable[[GlobalTransaction], object] | None = None
    after_completion: Callable[[GlobalTransaction], object] | None = None


class ScopeOptions(TypedDict, total=False):
    """Options of `global_transaction` besides `propagation`."""

    name: str
    """For people; the function's name unless given."""
    timeout: float
    """Seconds until the coordinator rolls it back unless it is decided; 60 unless given."""
    key: str
    """Business key; in a decorator a format string over the arguments, such as `order:{order_id}`."""
    rollback_for: tuple[type[BaseException], ...]
    """Exceptions that roll back although a base class of theirs is in `no_rollback_for`."""
    no_rollback_for: tuple[type[BaseException], ...]
    """Exceptions after which it commits all the same, and raises them."""
    retries: int
    """How often the whole function runs again after an error that says it is retryable."""
    wait: Literal["settled", "decided"]
    """What a returned commit means. `settled`: confirms have run, for which it waits 5 s at most. `decided`: it is certain."""
    hooks: Hooks
    """Called around its end."""
    isolation: Literal["read_uncommitted", "read_committed", "serializable"]
    """What plain reads of engines in AT mode see of other global transactions, here and in services that are called."""


def wait_for(name: str) -> Wait:
    """What the name of a wait stands for.

    Raises:
        ConfigurationError: Nothing.
    """
    try:
        return _WAITS[name]
    except KeyError:
        raise ConfigurationError(f"wait={name!r}: 'settled' or 'decided'") from None


@dataclass(frozen=True, slots=True)
class Options:
    """Of one decorated function or block; see `ScopeOptions` and `Propagation`.

    Raises:
        ConfigurationError: An option is outside its range.
    """

    name: str = ""
    timeout: float = 60.0
    key: str = ""
    propagation: Propagation = Propagation.REQUIRED
    rollback_for: tuple[type[BaseException], ...] = ()
    no_rollback_for: tuple[type[BaseException], ...] = ()
    retries: int = 0
    wait: Literal["settled", "decided"] = "settled"
    hooks: Hooks = Hooks()
    isolation: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= 24 * 3600:
            raise ConfigurationError(f"timeout={self.timeout}: more than 0 and at most 86400 seconds are allowed")
        if self.retries < 0:
            raise ConfigurationError(f"retries={self.retries}: 0 or more")
        wait_for(self.wait)
        if self.isolation:
            isolation_of(self.isolation)

    def check_hooks(self, is_async: bool) -> None:
        """Refuse hooks that could not be awaited.

        Raises:
            ConfigurationError: One is a coroutine function, and this is synchronous.
        """
        hooks = (self.hooks.before_commit, self.hooks.after_commit, self.hooks.after_rollback, self.hooks.after_completion)
        if not is_async and any(inspect.iscoroutinefunction(hook) for hook in hooks):
            raise ConfigurationError("a hook of synchronous code cannot be a coroutine function: make it a plain function")

    def rolls_back(self, error: BaseException) -> bool:
        """Whether `error` rolls back: the rule for its nearest base class counts, and where there is none it does."""
        for kind in type(error).__mro__:
            if kind in self.rollback_for:
                return True
            if kind in self.no_rollback_for:
                return False
        return True

    @property
    def begins(self) -> bool:
        """Whether a transaction is begun where none is joined."""
        return self.propagation in (Propagation.REQUIRED, Propagation.REQUIRES_NEW)

    def joins(self, existing: GlobalTransaction | None) -> GlobalTransaction | None:
        """The transaction to join of those that exist; None: none.

        Raises:
            NoTransactionError: There must be one.
            TransactionExistsError: There must be none.
        """
        match self.propagation:
            case Propagation.MANDATORY if existing is None:
                raise NoTransactionError("this needs a global transaction (propagation MANDATORY): call it from one")
            case Propagation.NEVER if existing is not None:
                raise TransactionExistsError(f"this must not run in a global transaction (propagation NEVER): {existing!r}")
            case Propagation.REQUIRED | Propagation.SUPPORTS | Propagation.MANDATORY:
                return existing
        return None
