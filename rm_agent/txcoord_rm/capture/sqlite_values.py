"""SQLite's values, exact: any column may hold any type, and texts need be no valid UTF-8.

What the application has set up for reading (converters, factories of texts and rows) only sees numbers and bytes of ours, which
no driver changes: a text goes as `t` and its bytes, a blob as `b` and its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import copysign
from typing import Any

from txcoord_rm.undo.item import Value


class Real(float):
    """A floating-point number that equals itself only, to the bit: no integer, and no zero of the other sign."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and float.__eq__(self, other) and copysign(1, self) == copysign(1, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = float.__hash__


def outgoing(expression: str) -> str:
    """SQL of the value of an expression, on its way to `value`."""
    return (
        f"CASE typeof({expression}) WHEN 'text' THEN CAST('t' || {expression} AS BLOB) "
        f"WHEN 'blob' THEN CAST('b' || {expression} AS BLOB) ELSE {expression} END"
    )


def value(found: Any) -> Value:
    """What `outgoing` has sent; texts that are not UTF-8 have surrogates in the place of bytes."""
    if isinstance(found, bytes):
        return found[1:].decode("utf-8", "surrogateescape") if found[:1] == b"t" else found[1:]
    return Real(found) if isinstance(found, float) else found


def values(found: Sequence[Any], real: bool = False) -> Sequence[Value]:
    """What `outgoing` has sent of a column of many rows.

    Args:
        found: It.
        real: Whether the column has REAL affinity: it holds no negative zero then, but triggers may show one.
    """
    if set(map(type, found)) <= {int, type(None)}:
        return found
    return [value(one + 0.0 if real and isinstance(one, float) else one) for one in found]


def incoming(number: int) -> str:
    """SQL of the value that the parameter of a number has, as `parameter` has made it."""
    p = f"?{number}"
    return f"iif(typeof({p}) = 'blob', iif(substr({p}, 1, 1) = x'74', CAST(substr({p}, 2) AS TEXT), substr({p}, 2)), {p})"


def parameter(sent: Value) -> int | float | bytes | None:
    """A value on its way to `incoming`."""
    if isinstance(sent, str):
        return b"t" + sent.encode("utf-8", "surrogateescape")
    return b"b" + sent if isinstance(sent, bytes) else sent
