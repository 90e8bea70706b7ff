"""How one database, under one session's settings and one driver's placeholders, cuts SQL text into tokens.

Lexical rules are those of the databases' manuals: PostgreSQL "Lexical Structure", MySQL and MariaDB "Language Structure" and
"Comment Syntax", SQLite `tokenize.c`. Where two versions of a database differ, the text is refused by the recogniser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache


class Family(Enum):
    """Databases that read SQL alike."""

    POSTGRESQL = "postgresql"
    """PostgreSQL."""
    MYSQL = "mysql"
    """MySQL and MariaDB."""
    SQLITE = "sqlite"
    """SQLite."""


class Binds(Enum):
    """How a driver marks places for parameters."""

    PERCENT = "percent"
    """`%s` and `%(name)s`, with `%%` for a percent sign, also inside strings: psycopg, PyMySQL and their kin."""
    DOLLAR = "dollar"
    """`$1`: asyncpg, and PostgreSQL itself."""
    QUESTION = "question"
    """`?`: mariadb connector."""
    NATIVE = "native"
    """`?`, `?1`, `:name`, `@name`, `$name`: SQLite."""
    NONE = "none"
    """The text goes to the database as it stands: a driver of the first kind that is given no parameters."""


@dataclass(frozen=True, slots=True)
class Flavour:
    """One way to read SQL.

    Args:
        family: Of databases.
        binds: Of the driver.
        backslashes: Whether a backslash in a plain string escapes: MySQL without NO_BACKSLASH_ESCAPES.
        ansi_quotes: Whether double quotes are around names on MySQL too.
    """

    family: Family
    binds: Binds
    backslashes: bool = False
    ansi_quotes: bool = False

    def given(self, parameters: object) -> Flavour:
        """As a statement with these parameters is read: where there are none, no driver of the first kind looks for places."""
        return replace(self, binds=Binds.NONE) if parameters is None and self.binds is Binds.PERCENT else self


_LETTER = r"A-Za-z_\u0080-\U0010ffff"
_PLAIN = r"'(?:[^']|'')*'"
_ESCAPED = r"'(?:[^'\\]|\\.|'')*'"
_ESCAPED_DOUBLE = r'"(?:[^"\\]|\\.|"")*"'
_QUOTED = r'"(?:[^"]|"")*"'
_BACKTICKED = r"`(?:[^`]|``)*`"
_NUMBER = rf"(?:\d|\.\d)(?:[eE][+-]\d|[{_LETTER}0-9.])*"

_BINDS = {
    Binds.PERCENT: r"%(?:\([^)]*\))?[sbt]",
    Binds.DOLLAR: r"\$\d+",
    Binds.QUESTION: r"\?",
    Binds.NATIVE: rf"\?\d*|[:@$][{_LETTER}0-9$]+(?:::[{_LETTER}0-9$]+)*",
    Binds.NONE: r"(?!)",
}


@lru_cache
def pattern(flavour: Flavour) -> re.Pattern[str]:
    """Matches one token; the name of the group that matched is its kind.

    The groups: space, comment, executable (a comment that the database executes), open_comment (the start of one that may contain
    others), string, escaped (a string with backslash escapes), name, doubled (a percent sign), bind, variable, number, word, and
    sign.
    """
    bind = _BINDS[flavour.binds]
    doubled = "%%" if flavour.binds is Binds.PERCENT else "(?!)"
    parts: tuple[str, ...]
    match flavour.family:
        case Family.POSTGRESQL:
            parts = (
                r"(?P<space>[ \t\n\r\f\v]+)",
                r"(?P<comment>--[^\n\r]*)",
                r"(?P<open_comment>/\*)",
                rf"(?P<escaped>[eE]{_ESCAPED})",
                rf"(?P<string>(?:[bBxXnN]|[uU]&)?{_PLAIN}|\$(?P<tag>(?:[{_LETTER}][{_LETTER}0-9]*)?)\$.*?\$(?P=tag)\$)",
                rf"(?P<name>(?:[uU]&)?{_QUOTED})",
                rf"(?P<doubled>{doubled})",
                rf"(?P<bind>{bind})",
                rf"(?P<number>{_NUMBER})",
                rf"(?P<word>[{_LETTER}][{_LETTER}0-9$]*)",
                r"(?P<sign>::|:=|(?:(?!--|/\*)[<>=!~@#&|^?*/+-])+|.)",
            )
        case Family.MYSQL:
            plain = _ESCAPED if flavour.backslashes else _PLAIN
            double = _ESCAPED_DOUBLE if flavour.backslashes else _QUOTED
            string, name = (plain, f"{_BACKTICKED}|{_QUOTED}") if flavour.ansi_quotes else (f"{plain}|{double}", _BACKTICKED)
            parts = (
                r"(?P<space>[ \t\n\r\f\v]+)",
                r"(?P<executable>/\*M?!)",
                r"(?P<comment>#[^\n]*|--(?=[\x00-\x20]|\Z)[^\n]*|/\*.*?\*/)",
                r"(?P<escaped>(?!))",
                rf"(?P<string>[nNxXbB]?(?:{string}))",
                rf"(?P<name>{name})",
                rf"(?P<doubled>{doubled})",
                rf"(?P<bind>{bind})",
                rf"(?P<variable>@@?(?:[{_LETTER}0-9.$]+|{_BACKTICKED}|{_PLAIN}|{_QUOTED}))",
                rf"(?P<number>{_NUMBER})",
                rf"(?P<word>[{_LETTER}$][{_LETTER}0-9$]*)",
                r"(?P<sign>:=|[<>=!&|^]+|.)",
            )
        case Family.SQLITE:
            parts = (
                r"(?P<space>[ \t\n\r\f]+)",
                r"(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))",
                rf"(?P<string>[xX]?{_PLAIN})",
                rf"(?P<name>{_QUOTED}|{_BACKTICKED}|\[[^\]]*\])",
                rf"(?P<bind>{bind})",
                rf"(?P<number>{_NUMBER})",
                rf"(?P<word>[{_LETTER}][{_LETTER}0-9$]*)",
                r"(?P<sign>->>?|[<>=!|&]+|.)",
            )
    return re.compile("|".join(parts), re.DOTALL)
