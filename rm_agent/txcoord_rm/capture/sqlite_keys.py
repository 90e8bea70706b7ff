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


def keys(table: SqliteTable, event: Event, changed: frozenset[str], rows: Sequence[Mapping[str, Value]]) -> Iterable[str]:
    """The keys that a change of a row needs.

    Args:
        table: The row's.
        event: What happens to it.
        changed: Columns that an UPDATE may change.
        rows: It, as it is before and after, or one of them.
    """
    for row in rows:
        yield _key(table, table.primary_key, table.key_collations, row)
    for unique, collations in zip(table.uniques, table.unique_collations):
        if not unique.columns:
            yield f"{'.'.join(table.root)}({unique.name})=*"
        elif event is not Event.UPDATE or unique.partial or not changed.isdisjoint(unique.columns):
            for row in rows:
                if all(row[name] is not None for name in unique.columns):
                    yield _key(table, unique.columns, collations, row)


def primary(table: SqliteTable, values: Iterable[Value]) -> str:
    """The key of the row with these values of the primary key."""
    return _key(table, table.primary_key, table.key_collations, dict(zip(table.primary_key, values)))


def _key(table: SqliteTable, columns: tuple[str, ...], collations: tuple[str, ...], row: Mapping[str, Value]) -> str:
    values = (_canonical(row[name], collation) for name, collation in zip(columns, collations, strict=True))
    return f"{'.'.join(table.root)}({','.join(columns)})=({','.join(values)})"


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
