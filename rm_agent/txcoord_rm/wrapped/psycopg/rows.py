"""Rows of a captured statement in the form that the application asked psycopg for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def tuples(cursor: object) -> Callable[[Any], Any]:
    """Row factory of psycopg: what capturing reads."""
    return tuple


def maker(row_factory: Callable[[Any], Callable[[Any], Any]], description: Any) -> Callable[[Any], Any]:
    """What turns values into a row.

    Args:
        row_factory: Of psycopg's cursor.
        description: Of the columns, as DB-API has it.
    """
    return row_factory(_Shape(description))


class _Shape:
    """As much of a cursor with a result as row factories look at."""

    _encoding = "utf-8"

    def __init__(self, description: Any) -> None:
        self.description = description
        self.pgresult = _Columns([column[0] for column in description])


class _Columns:
    """Of the result."""

    status = 2  # PGRES_TUPLES_OK

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self.nfields = len(names)

    def fname(self, number: int) -> bytes:
        """See libpq."""
        return self._names[number].encode()
