"""Values of MySQL's and MariaDB's types as texts, and back: exact, whatever the session's time zone and the driver are.

A text is made by the database, so that no driver's idea of a type stands between: bytes in hexadecimal, floating-point numbers so
that they are read back to the bit, TIMESTAMP in UTC (its local form says nothing certain in the hour that a clock is put back),
ENUM and SET with their number.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence

from txcoord_rm.catalogue.table import Column
from txcoord_rm.sql.backticks import literal, quoted

_INTEGERS = frozenset({"tinyint", "smallint", "mediumint", "int", "integer", "bigint", "year"})
_FLOATS = frozenset({"float", "double", "real"})
_BYTES = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_SHAPES = frozenset(
    {"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geometrycollection"}
    | {"geomcollection"}
)
_TEXTS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext"})
_LABELS = frozenset({"enum", "set"})
_AS_WRITTEN = frozenset({"date", "time", "datetime", "uuid", "inet4", "inet6"})
_NUMBER = re.compile(r"-?[0-9.]+(?:e[+-]?[0-9]+)?", re.ASCII)
_INTEGER_LIST = re.compile(r"-?[0-9]+(?:,-?[0-9]+)*", re.ASCII)
_HEX = re.compile(r"(?:[0-9A-F]{2})*", re.ASCII)
_READABLE = frozenset({"utf8mb4", "utf8mb3", "utf8", "ascii"})
"""Character sets whose bytes are those of utf8mb4. Of others the bytes are kept: a constant has to be of the column's own
character set, for MariaDB 10.11 does not find it in a list of rows otherwise."""
_LONG = 4096
TOO_LONG = "?"
"""Instead of bytes whose text is longer than max_allowed_packet: of that the database would make NULL."""


class UnknownTypeError(Exception):
    """Values of a column's type are not known to have an exact text."""

    def __init__(self, column: Column) -> None:
        super().__init__(f"values of the type {column.type} of column {column.name} are not known to have an exact text")


def by_bytes(column: Column) -> bool:
    """Whether the texts are hexadecimal."""
    return column.base in _BYTES | _SHAPES or (column.base in _TEXTS and column.charset not in _READABLE)


def image(column: Column, row: str) -> str:
    """SQL for the exact text of what a row has in a column.

    Args:
        column: It.
        row: What the row is called.

    Raises:
        UnknownTypeError: There is none.
    """
    return _image(column, f"{row}.{quoted(column.name)}")


def _image(column: Column, cell: str) -> str:
    base = column.base
    if by_bytes(column):
        return f"COALESCE(HEX({cell}), IF({cell} IS NULL, NULL, '{TOO_LONG}'))"
    if base in _INTEGERS or base == "bit":
        return f"CAST({cell} + 0 AS CHAR)"
    if base == "decimal" or base in _AS_WRITTEN or base == "json":
        return f"CAST({cell} AS CHAR)"
    if base in _FLOATS:
        return f"CAST({cell} * 1e0 AS CHAR)"
    if base == "timestamp":
        since = f"UNIX_TIMESTAMP({cell})"  # of a column it is what is stored, of any other expression it is not
        return (
            f"CASE {since} WHEN 0 THEN '0000-00-00 00:00:00' "
            f"ELSE CAST(TIMESTAMP'1970-01-01 00:00:00' + INTERVAL {since} SECOND AS CHAR) END"
        )
    if base in _LABELS:
        return f"CONCAT({cell} + 0, ' ', CONVERT({cell} USING utf8mb4))"
    if base in _TEXTS:
        return f"CONVERT({cell} USING utf8mb4)"
    raise UnknownTypeError(column)


def constant(column: Column, text: str | None, in_utc: bool = False) -> str:
    """SQL for the value that has a text.

    Args:
        column: It.
        text: See `image`; None: NULL.
        in_utc: Whether the session's time zone is UTC: then TIMESTAMP is written as it is read.

    Raises:
        UnknownTypeError: There is none.
        ValueError: The text is none of this type's.
    """
    base = column.base
    if text is None:
        return "NULL"
    if by_bytes(column):
        return _bytes(column, _matching(_HEX, text))
    if base in _INTEGERS or base in ("decimal", "bit"):
        return _matching(_NUMBER, text)
    if base in _FLOATS:
        return text if "e" in _matching(_NUMBER, text) else f"{text}e0"
    if base == "timestamp" and not in_utc:
        raise UnknownTypeError(column)
    if base in _AS_WRITTEN or base == "timestamp":
        return literal(text)
    if base in _LABELS:
        return _matching(_NUMBER, text.partition(" ")[0])
    if base in _TEXTS or base == "json":
        return text_constant(text, column.charset or "utf8mb4")
    raise UnknownTypeError(column)


