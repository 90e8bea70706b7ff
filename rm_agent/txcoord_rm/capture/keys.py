"""Keys of global locks as expressions of PostgreSQL: rows that could collide have one key, however their values are written.

A key names table, columns and values, `public.stock(sku)=(A-100)`, so that a person can read it. Two different things with one
key only wait for each other for nothing; one thing with two keys would be two holders of one lock. So where equality of a type is
not known here, all rows share one key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from txcoord_rm.catalogue.table import Column, Event, Table
from txcoord_rm.sql.quoting import literal, quoted

_AS_WRITTEN = frozenset(
    {"smallint", "integer", "bigint", "oid", "boolean", "uuid", "date", "inet", "macaddr", "bit", "bit varying"}
    | {"timestamp without time zone", "time without time zone", "character", "character varying", "text", "name"}
)
"""Types whose equal values have equal texts; of those with a collation, where that is deterministic."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a row is called in SQL.

    Args:
        name: Its name.
        columns: What its columns are called, where they are not called as those of the table.
    """

    name: str
    columns: Mapping[str, str] = field(default_factory=dict)

    def cell(self, column: str) -> str:
        """What it has in a column of the table."""
        return f"{self.name}.{self.columns.get(column) or quoted(column)}"

    def record(self, columns: Iterable[str]) -> str:
        """Its columns as one text."""
        return f"ROW({', '.join(self.cell(column) for column in columns)})::text"


def _canonical(column: Column, row: Row) -> str | None:
    """A text that is the same for equal values; None: not known."""
    value = row.cell(column.name)
    if not column.deterministic:
        return None
    match column.base:
        case base if base in _AS_WRITTEN:
            return f"{value}::text"
        case "bytea":
            return f"encode({value}, 'hex')"
        case "numeric":
            return f"trim_scale({value})::text"
        case "real" | "double precision":
            return f"({value} + 0)::text"  # -0 is 0
        case "timestamp with time zone":
            return f"({value} AT TIME ZONE 'UTC')::text"
        case base if base.rpartition(".")[2] == "citext":
            return f'lower({value}::text COLLATE "default")'
    return None


class Keys:
    """Of one table.

    Args:
        table: It.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._prefix = ".".join(table.root)

    def expressions(self, event: Event, changed: Iterable[str], old: Row, new: Row) -> list[str]:
        """Of the keys that a row needs; NULL: none.

        Args:
            event: What happens to it.
            changed: Columns that an UPDATE may change.
            old: What the row is called before.
            new: And after.
        """
        table, columns = self._table, set(changed)
        rows = {Event.INSERT: (new,), Event.DELETE: (old,), Event.UPDATE: (new, old)}[event]
        moved = event is not Event.UPDATE or not columns.isdisjoint(table.primary_key)
        found = [self._key(table.primary_key, row, nulls_equal=True) for row in (rows if moved else (new,))]
        for unique in table.uniques:
            if not unique.columns:
                found.append(literal(f"{self._prefix}({unique.name})=*"))
            elif event is not Event.UPDATE or unique.partial or not columns.isdisjoint(unique.columns):
                found += [self._key(unique.columns, row, unique.nulls_equal) for row in rows]
        return list(dict.fromkeys(found))

    def _key(self, columns: tuple[str, ...], row: Row, nulls_equal: bool) -> str:
        values = [_canonical(self._table.column(name), row) for name in columns]
        prefix = f"{self._prefix}({','.join(columns)})="
        if None in values:
            return literal(prefix + "*")
        key = f"{literal(prefix)} || ROW({', '.join(str(value) for value in values)})::text"
        if nulls_equal:
            return key
        missing = " OR ".join(f"{row.cell(name)} IS NULL" for name in columns)
        return f"CASE WHEN {missing} THEN NULL ELSE {key} END"
