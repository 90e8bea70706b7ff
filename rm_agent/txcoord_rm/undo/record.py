"""Texts of PostgreSQL's records: https://www.postgresql.org/docs/current/rowtypes.html#ROWTYPES-IO-SYNTAX."""

from __future__ import annotations

import re

_FIELD = re.compile(r'"((?:[^"\\]|""|\\.)*)"|([^",()\\]*)', re.DOTALL)
_ESCAPE = re.compile(r'""|\\(.)', re.DOTALL)


def fields(record: str) -> tuple[str | None, ...]:
    """The fields of `ROW(...)::text`.

    Raises:
        ValueError: It is no such text.
    """
    if not record.startswith("(") or not record.endswith(")"):
        raise ValueError(f"no record: {record[:80]!r}")
    found: list[str | None] = []
    at, end = 1, len(record) - 1
    while True:
        match = _FIELD.match(record, at, end)
        assert match is not None, "the second form matches nothing, too"
        quoted, plain = match.groups()
        if quoted is not None:
            found.append(_ESCAPE.sub(lambda m: m[1] or '"', quoted))
        else:
            found.append(plain or None)
        at = match.end()
        if at == end:
            return tuple(found)
        if record[at] != ",":
            raise ValueError(f"no record: {record[:80]!r}")
        at += 1
