"""Keys of global locks on SQLite, from values as it has stored them: rows that could collide have one key.

See `keys` for their form. Equality is SQLite's: 1 and 1.0 are equal, a text and a number never are (though their keys are, which
only over-locks), NOCASE folds ASCII letters and looks no further than a NUL, RTRIM ignores blanks at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from txcoord_rm.catalogue.sqlite import SqliteTable
from txcoord_rm.catalogue.table import Event
from txcoord_rm.undo.item import Value

_PLAIN = re.compile(r"[^\s\"(),\\]+")


def needed(table: SqliteTable, event: Event, changed: frozenset[str]) -> frozenset[str]:
    """Columns whose values `keys` needs."""
    found = set(table.primary_key)
    for unique in table.uniques:
        if event is not Event.UPDATE or unique.partial or not changed.isdisjoint(unique.columns):
            found.update(unique.columns)
    return frozenset(found)


def keys(table: SqliteTable, event: Event, changed: frozenset[str], rows: Mapping[str, Sequence[Value]]) -> set[str]:
    """The keys that changes of rows need.

    Args:
        table: Their own.
        event: What happens to them.
        changed: Columns that an UPDATE may change.
        rows: Columns of them, as they are before and after.
    """
    found = set(_keys(table, table.primary_key, table.key_collations, rows))
    for unique, collations in zip(table.uniques, table.unique_collations):
        if not unique.columns:
            if found:
                found.add(f"{'.'.join(table.root)}({unique.name})=*")
        elif event is not Event.UPDATE or unique.partial or not changed.isdisjoint(unique.columns):
            found.update(_keys(table, unique.columns, collations, rows))
    return found


def primary(table: SqliteTable, values: Iterable[Value]) -> str:
    """The key of the row with these values of the primary key."""
    (key,) = _keys(table, table.primary_key, table.key_collations, {n: (v,) for n, v in zip(table.primary_key, values)})
    return key


def _keys(
    table: SqliteTable, columns: tuple[str, ...], collations: tuple[str, ...], rows: Mapping[str, Sequence[Value]]
) -> Iterable[str]:
    """Of the rows that have a value in each of the columns."""
    prefix = f"{'.'.join(table.root)}({','.join(columns)})=("
    if len(columns) == 1:
        values = dict.fromkeys(rows[columns[0]])
        if set(map(type, values)) == {int}:
            return [f"{prefix}{number})" for number in map(str, values)]
        return [f"{prefix}{_canonical(value, collations[0])})" for value in values if value is not None]
    return [
        f"{prefix}{','.join(map(_canonical, row, collations))})"
        for row in dict.fromkeys(zip(*(rows[name] for name in columns)))
        if None not in row
    ]


def _canonical(value: Value, collation: str) -> str:
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str):
        return "" if value is None else str(value)
    if collation == "NOCASE":
        value = "".join(c.lower() if c.isascii() else c for c in value.split("\0", 1)[0])
    elif collation == "RTRIM":
        value = value.rstrip(" ")
    if not value.isprintable():  # nor is every text that SQLite holds one that may stand in a key
        return f"t'{value.encode('utf-8', 'surrogateescape').hex()}'"
    return value if _PLAIN.fullmatch(value) else '"' + value.replace("\\", "\\\\").replace('"', '""') + '"'
