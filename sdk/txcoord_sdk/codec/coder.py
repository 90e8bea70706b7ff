"""What every coder is: one type's way to JSON and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any


class JsonKind(Enum):
    """What a value is in JSON; members of a union are told apart by it."""

    NULL = auto()
    """`null`."""
    BOOL = auto()
    """`true` and `false`."""
    INT = auto()
    """A number without fraction or exponent."""
    FLOAT = auto()
    """A number with one of them."""
    TEXT = auto()
    """A string."""
    ARRAY = auto()
    """A list."""
    OBJECT = auto()
    """Values by name."""


_KINDS = {
    type(None): JsonKind.NULL,
    bool: JsonKind.BOOL,
    int: JsonKind.INT,
    float: JsonKind.FLOAT,
    str: JsonKind.TEXT,
    list: JsonKind.ARRAY,
    dict: JsonKind.OBJECT,
}


def kind_of(json: Any) -> JsonKind:
    """The kind of what `json.loads` returned."""
    return _KINDS[type(json)]


class UnsupportedError(TypeError):
    """A type that cannot be carried; the text says which and what to use instead."""


@dataclass(frozen=True, slots=True)
class Coder:
    """One type.

    Args:
        encode: From a value to what `json.dumps` takes; TypeError or ValueError where it is no value of the type.
        decode: The reverse; TypeError, ValueError or LookupError where the JSON is not of the type.
        types: Python types whose values it takes.
        kinds: What its values are in JSON.
    """

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    types: tuple[type, ...]
    kinds: frozenset[JsonKind]


def wrong(value: Any, expected: str) -> TypeError:
    """The error for a value of another type."""
    return TypeError(f"{type(value).__name__} instead of {expected}")
