"""How long a locking read waits for rows of others, as its locking clause says."""

from __future__ import annotations

import math
import re

from txcoord_rm.sql.statement import Statement

_WAIT = re.compile(r"\bNOWAIT\b|\bWAIT\s+(\d+)\b", re.IGNORECASE)
_SKIP = re.compile(r"\bSKIP\s+LOCKED\b", re.IGNORECASE)


def patience(statement: Statement) -> float:
    """Seconds; infinite: it does not say."""
    found = _WAIT.search(_clause(statement))
    return math.inf if found is None else float(found[1] or 0)


def skips_locked(statement: Statement) -> bool:
    """Whether it leaves out rows that others have locked in the database."""
    return _SKIP.search(_clause(statement)) is not None


def _clause(statement: Statement) -> str:
    return "" if statement.locking is None else statement.locking.of(statement.sql)
