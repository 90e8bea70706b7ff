"""Which tables a SELECT locks rows of: those that its locking clauses name, else all in its FROM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from txcoord_rm.sql.lexer import Kind
from txcoord_rm.sql.reader import Reader
from txcoord_rm.sql.statement import Span, Target

_CLAUSES = frozenset({"WHERE", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR"})
_NAMES = (Kind.WORD, Kind.NAME)


@dataclass(frozen=True, slots=True)
class Locks:
    """What was recognised of it.

    Args:
        items: What it selects.
        targets: Tables whose rows it locks.
        where: Places of its condition's first token and of the one behind its last; None: there is none.
        joined: Whether it reads more than the one table.
    """

    items: Span
    targets: tuple[Target, ...]
    where: tuple[int, int] | None
    joined: bool


def locks(reader: Reader, at: int, table_at: Callable[[int], tuple[Target, int]]) -> Locks | None:
    """What the SELECT at a place, at no depth, locks; None: nothing but what queries of WITH have read.

    Args:
        reader: The text.
        at: Where SELECT stands.
        table_at: Reads a table with its alias; also gives the place behind.

    Raises:
        UnsupportedSqlError: That is not certain.
    """
    starts: dict[str, int] = {}
    for i in range(at + 1, len(reader.tokens)):
        word = reader.keyword(i)
        if not reader.tokens[i].depth and (word in _CLAUSES or (word == "FROM" and reader.at(i - 1) != "DISTINCT")):
            starts.setdefault(word, i)
    if "FROM" not in starts or starts["FROM"] == at + 1:
        raise reader.refuse("what it reads is not recognised", "select columns FROM tables")
    ends = sorted([*starts.values(), len(reader.tokens)])
    end = {word: ends[ends.index(i) + 1] for word, i in starts.items()}
    named = list(_references(reader, starts["FROM"] + 1, end["FROM"], table_at))
    items = reader.span(at + 1, starts["FROM"])
    assert items is not None, "there is a token between"
    targets = tuple(_locked(reader, at, starts["FOR"], named))
    where = (starts["WHERE"] + 1, end["WHERE"]) if "WHERE" in starts else None
    return Locks(items, targets, where, len(named) > 1) if targets else None


def _references(
    reader: Reader, begin: int, end: int, table_at: Callable[[int], tuple[Target, int]]
) -> Iterator[tuple[str, Target | None]]:
    """What FROM joins: the name that it has here, and the table that it is; None: it is none, or its columns have new names."""
    expected = True
    for i in range(begin, end):
        token = reader.tokens[i]
        if token.depth:
            continue
        if reader.sign(i) == "," or reader.keyword(i) == "JOIN":
            expected = True
        elif expected and reader.word(i) != "LATERAL":
            expected = False
            yield _reference(reader, i, table_at)


def _reference(reader: Reader, place: int, table_at: Callable[[int], tuple[Target, int]]) -> tuple[str, Target | None]:
    if reader.at(place) != "(" and reader.at(reader.last_of_name(place + (reader.word(place) == "ONLY")) + 1) != "(":
        target, behind = table_at(place)
        called = target.parts[-1] if target.alias is None else reader.read(target.alias)
        return called, None if reader.at(behind) == "(" else target
    while place < len(reader.tokens) and not (reader.at(place) == ")" and not reader.tokens[place].depth):
        place += 1
    place += 2 if reader.at(place + 1) == "AS" else 1
    return (reader.name(place) if reader.kind(place) in _NAMES else ""), None


def _locked(reader: Reader, at: int, first: int, named: list[tuple[str, Target | None]]) -> Iterator[Target]:
    """Tables that locking clauses name; without names: all but results of queries of WITH, which cannot be locked."""
    called: set[str] | None = set()
    for i in range(first, len(reader.tokens)):
        if reader.word(i) == "FOR":
            of = next((j for j in range(i + 1, min(i + 5, len(reader.tokens))) if reader.word(j) in ("OF", "FOR")), i)
            if reader.word(of) != "OF":
                called = None
                break
            while reader.kind(of + 1) in _NAMES and called is not None:
                called.add(reader.name(of + 1))
                of += 2
                if reader.sign(of) != ",":
                    break
    queries = {
        reader.name(i)
        for i in range(1, at)
        if not reader.tokens[i].depth and reader.at(i - 1) in ("WITH", "RECURSIVE", ",") and reader.at(i + 1) in ("AS", "(")
    }
    for name, target in named:
        if called is not None and name not in called:
            continue
        if target is None:
            raise reader.refuse(
                "which rows of a query, function or join it locks is not certain", "name tables with FOR UPDATE OF"
            )
        if called is None and len(target.parts) == 1 and target.parts[0] in queries:
            continue
        yield target
