"""Parts of a statement's text that are found by its tokens: assignments, rows of VALUES, and sub-selects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from txcoord_rm.sql.flavour import Flavour
from txcoord_rm.sql.lexer import Kind, Token, tokens
from txcoord_rm.sql.reader import Reader
from txcoord_rm.sql.statement import Span, Statement

_COMBINES = frozenset({"UNION", "EXCEPT", "INTERSECT", "MINUS"})
_LOCKS = frozenset({"LOCK", "FOR"})


@dataclass(frozen=True, slots=True)
class Assignment:
    """One of an UPDATE.

    Args:
        column: Its name, in lower case.
        value: What is assigned.
        names: Words and names in the value, in lower case.
        plain: Whether the value has no query and sets no variable.
    """

    column: str
    value: Span
    names: frozenset[str]
    plain: bool


@lru_cache(1024)
def assignments(statement: Statement, flavour: Flavour) -> tuple[Assignment, ...]:
    """What SET assigns, in order."""
    assert statement.set is not None, "it is an UPDATE"
    reader = Reader(statement.sql, flavour)
    places = [n for n, t in enumerate(reader.tokens) if statement.set.start <= t.start < statement.set.end]
    found, begin = list[Assignment](), places[0]
    for n in [*places[1:], places[-1] + 1]:
        if n <= places[-1] and not (reader.sign(n) == "," and reader.tokens[n].depth == 0):
            continue
        sign = next(i for i in range(begin, n) if reader.sign(i) == "=")
        value = reader.tokens[sign + 1 : n]
        words = frozenset(reader.name(i).lower() for i in range(sign + 1, n) if reader.kind(i) in (Kind.WORD, Kind.NAME))
        plain = "select" not in words and not any(token.text == ":=" for token in value)
        found.append(Assignment(reader.name(sign - 1).lower(), Span(value[0].start, value[-1].end), words, plain))
        begin = n + 1
    return tuple(found)


@lru_cache(1024)
def value_rows(statement: Statement, flavour: Flavour) -> tuple[tuple[Span, tuple[Token | None, ...]], ...]:
    """Of INSERT ... VALUES: each row with its brackets, and its values; None: more than one token. Empty: it has no VALUES."""
    every = tokens(statement.sql, flavour)
    start = next((n for n, t in enumerate(every) if t.depth == 0 and t.kind is Kind.WORD and t.text in ("VALUES", "VALUE")), None)
    if start is None:
        return ()
    found = list[tuple[Span, tuple[Token | None, ...]]]()
    row, values = 0, list[list[Token]]()
    for token in every[start + 1 :]:
        if token.depth == 0 and token.text == "(":
            row, values = token.start, [[]]
        elif token.depth == 0 and token.text == ")":
            found.append((Span(row, token.end), tuple(value[0] if len(value) == 1 else None for value in values)))
        elif token.depth == 0 and token.text != ",":
            break
        elif token.depth == 1 and token.text == ",":
            values.append([])
        elif token.depth:
            values[-1].append(token)
    return tuple(found)


@lru_cache(1024)
def locking(statement: Statement, part: Span | None, flavour: Flavour) -> Sequence[Span | str]:
    """A part of an UPDATE or DELETE as it stands in a SELECT: with sub-selects that lock what they read, as they do there.

    Under REPEATABLE READ they would else see rows as they were when the transaction began. Of queries that UNION and its kin
    combine, where a lock may stand is not known; they stay as they are.
    """
    if part is None:
        return ()
    every = [t for t in tokens(statement.sql, flavour) if part.start <= t.start < part.end]
    found, at = list[Span | str](), part.start
    open_: list[tuple[bool, int]] = []
    for n, token in enumerate(every):
        if token.text == "(":
            selects = n + 1 < len(every) and every[n + 1].kind is Kind.WORD and every[n + 1].text == "SELECT"
            open_.append((selects, n))
        elif token.text == ")":
            selects, begin = open_.pop()
            inside = {t.text for t in every[begin + 1 : n] if t.depth == token.depth + 1 and t.kind is Kind.WORD}
            if selects and not inside & (_COMBINES | _LOCKS):
                found += [Span(at, token.start), " LOCK IN SHARE MODE"]
                at = token.start
    return (*found, Span(at, part.end))
