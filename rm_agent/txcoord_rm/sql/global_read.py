"""A plain SELECT as a global read: one that locks, where a lock covers every table from which it reads.

A locking clause covers tables of the outermost FROM only. So a query in it, of WITH or beside it would still read what may be
taken back, and so would groups and aggregates, whose rows have no locks: those are refused.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from txcoord_rm.sql import words
from txcoord_rm.sql.conditions import equalities
from txcoord_rm.sql.flavour import Family
from txcoord_rm.sql.reader import Reader
from txcoord_rm.sql.recogniser import Recogniser
from txcoord_rm.sql.rows_read import rows_read
from txcoord_rm.sql.statement import Statement, Verb

_READS_NOTHING = frozenset({"SET", "RESET", "SHOW", "EXPLAIN", "SAVEPOINT", "RELEASE", "ROLLBACK", "DESCRIBE", "DESC"})
_READS_NOTHING |= {"BEGIN", "PRAGMA"}
_UNLOCKABLE = frozenset(
    {"GROUP", "HAVING", "DISTINCT", "WINDOW", "OVER", "UNION", "INTERSECT", "EXCEPT", "LEFT", "RIGHT", "FULL"}
)
_AGGREGATES = frozenset({"COUNT", "SUM", "AVG", "MIN", "MAX", "ARRAY_AGG", "STRING_AGG", "JSON_AGG", "JSONB_AGG"})
_REMEDY = (
    "select the rows themselves, `SELECT columns FROM tables WHERE ...`, and compute in Python, or run it within "
    "`txcoord_rm.isolation('read_uncommitted')`"
)


@lru_cache(1024)
def global_read(statement: Statement, recogniser: Recogniser) -> Statement:
    """What is run instead of a plain read; one that reads from no table stays as it is.

    Args:
        statement: It changes and locks nothing.
        recogniser: How it is read.

    Raises:
        UnsupportedSqlError: That it reads nothing which may be taken back is not certain.
    """
    reader = Reader(statement.sql, recogniser.flavour)
    found = [reader.keyword(i) for i in range(len(reader.tokens))]
    if found[0] in _READS_NOTHING:
        return statement
    if found[0] == "SELECT" and "FROM" not in found and not words.QUERIES & set(found[1:]):
        return statement
    if found[0] != "SELECT" or words.QUERIES & set(found[1:]) or "WITH" in found:
        raise reader.refuse("a query inside or beside another is not locked with it, and may read what is taken back", _REMEDY)
    called = {word for i, word in enumerate(found) if reader.sign(i + 1) == "("}
    if not _UNLOCKABLE.isdisjoint(found) or not _AGGREGATES.isdisjoint(called):
        raise reader.refuse("rows of groups, aggregates, unions and outer joins cannot be locked", _REMEDY)
    if reader.family is Family.POSTGRESQL:
        return recogniser.recognise(f"{statement.sql[: reader.tokens[-1].end]}\nFOR UPDATE")
    read = rows_read(reader, 0)
    target = read.targets[0]
    pinned = equalities(reader, read.where, target, read.joined)
    return replace(statement, verb=Verb.LOCKING_READ, target=target, locked=read.targets, items=read.items, equalities=pinned)
