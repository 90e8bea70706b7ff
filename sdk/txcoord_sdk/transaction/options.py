"""How a function or block takes part in global transactions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from txcoord_proto.errors import ConfigurationError


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

    Attributes:
        before_commit: Before commit is asked for.
        after_commit: When commit is decided.
        after_rollback: When rollback is decided.
        after_completion: Last, whatever the end, also when it is not known.
    """

    before_commit: Callable[[Any], object] | None = None
    after_commit: Callable[[Any], object] | None = None
    after_rollback: Callable[[Any], object] | None = None
    after_completion: Callable[[Any], object] | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """Of one decorated function or block.

    Attributes:
        name: For people; empty: the function's.
        timeout: Seconds until it is rolled back unless decided.
        key: Business key; in a decorator a format string over the arguments, `order:{order_id}`.
        propagation: See `Propagation`.
        rollback_for: Exceptions that roll back even where a base class of theirs is in `no_rollback_for`.
        no_rollback_for: Exceptions after which it commits all the same, and raises them.
        retries: How often the whole function runs again after an error that says it is retryable.
        hooks: See `Hooks`.
    """

    name: str = ""
    timeout: float = 60.0
    key: str = ""
    propagation: Propagation = Propagation.REQUIRED
    rollback_for: tuple[type[BaseException], ...] = ()
    no_rollback_for: tuple[type[BaseException], ...] = ()
    retries: int = 0
    hooks: Hooks = Hooks()

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= 24 * 3600:
            raise ConfigurationError(f"timeout={self.timeout}: more than 0 and at most 86400 seconds are allowed")
        if self.retries < 0:
            raise ConfigurationError(f"retries={self.retries}: 0 or more")

    def rolls_back(self, error: BaseException) -> bool:
        """Whether `error` rolls back: the rule for its nearest base class counts, and where there is none it does."""
        for kind in type(error).__mro__:
            if kind in self.rollback_for:
                return True
            if kind in self.no_rollback_for:
                return False
        return True
