"""A SELECT on MySQL, MariaDB or SQLite each of whose rows comes from one row of each table in its FROM: such rows have keys.

Unlike PostgreSQL, these databases lock or read rows also where what is returned is made of many. So FROM is read by its grammar,
and whatever might put several rows into one - groups, aggregates, unions - is refused, functions that are not known among it.
"""

from __future__ import annotations

from collections.abc import Iterator

from txcoord_rm.sql.flavour import Family
from txcoord_rm.sql.lexer import Kind
from txcoord_rm.sql.locking import Locks
from txcoord_rm.sql.reader import Reader
from txcoord_rm.sql.statement import Target

_CLAUSES = frozenset({"WHERE", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "FETCH", "FOR", "LOCK"})
_MIXING = frozenset({"GROUP", "HAVING", "WINDOW", "DISTINCT", "DISTINCTROW", "UNIQUE", "UNION", "INTERSECT", "EXCEPT", "MINUS"})
_MIXING |= {"PROCEDURE", "OVER", "SQL_CALC_FOUND_ROWS"}
_JOINS = frozenset({"JOIN", "STRAIGHT_JOIN", "INNER", "CROSS", "LEFT", "RIGHT", "FULL", "OUTER", "NATURAL"})
_NO_ALIAS = _CLAUSES | _MIXING | _JOINS | {"ON", "USING", "USE", "FORCE", "IGNORE", "PARTITION", "INDEXED", "NOT", "LATERAL"}
_WORDS = frozenset(
    {"and", "or", "not", "in", "when", "then", "else", "case", "on", "using", "between", "like", "is", "by", "limit", "offset"}
    | {"select", "where", "exists", "any", "all", "interval", "match", "against", "cast", "varchar", "char", "decimal", "numeric"}
)
_COMMON = _WORDS | {"abs", "ceil", "ceiling", "floor", "round", "sign", "mod", "power", "sqrt", "coalesce", "ifnull", "nullif"}
_COMMON |= {"lower", "upper", "trim", "ltrim", "rtrim", "length", "octet_length", "concat", "concat_ws", "substr", "substring"}
_COMMON |= {"replace", "instr", "hex", "unhex", "date", "time", "json_extract"}
_ROW_BY_ROW = {
    Family.SQLITE: _COMMON | {"iif", "typeof", "datetime", "strftime", "julianday"},
    Family.MYSQL: _COMMON
    | {"truncate", "convert", "if", "isnull", "lcase", "ucase", "char_length", "character_length", "left", "right", "lpad"}
    | {"rpad", "reverse", "locate", "position", "date_format", "date_add", "date_sub", "datediff", "extract", "year", "month"}
    | {"day", "hour", "minute", "second", "timestampdiff", "unix_timestamp", "from_unixtime", "json_unquote", "json_value"}
    | {"md5", "sha1", "sha2", "binary"},
}
"""What may stand before a bracket: it says of a row what that row alone decides."""
_SELECT_ROWS = "select the rows themselves, `SELECT columns FROM tables WHERE ...`, and compute in Python"


def rows_read(reader: Reader, at: int) -> Locks:
    """What the SELECT at a place, at no depth, reads; on SQLite it has no locking clause.

    Args:
        reader: The text.
        at: Where SELECT stands.

    Raises:
        UnsupportedSqlError: Which rows that are is not certain.
    """
    if at or reader.word(at) != "SELECT":
        raise reader.refuse("rows of queries of WITH, and of queries in brackets, are not locked with it", _SELECT_ROWS)
    starts = _clauses(reader, at)
    if "FROM" not in starts or starts["FROM"] == at + 1:
        raise reader.refuse("what it reads is not recognised", "select columns FROM tables")
    locking = min((starts[word] for word in ("FOR", "LOCK") if word in starts), default=len(reader.tokens))
    if locking < len(reader.tokens) and reader.family is Family.SQLITE:
        raise reader.refuse("SQLite has no locking clause", "use with_for_update(), or isolation('read_committed')")
    ends = sorted([*starts.values(), len(reader.tokens)])
    end = {word: ends[ends.index(i) + 1] for word, i in starts.items()}
    _check_one_row_each(reader, starts, end)
    named = list(_references(reader, starts["FROM"] + 1, end["FROM"]))
    items = reader.span(at + 1, starts["FROM"])
    assert items is not None, "there is a token between"
    where = (starts["WHERE"] + 1, end["WHERE"]) if "WHERE" in starts else None
    return Locks(items, tuple(_locked(reader, locking, named)), where, len(named) > 1)


