"""SQL text as tokens with their places: white space and comments are left out, nothing else.

What cannot be cut into tokens for certain is refused: a text that this lexer and the database would read differently could hide
a statement.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from txcoord_rm.sql.flavour import Binds, Family, Flavour, pattern
from txcoord_rm.sql.unsupported import refuse


class Kind(Enum):
    """What a token is."""

    WORD = "word"
    """A keyword or an unquoted name."""
    NAME = "name"
    """A quoted name, or any word where only a name can stand."""
    STRING = "string"
    """A string constant."""
    NUMBER = "number"
    """A numeric constant."""
    BIND = "bind"
    """A place for a parameter."""
    VARIABLE = "variable"
    """A variable of the session: `@x`, `@@x`."""
    SIGN = "sign"
    """An operator, or punctuation."""


class Token(NamedTuple):
    """One token.

    Args:
        kind: What it is.
        text: As it was written; of a word: in upper case.
        start, end: Its place in the text.
        depth: How many brackets are open around it; a bracket itself counts as outside.
    """

    kind: Kind
    text: str
    start: int
    end: int
    depth: int


_NUMBER = re.compile(
    r"0[xX][0-9A-Fa-f_]+|0[bB][01_]+|0[oO][0-7_]+|(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?", re.ASCII
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_PERCENT_BIND = re.compile(r"%(?:%|\([^)]*\)[sbt]|[sbt])")


def tokens(sql: str, flavour: Flavour) -> list[Token]:
    """All tokens of `sql`.

    Raises:
        UnsupportedSqlError: Where one begins and ends is not certain.
    """
    match_at, found, depth, place = pattern(flavour).match, list[Token](), 0, 0
    while place < len(sql):
        match = match_at(sql, place)
        if match is None:
            raise refuse(sql, f"{sql[place : place + 1]!r} is no SQL")
        group, start, place = match.lastgroup or "", place, match.end()
        match group:
            case "space":
                continue
            case "comment":
                _check_percent(sql, start, place, flavour)
                continue
            case "open_comment":
                place = _end_of_comment(sql, place)
                _check_percent(sql, start, place, flavour)
                continue
            case "executable":
                raise refuse(sql, "a comment that the database executes may hide a statement", "write it as plain SQL")
        text = match.group()
        if text in ")]":
            depth -= 1
        found.append(_token(sql, group, text, start, depth, found, flavour))
        if text in ("(", "["):
            depth += 1
    if depth:
        raise refuse(sql, "its brackets do not match")
    return found


def _token(sql: str, group: str, text: str, start: int, depth: int, before: list[Token], flavour: Flavour) -> Token:
    end = start + len(text)
    match group:
        case "word":
            after_dot = bool(before) and before[-1].text == "." and before[-1].kind is Kind.SIGN
            if after_dot:
                return Token(Kind.NAME, text, start, end, depth)
            return Token(Kind.WORD, text.upper() if text.isascii() else text, start, end, depth)
        case "doubled":
            return Token(Kind.SIGN, text, start, end, depth)
        case "sign":
            if text in "'\"`" or (text == "$" and flavour.family is Family.POSTGRESQL and flavour.binds is not Binds.DOLLAR):
                raise refuse(sql, f"what begins with {sql[start : start + 20]!r} does not end")
            if text == "%" and flavour.binds is Binds.PERCENT:
                raise refuse(sql, "a single % stands where the driver expects a placeholder", "write %%")
            return Token(Kind.SIGN, text, start, end, depth)
        case "number":
            if not _NUMBER.fullmatch(text):
                raise refuse(sql, f"{text!r} may be a number, a name or both", "put a space between, or quote the name")
            return Token(Kind.NUMBER, text, start, end, depth)
        case "string" | "escaped":
            _check_percent(sql, start, end, flavour)
            if group == "string" and before and before[-1].kind is Kind.STRING and sql[before[-1].start] in "eE":
                raise refuse(sql, "whether a backslash escapes in a string that continues another is not certain", "join them")
            return Token(Kind.STRING, text, start, end, depth)
        case _:
            if group == "name":
                _check_percent(sql, start, end, flavour)
            return Token(Kind(group), text, start, end, depth)


def _end_of_comment(sql: str, place: int) -> int:
    """PostgreSQL's comments may stand in each other."""
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(sql, place)
        if edge is None:
            raise refuse(sql, "a comment does not end")
        depth += 1 if edge.group() == "/*" else -1
        place = edge.end()
    return place


def _check_percent(sql: str, start: int, end: int, flavour: Flavour) -> None:
    """A driver of this kind looks for placeholders everywhere, so one in a string or comment takes a parameter too."""
    if flavour.binds is Binds.PERCENT and "%" in sql[start:end]:
        for match in _PERCENT_BIND.finditer(sql, start, end):
            if match.group() != "%%":
                raise refuse(sql, f"the placeholder {match.group()!r} stands inside a string, name or comment", "take it out")
