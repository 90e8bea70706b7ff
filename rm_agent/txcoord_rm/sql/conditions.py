"""What the condition of an UPDATE or DELETE says of single columns: from it the rows are known before the statement runs.

Nothing is lost where it is not understood: the rows that the statement did change are what counts in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from txcoord_rm.sql.flavour import Family
from txcoord_rm.sql.lexer import Kind, Token
from txcoord_rm.sql.reader import Reader
from txcoord_rm.sql.statement import Equality, Target


def equalities(reader: Reader, where: tuple[int, int] | None, target: Target, joined: bool) -> tuple[Equality, ...]:
    """Columns of the target that equal constants or parameters in every row that fulfils the condition.

    Args:
        reader: The statement.
        where: Places of the condition's first token and of the one behind its last; None: there is none.
        target: What the statement changes.
        joined: Whether it names other tables too, whose columns unqualified names may be.
    """
    terms = () if where is None else _terms(reader, *where)
    found = (_equality(reader, term, target, joined) for term in terms)
    return tuple(equality for equality in found if equality is not None)


def _terms(reader: Reader, begin: int, end: int) -> Iterable[Sequence[int]]:
    """Places of the tokens of each term, where the condition is a conjunction; else nothing."""
    terms: list[list[int]] = [[]]
    between = False
    for i in range(begin, end):
        word = reader.keyword(i) if reader.tokens[i].depth == 0 else ""
        if word in ("OR", "XOR", "CASE") or (reader.sign(i) in ("||", "&&") and reader.family is Family.MYSQL):
            return ()
        if word == "BETWEEN":
            between = True
        if word == "AND" and not between:
            terms.append([])
            continue
        if word == "AND":
            between = False
        terms[-1].append(i)
    return terms


def _equality(reader: Reader, term: Sequence[int], target: Target, joined: bool) -> Equality | None:
    operator = next((n for n, i in enumerate(term) if reader.sign(i) == "=" or reader.keyword(i) == "IN"), None)
    if operator is None or operator % 2 == 0:
        return None
    names, rest = [reader.name(i) for i in term[:operator:2]], [reader.tokens[i] for i in term[operator + 1 :]]
    if any(reader.kind(i) not in (Kind.WORD, Kind.NAME) for i in term[:operator:2]):
        return None
    if any(reader.sign(i) != "." for i in term[1:operator:2]):
        return None
    qualifier = names[-2] if len(names) > 1 else None
    if (qualifier is None and joined) or (qualifier is not None and not _names_target(reader, qualifier, target)):
        return None
    if reader.sign(term[operator]) != "=":
        if len(rest) < 3 or rest[0].text != "(" or rest[-1].text != ")":
            return None
        if any(token.text != "," for token in rest[2:-1:2]) or len(rest) % 2 == 0:
            return None
        rest = rest[1:-1:2]
    else:
        rest = _without_cast(rest)
        if len(rest) != 1:
            return None
    if any(token.kind not in (Kind.BIND, Kind.NUMBER, Kind.STRING) for token in rest):
        return None
    return Equality(names[-1], tuple(rest))


_CASTS = frozenset({"INTEGER", "BIGINT", "SMALLINT", "VARCHAR", "TEXT", "UUID"})


def _without_cast(rest: list[Token]) -> list[Token]:
    """PostgreSQL's `$1::INTEGER`, as SQLAlchemy writes it; types that change no value which they take."""
    if len(rest) == 3 and rest[1].text == "::" and rest[2].kind is Kind.WORD and rest[2].text in _CASTS:
        return rest[:1]
    return rest


def _names_target(reader: Reader, qualifier: str, target: Target) -> bool:
    if target.alias is not None:
        return qualifier == reader.read(target.alias)
    return qualifier == target.parts[-1]
