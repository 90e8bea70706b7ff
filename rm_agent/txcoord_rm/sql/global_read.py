"""A plain SELECT as a global read: the same text with a locking clause, where that covers every table from which it reads.

A locking clause covers tables of the outermost FROM only. So a query in it, of WITH or beside it would still read what may be
taken back, and so would groups and aggregates, whose rows have no locks: those are refused.
"""

from __future__ import annotations

from functools import lru_cache

from txcoord_rm.sql import words
from txcoord_rm.sql.flavour import Family, Flavour
from txcoord_rm.sql.reader import Reader

_READS_NOTHING = frozenset({"SET", "RESET", "SHOW", "EXPLAIN", "SAVEPOINT", "RELEASE", "ROLLBACK"})
_UNLOCKABLE = frozenset(
    {"GROUP", "HAVING", "DISTINCT", "WINDOW", "OVER", "UNION", "INTERSECT", "EXCEPT", "LEFT", "RIGHT", "FULL"}
)
_AGGREGATES = frozenset({"COUNT", "SUM", "AVG", "MIN", "MAX", "ARRAY_AGG", "STRING_AGG", "JSON_AGG", "JSONB_AGG"})
_REMEDY = (
    "select the rows themselves, `SELECT columns FROM tables WHERE ...`, and compute in Python, or run it within "
    "`txcoord_rm.isolation('read_uncommitted')`"
)


@lru_cache(1024)
def global_read(sql: str, flavour: Flavour) -> str | None:
    """The text that is run instead of a plain read; None: it reads from no table, and is run as it is.

    Args:
        sql: A statement that changes and locks nothing.
        flavour: How it is read.

    Raises:
        UnsupportedSqlError: That it reads nothing which may be taken back is not certain, or the database has no global reads.
    """
    reader = Reader(sql, flavour)
    found = [reader.keyword(i) for i in range(len(reader.tokens))]
    if found[0] in _READS_NOTHING:
        return None
    if found[0] == "SELECT" and "FROM" not in found and not words.QUERIES & set(found[1:]):
        return None
    if flavour.family is not Family.POSTGRESQL:
        raise reader.refuse(
            "this database has no reads that global locks protect, which isolation 'read_committed' needs",
            "change the row relatively, or use version_id_col; or run it within `txcoord_rm.isolation('read_uncommitted')`",
        )
    if found[0] != "SELECT" or words.QUERIES & set(found[1:]) or "WITH" in found:
        raise reader.refuse("a query inside or beside another is not locked with it, and may read what is taken back", _REMEDY)
    called = {word for i, word in enumerate(found) if reader.sign(i + 1) == "("}
    if not _UNLOCKABLE.isdisjoint(found) or not _AGGREGATES.isdisjoint(called):
        raise reader.refuse("rows of groups, aggregates, unions and outer joins cannot be locked", _REMEDY)
    return f"{sql[: reader.tokens[-1].end]}\nFOR UPDATE"
