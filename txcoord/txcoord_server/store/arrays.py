"""Values as PostgreSQL's text form has them: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO."""

from __future__ import annotations

from collections.abc import Iterable

Value = str | int | bytes | None


def parameter(value: Value) -> bytes | None:
    """One value as a parameter."""
    if isinstance(value, str):
        return value.encode()
    return None if value is None else b"%d" % value if isinstance(value, int) else b"\\x" + value.hex().encode()


def array(values: Iterable[Value]) -> bytes:
    """Values as one array."""
    return ("{" + ",".join([_element(value) for value in values]) + "}").encode()


def _element(value: Value) -> str:
    if isinstance(value, str):
        if "\\" in value or '"' in value:
            value = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + value + '"'
    if value is None:
        return "NULL"
    return str(int(value)) if isinstance(value, int) else '"\\\\x' + value.hex() + '"'
