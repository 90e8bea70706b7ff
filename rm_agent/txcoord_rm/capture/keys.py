"""Keys of global locks as expressions of PostgreSQL: rows that could collide have one key, however their values are written.

A key names table, columns and values, `public.stock(sku)=(A-100)`, so that a person can read it. Two different things with one
key only wait for each other for nothing; one thing with two keys would be two holders of one lock. So where equality of a type is
not known here, all rows share one key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from txcoord_rm.catalogue.table import Column, Event, Table
from txcoord_rm.sql.quoting import literal, quoted

_AS_WRITTEN = frozenset(
    {"smallint", "integer", "bigint", "oid", "boolean", "uuid", "date", "inet", "macaddr", "bit", "bit varying"}
    | {"timestamp without time zone", "time without time zone", "character", "character varying", "text", "name"}
)
"""Types whose equal values have equal texts; of those with a collation, where that is deterministic."""
_QUOTED = re.compile(r'[\s"\\(),]', re.ASCII)


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


@dataclass(frozen=True, slots=True)
class Need:
    """Something in which rows differ, and which is locked.

    Args:
        index: The name of the index; of the primary key: empty.
        columns: By which rows are told apart; empty: all share one key.
        nulls_equal: Whether rows without a value are told apart, too.
        moved: Whether the row may have had something else before.
    """

    index: str
    columns: tuple[str, ...]
    nulls_equal: bool
    moved: bool


def record(values: Iterable[str]) -> str:
    """What PostgreSQL makes of `ROW(...)::text`, of texts in ASCII: what of other characters is white space, its locale says."""
    return f"({','.join(_field(value) for value in values)})"


def _field(value: str) -> str:
    if value and not _QUOTED.search(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '""') + '"'


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
        rows = {Event.INSERT: (new,), Event.DELETE: (old,), Event.UPDATE: (new, old)}[event]
        found: list[str] = []
        for need in self.needs(event, changed):
            if not need.columns:
                found.append(literal(self.shared(need.index)))
            else:
                found += [self._key(need, row) for row in (rows if need.moved else (new,))]
        return list(dict.fromkeys(found))

    def needs(self, event: Event, changed: Iterable[str]) -> list[Need]:
        """What of a row is locked. Arguments are those of `expressions`."""
        table, columns, update = self._table, set(changed), event is Event.UPDATE
        moved = not update or not columns.isdisjoint(table.primary_key)
        found = [Need("", table.primary_key, nulls_equal=True, moved=moved)]
        for unique in table.uniques:
            if not unique.columns or not update or unique.partial or not columns.isdisjoint(unique.columns):
                found.append(Need(unique.name, unique.columns, unique.nulls_equal, moved=True))
        return found

    def shared(self, index: str) -> str:
        """The one key of all rows under an index of which equality is not known."""
        return f"{self._prefix}({index})=*"

    def known(self, values: Iterable[str]) -> str:
        """The key of a row whose primary key has values of which these are the canonical texts."""
        return f"{self._prefix}({','.join(self._table.primary_key)})={record(values)}"

    def _key(self, need: Need, row: Row) -> str:
        columns = need.columns
        values = [_canonical(self._table.column(name), row) for name in columns]
        prefix = f"{self._prefix}({','.join(columns)})="
        if None in values:
            return literal(prefix + "*")
        key = f"{literal(prefix)} || ROW({', '.join(str(value) for value in values)})::text"
        if need.nulls_equal:
            return key
        missing = " OR ".join(f"{row.cell(name)} IS NULL" for name in columns)
        return f"CASE WHEN {missing} THEN NULL ELSE {key} END"