def _clauses(reader: Reader, at: int) -> dict[str, int]:
    """Where FROM stands, and each clause behind it."""
    starts: dict[str, int] = {}
    for i in range(at + 1, len(reader.tokens)):
        word = "" if reader.tokens[i].depth else reader.keyword(i)
        if (word == "FROM" and reader.at(i - 1) != "DISTINCT") or (word in _CLAUSES and "FROM" in starts):
            starts.setdefault(word, i)
    return starts


def _check_one_row_each(reader: Reader, starts: dict[str, int], end: dict[str, int]) -> None:
    places = range(len(reader.tokens))
    mixing = {reader.keyword(i) for i in places if not reader.tokens[i].depth} & _MIXING
    if mixing or any(reader.keyword(i) == "OVER" for i in places):
        raise reader.refuse("rows of groups, windows and unions cannot be locked", _SELECT_ROWS)
    if any(reader.at(i) == ":=" for i in places):
        raise reader.refuse("it sets variables, and may be evaluated more than once", "set them before")
    inner = range(starts["WHERE"], end["WHERE"]) if "WHERE" in starts and reader.family is Family.MYSQL else range(0)
    for i in places:
        if i in inner or reader.at(i + 1) != "(" or reader.kind(i) not in (Kind.WORD, Kind.NAME):
            continue
        if reader.name(i).lower() not in _ROW_BY_ROW[reader.family] or reader.kind(i) is Kind.NAME:
            raise reader.refuse(f"{reader.name(i)}() may put several rows into one, which cannot be locked", _SELECT_ROWS)


def _references(reader: Reader, begin: int, end: int) -> Iterator[tuple[str, Target]]:
    """Tables of FROM by the names that they have here. Conditions of joins are left to the database."""
    place = begin
    while place < end:
        target, place = _table(reader, place)
        yield (target.parts[-1] if target.alias is None else reader.read(target.alias)), target
        if place < end and reader.word(place) in ("ON", "USING"):
            place += 1
            while place < end and not _joins(reader, place):
                place += 1
        if place < end:
            if not _joins(reader, place):
                raise reader.refuse(
                    f"what {reader.at(place) or 'follows a table'} means in its FROM is not recognised", _SELECT_ROWS
                )
            while place < end and (reader.word(place) in _JOINS or reader.sign(place) == ","):
                place += 1
            if place == end:
                raise reader.refuse("its FROM ends where a table is expected")


def _joins(reader: Reader, place: int) -> bool:
    """Whether the next table follows; LEFT(text, 1) is a function."""
    if reader.tokens[place].depth:
        return False
    return reader.sign(place) == "," or (reader.word(place) in _JOINS and reader.at(place + 1) != "(")


def _table(reader: Reader, place: int) -> tuple[Target, int]:
    no_table = "rows of a query, function or bracket in its FROM have no keys"
    if reader.kind(place) is Kind.WORD and reader.word(place) in _NO_ALIAS:
        raise reader.refuse(no_table, _SELECT_ROWS)
    begin = place
    parts, place = reader.qualified(place, no_table, _SELECT_ROWS)
    name = reader.span(begin, place)
    assert name is not None
    if reader.sign(place) == "(":
        raise reader.refuse("rows of a function have no keys", _SELECT_ROWS)
    alias = None
    named = place + 1 if reader.at(place) == "AS" else place
    if named > place or (reader.kind(place) in (Kind.WORD, Kind.NAME) and reader.word(place) not in _NO_ALIAS):
        if reader.kind(named) not in (Kind.WORD, Kind.NAME):
            raise reader.refuse("the name of a table in its FROM is not recognised")
        token = reader.tokens[named]
        alias, place = reader.sql[token.start : token.end], named + 1
    return Target(tuple(parts), name, alias), place


def _locked(reader: Reader, locking: int, named: list[tuple[str, Target]]) -> Iterator[Target]:
    """Tables that FOR ... OF names; without names: all."""
    called = {reader.name(j) for j in _names(reader, locking)}
    found = [target for name, target in named if not called or name in called]
    if not found or len(called) > len(found):
        raise reader.refuse("which tables its locking clause names is not certain", "name tables as FROM does")
    yield from found


def _names(reader: Reader, locking: int) -> Iterator[int]:
    for i in range(locking, len(reader.tokens)):
        if reader.word(i) == "OF":
            if any(reader.word(j) == "FOR" for j in range(locking + 1, len(reader.tokens))):
                raise reader.refuse("it has several locking clauses", "write one")
            yield i + 1
            while reader.sign(i + 2) == ",":
                i += 2
                yield i + 1
            return
