"""Which global transaction the running code belongs to: one context variable, inherited by tasks, set and reset by token."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar, Token
from typing import Any

from txcoord_sdk.transaction.transaction import GlobalTransaction

_current: ContextVar[GlobalTransaction | None] = ContextVar("txcoord_transaction", default=None)

traceparent: ContextVar[str] = ContextVar("txcoord_traceparent", default="")
"""W3C trace context of the request that is being served, as its caller sent it."""


def current() -> GlobalTransaction | None:
    """The global transaction of the running code, or None."""
    return _current.get()


def enter(transaction: GlobalTransaction | None) -> Token[GlobalTransaction | None]:
    """Make `transaction` (None: no transaction) the current one; `leave` with the token undoes it."""
    return _current.set(transaction)


def leave(token: Token[Any]) -> None:
    """Undo what set a variable, where that was done in this very context: a dependency's exit may run in another one."""
    with contextlib.suppress(ValueError):
        token.var.reset(token)


class entered:
    """A block with `transaction` as the current one; None: with none."""

    __slots__ = ("_token", "_transaction")

    def __init__(self, transaction: GlobalTransaction | None) -> None:
        self._transaction = transaction

    def __enter__(self) -> None:
        self._token = _current.set(self._transaction)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