def constants(column: Column, texts: Sequence[str]) -> Sequence[str]:
    """SQL for the values that have texts, none of which is NULL. See `constant`."""
    if column.base in _INTEGERS and texts:
        _matching(_INTEGER_LIST, ",".join(texts))
        return texts
    return [literal(text) if column.base == "timestamp" else constant(column, text) for text in texts]


def in_json(column: Column, cell: str, text: str) -> str:
    """SQL for a text of a value as JSON has it; NULL, which leaves out its row, where that would be longer than a packet.

    Args:
        column: The value's.
        cell: SQL for it.
        text: SQL for its text, as `image` or `canonical` makes it.
    """
    if column.base in _TEXTS | _LABELS or column.base == "json":
        written = f"CONVERT(JSON_QUOTE({text}) USING utf8mb4)"
    else:
        written = f"""CONCAT('"', CONVERT({text} USING utf8mb4), '"')"""
    return f"IF({cell} IS NULL, 'null', {written})"


def of_column(column: Column, value: str) -> str:
    """SQL for a text as one of a column's character set and collation."""
    return f"CONVERT({value} USING {column.charset}) COLLATE {column.collation}"


def compared(column: Column, value: str) -> str:
    """SQL for another table's value, which `constant` made, such that the index of a column is used where it is compared."""
    if column.base in _TEXTS:
        return of_column(column, value)
    return value


def canonical(column: Column, cell: str) -> str:
    """SQL for a text that is the same for values which a unique index takes for equal.

    Args:
        column: It.
        cell: SQL for a value of its type, character set and collation.

    Raises:
        UnknownTypeError: There is none.
    """
    if column.base in _FLOATS:
        return f"CAST({cell} * 1e0 + 0e0 AS CHAR)"  # -0 is 0
    if column.base in _LABELS:
        return f"CAST({cell} + 0 AS CHAR)"
    if column.base not in _TEXTS:
        return _image(column, cell)
    match bytewise(column):
        case "exact":
            return f"CONVERT({cell} USING utf8mb4)"
        case "padded":
            return f"TRIM(TRAILING ' ' FROM CONVERT({cell} USING utf8mb4))"
    if not _pads(column):
        return f"HEX(WEIGHT_STRING({cell}))"
    space = f"HEX(WEIGHT_STRING(CONVERT(' ' USING {column.charset}) COLLATE {column.collation}))"
    return f"TRIM(TRAILING {space} FROM HEX(WEIGHT_STRING({cell})))"


def bytewise(column: Column) -> str:
    """How texts of a column are compared: `exact`ly, with blanks at the end left out (`padded`), or otherwise (empty)."""
    if column.charset not in _READABLE or not column.collation.endswith("_bin"):
        return ""
    return "padded" if _pads(column) else "exact"


def _pads(column: Column) -> bool:
    """Whether texts are equal that differ in blanks at their end only."""
    return "nopad" not in column.collation and "0900" not in column.collation


def is_whole_number(column: Column) -> bool:
    """Whether it holds integers."""
    return column.base in _INTEGERS - {"year"}


def is_text(column: Column) -> bool:
    """Whether it holds texts."""
    return column.base in _TEXTS


def text_constant(text: str, charset: str = "utf8mb4") -> str:
    """SQL for a text, whatever it is made of, in a character set whose bytes are those of utf8mb4."""
    data = text.encode()
    if len(data) <= _LONG:
        return f"_{charset} x'{data.hex()}'"
    return f"CONVERT(FROM_BASE64('{b64encode(data).decode()}') USING {charset})"


def _matching(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no value of that type")
    return text


def _bytes(column: Column, digits: str) -> str:
    if column.base in _TEXTS:
        return f"_{column.charset} x'{digits}'"
    if column.base in _SHAPES:
        srid = int.from_bytes(bytes.fromhex(digits[:8]), "little")
        return f"ST_GeomFromWKB(x'{digits[8:]}', {srid})"
    return f"x'{digits}'" if len(digits) <= 2 * _LONG else f"FROM_BASE64('{b64encode(bytes.fromhex(digits)).decode()}')"
