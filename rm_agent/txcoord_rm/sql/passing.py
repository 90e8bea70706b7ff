"""Statements that neither query nor change rows by their first word: which of them may pass as they are, and which may not."""

from __future__ import annotations

from dataclasses import dataclass

from txcoord_rm.sql import words
from txcoord_rm.sql.flavour import Family
from txcoord_rm.sql.lexer import Kind
from txcoord_rm.sql.reader import Reader
from txcoord_rm.sql.statement import Verb


@dataclass(frozen=True, slots=True)
class Passing:
    """What such a statement is.

    Args:
        verb: What it does.
        savepoint: See `Statement`.
        unseen: See `Statement`.
    """

    verb: Verb
    savepoint: str = ""
    unseen: tuple[str, str] | None = None


def passes(reader: Reader, at: int) -> Passing:
    """What the statement is whose first word stands at a place.

    Raises:
        UnsupportedSqlError: It could not be undone for certain.
    """
    first, tokens, family = reader.word(at), reader.tokens, reader.family
    match first:
        case "SAVEPOINT":
            return Passing(Verb.SAVEPOINT, reader.name(at + 1))
        case "RELEASE":
            return Passing(Verb.RELEASE, reader.name(len(tokens) - 1))
        case "ROLLBACK" if any(reader.word(i) == "TO" for i in range(at, len(tokens))):
            return Passing(Verb.ROLLBACK_TO, reader.name(len(tokens) - 1))
        case "EXPLAIN" if _only_explains(reader, at):
            return Passing(Verb.READ)
        case "DECLARE" if family is Family.POSTGRESQL and not any(
            reader.word(i) == "FOR" and reader.word(i + 1) in words.LOCKS for i in range(at, len(tokens) - 1)
        ):
            return Passing(Verb.READ)
        case "PRAGMA" if _is_telling(reader, at):
            return Passing(Verb.READ)
        case "SET" if _sets(reader, at) in words.SETTINGS[family] or _sets_own(reader, at):
            return Passing(Verb.READ)
        case "CALL" | "DO" if family is Family.POSTGRESQL:
            return Passing(Verb.OTHER, unseen=words.REASONS[first])
        case "COPY" if family is Family.POSTGRESQL and _copies_a_file(reader, at):
            return Passing(Verb.OTHER, unseen=words.REASONS[first])
        case _ if first in words.PASSING[family]:
            return Passing(Verb.READ)
    raise reader.refuse(*words.REASONS.get(first, words.UNKNOWN))


def _copies_a_file(reader: Reader, at: int) -> bool:
    """Whether it reads a file on the server: from anywhere else the driver's cursor has to send the rows."""
    places = range(at, len(reader.tokens) - 1)
    return any(reader.word(i) == "FROM" and not reader.tokens[i].depth and reader.kind(i + 1) is Kind.STRING for i in places)


def _only_explains(reader: Reader, at: int) -> bool:
    """Whether nothing but harmless options stands before the statement that is explained."""
    for i in range(at + 1, len(reader.tokens)):
        if reader.word(i) in words.QUERIES | words.CHANGES | {"WITH"}:
            return True
        if reader.at(i) not in words.EXPLAIN:
            break
    return False


def _is_telling(reader: Reader, at: int) -> bool:
    name = at + 3 if reader.sign(at + 2) == "." else at + 1
    return not any(t.text == "=" for t in reader.tokens) and reader.name(name).upper() in words.PRAGMAS


def _setting(reader: Reader, at: int) -> int:
    """Where the first name stands that SET sets."""
    place = at + 1
    while place < len(reader.tokens) and reader.word(place) in ("LOCAL", "SESSION"):
        place += 1
    return place


def _sets(reader: Reader, at: int) -> str:
    """The name of the one setting that SET sets, in upper case; empty: something else."""
    if any(token.text == "," and token.depth == 0 for token in reader.tokens) and reader.family is Family.MYSQL:
        return ""
    i = _setting(reader, at)
    return reader.word(i) if i < len(reader.tokens) else ""


def _sets_own(reader: Reader, at: int) -> bool:
    """Whether it sets what only the application knows: `@x`, `app.user`."""
    i = _setting(reader, at)
    if i + 1 >= len(reader.tokens):
        return False
    if reader.family is Family.MYSQL:
        alone = not any(t.text == "," or t.text.startswith("@@") for t in reader.tokens)
        return alone and reader.tokens[i].kind is Kind.VARIABLE
    return reader.family is Family.POSTGRESQL and reader.tokens[i + 1].text == "."
