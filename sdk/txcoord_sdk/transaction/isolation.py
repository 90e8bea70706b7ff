"""What reads inside a global transaction may see of others. The databases' agents in `txcoord_rm` see to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar, Token
from enum import StrEnum

from txcoord_proto.errors import ConfigurationError

from txcoord_sdk.context import leave


class Isolation(StrEnum):
    """A level; each gives what those before it give."""

    READ_UNCOMMITTED = "read_uncommitted"
    """A plain read sees what is there, be it taken back later."""
    READ_COMMITTED = "read_committed"
    """It sees only rows that belong to no other unfinished global transaction, and they stay as they are until its own ends."""
    SERIALIZABLE = "serializable"
    """Nor do rows come or go for what it has read, where all that write the table are at this level."""


chosen: ContextVar[Isolation | None] = ContextVar("txcoord_isolation", default=None)
"""That of the innermost function or block that says one; None: none does."""


def isolation_of(name: str) -> Isolation:
    """The level of that name.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        return Isolation(name)
    except ValueError:
        raise ConfigurationError(f"there is no isolation {name!r}: use one of {', '.join(Isolation)}") from None


def enter_level(name: str) -> Token[Isolation | None] | None:
    """From now on that level holds; empty: the one that holds anyway. `leave_level` with the token undoes it."""
    return chosen.set(Isolation(name)) if name else None


def leave_level(token: Token[Isolation | None] | None) -> None:
    """Undo an `enter_level`; see `context.leave`."""
    if token is not None:
        leave(token)


@contextlib.contextmanager
def at_level(name: str) -> Iterator[None]:
    """A block in which that level holds; empty: the one that holds anyway."""
    token = enter_level(name)
    try:
        yield
    finally:
        leave_level(token)


def stricter(one: Isolation, other: Isolation) -> Isolation:
    """That of two which gives more."""
    return max(one, other, key=list(Isolation).index)
