"""The tokens of one text, and what stands at which place."""

from __future__ import annotations

import re

from txcoord_proto.errors import UnsupportedSqlError

from txcoord_rm.sql.flavour import Binds, Family, Flavour
from txcoord_rm.sql.lexer import Kind, tokens
from txcoord_rm.sql.statement import Span
from txcoord_rm.sql.unsupported import refuse

_UPPER = re.compile("[A-Z]+")


class Reader:
    """One text, without the semicolons at its end. Places are indices of its tokens; beyond the last there is nothing.

    Args:
        sql: It.
        flavour: How it is read.
    """

    def __init__(self, sql: str, flavour: Flavour) -> None:
        self.sql = sql
        self.family = flavour.family
        self.binds = flavour.binds
        self.tokens = tokens(sql, flavour)
        while self.tokens and self.tokens[-1].text == ";":
            self.tokens.pop()

    def at(self, place: int) -> str:
        """The word or sign at a place, where there is one."""
        return self.tokens[place].text if 0 <= place < len(self.tokens) and self.tokens[place].kind is not Kind.NAME else ""

    def word(self, place: int) -> str:
        """The word at a place, or empty."""
        token = self.tokens[place]
        return token.text if token.kind is Kind.WORD else ""

    def keyword(self, place: int) -> str:
        """The word at a place, unless it is a name because AS stands before it."""
        return "" if place and self.word(place - 1) == "AS" else self.word(place)

    def sign(self, place: int) -> str:
        """The sign at a place, or empty."""
        return self.tokens[place].text if place < len(self.tokens) and self.tokens[place].kind is Kind.SIGN else ""

    def kind(self, place: int) -> Kind | None:
        """What stands at a place."""
        return self.tokens[place].kind if place < len(self.tokens) else None

    def name(self, place: int) -> str:
        """The name at a place, as the database reads it."""
        if place >= len(self.tokens):
            raise self.refuse("it ends where a name is expected")
        token = self.tokens[place]
        return self.read(self.sql[token.start : token.end])

    def read(self, written: str) -> str:
        """A name that is written so, as the database reads it."""
        if self.binds is Binds.PERCENT:
            written = written.replace("%%", "%")
        first = written[0]
        if first in "uU" and written[1:2] == "&":
            raise self.refuse('a name is written as U&"..."', "write it without escapes")
        if first in '"`':
            return written[1:-1].replace(first * 2, first)
        if first == "[":
            return written[1:-1]
        return _UPPER.sub(lambda m: m[0].lower(), written) if self.family is Family.POSTGRESQL else written

    def qualified(self, place: int, reason: str, remedy: str) -> tuple[list[str], int]:
        """The parts of the name that begins at a place, and the place behind it.

        Args:
            place: It.
            reason: Why the statement is refused if a part of it is no name.
            remedy: What to do then.
        """
        parts = list[str]()
        while True:
            if self.kind(place) not in (Kind.WORD, Kind.NAME):
                raise self.refuse(reason, remedy)
            parts.append(self.name(place))
            place += 1
            if self.sign(place) != ".":
                return parts, place
            place += 1

    def last_of_name(self, place: int) -> int:
        """The place of the last part of the name that begins at a place."""
        while self.sign(place + 1) == ".":
            place += 2
        return place

    def span(self, begin: int, end: int | None) -> Span | None:
        """From the token at `begin` up to the one at `end`."""
        last = len(self.tokens) if end is None else end
        return Span(self.tokens[begin].start, self.tokens[last - 1].end) if begin < last else None

    def refuse(self, reason: str, remedy: str = "") -> UnsupportedSqlError:
        """See `unsupported.refuse`."""
        return refuse(self.sql, reason, remedy)
