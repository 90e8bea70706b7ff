"""Functions that statements call: what one of them writes, no undo record tells.

PostgreSQL's own volatile functions that are known to be harmless pass. A user's is taken at its word: declared STABLE or
IMMUTABLE, it does not write. Not seen are functions behind operators, casts and views.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from txcoord_rm.capture.postgresql.admission import refused_unseen
from txcoord_rm.catalogue.postgresql import functions
from txcoord_rm.sql.statement import Statement

_FRESH_S = 60.0
_MANY = 4096


class _Kind(NamedTuple):
    volatile: bool
    writes: bool
    until: float


_UNKNOWN = _Kind(volatile=True, writes=True, until=0)


class Functions:
    """What is known of the functions of one database. It asks for each again once a minute."""

    def __init__(self) -> None:
        self._known: dict[str, _Kind] = {}

    def check(self, cursor: Any, statement: Statement) -> None:
        """Refuse a statement of any kind that calls a function which may write.

        Raises:
            UnsupportedSqlError: It does.
        """
        if why := self.writing(cursor, statement):
            raise refused_unseen(statement, why)

    def writing(self, cursor: Any, statement: Statement) -> tuple[str, str] | None:
        """Why a function that a statement calls may change rows, and what to do about it; None: none may."""
        if not statement.functions:
            return None
        now = time.monotonic()
        unknown = [name for name in statement.functions if name not in self._known or self._known[name].until < now]
        if unknown:
            self._learn(cursor, unknown, now)
        for name in statement.functions:
            if self._known.get(name, _UNKNOWN).writes:
                return (
                    f"the function {name}() is volatile, so it may write rows without undo records",
                    "declare it STABLE if it only reads, else run its statements yourself, do the work in a TCC branch",
                )
        return None

    def volatile(self, names: frozenset[str]) -> str:
        """One of the names, all of which have been checked, that is of a volatile function; empty: none is."""
        return min((name for name in names if self._known.get(name, _UNKNOWN).volatile), default="")

    def _learn(self, cursor: Any, names: list[str], now: float) -> None:
        cursor.execute(functions(names))
        found = {name: (volatile, writes) for name, volatile, writes in cursor.fetchall()}
        if len(self._known) > _MANY:
            self._known = {name: kind for name, kind in self._known.items() if kind.until >= now}
        for name in names:  # words of the language have no row
            self._known[name] = _Kind(*found.get(name, (False, False)), now + _FRESH_S)
