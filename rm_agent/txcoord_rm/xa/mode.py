"""In which mode local transactions take part in global ones: that of the engine, or of a block of code."""

from __future__ import annotations

from contextvars import ContextVar
from enum import StrEnum

from txcoord_proto.errors import ConfigurationError

from txcoord_rm.block import Block


class Mode(StrEnum):
    """How a local transaction takes part."""

    AT = "at"
    """It commits at once; a global rollback puts its rows back."""
    XA = "xa"
    """The database prepares it, and ends it as decided."""


_mode: ContextVar[Mode | None] = ContextVar("txcoord_mode", default=None)


def mode_of(name: str) -> Mode:
    """The mode of that name.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        return Mode(name)
    except ValueError:
        raise ConfigurationError(f"there is no mode {name!r}: use 'at' or 'xa'") from None


def current_mode() -> Mode | None:
    """The mode of the block in which the running code is; None: it is in none."""
    return _mode.get()


class mode(Block[Mode | None]):
    """A block, `with mode("xa"):`, whose local transactions take part in this mode, whatever that of their engine is.

    A local transaction keeps the mode in which it first wrote.

    Args:
        name: `at` or `xa`.

    Raises:
        ConfigurationError: There is no such mode.
    """

    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__(_mode, mode_of(name))
