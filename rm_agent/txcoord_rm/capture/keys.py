"""Keys of global locks as expressions of PostgreSQL: rows that could collide have one key, however their values are written.

A key names table, columns and values, `public.stock(sku)=(A-100)`, so that a person can read it. Two different things with one
key only wait for each other for nothing; one thing with two keys would be two holders of one lock. So where equality of a type is
not known here, all rows share one key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from txcoord_rm.catalogue.table import Column, Event, Expression, Table, Unique
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
        absent: A condition that there is no such row; empty: there is always one.
    """

    name: str
    columns: Mapping[str, str] = field(default_factory=dict)
    absent: str = ""

    def cell(self, column: str) -> str:
        """What it has in a column of the table."""
        return f"{self.name}.{self.columns.get(column) or quoted(column)}"

    def record(self, columns: Iterable[str]) -> str:
        """Its columns as one text."""
        return f"ROW({', '.join(self.cell(column) for column in columns)})::text"


def _canonical(kind: Column | Expression, value: str) -> str | None:
    """A text that is the same for equal values of a column, or of what an index makes of columns; None: not known."""
    if not kind.deterministic:
        return None
    match kind.base:
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
        unique: The rule that it is for.
        moved: Whether the row may have had something else before.
    """

    unique: Unique
    moved: bool

    @property
    def shared(self) -> bool:
        """Whether all rows share one key."""
        return not self.unique.columns and not self.unique.expressions


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
            if need.shared:
                found.append(literal(self.shared(need)))
            else:
                found += [self.of(need.unique, row) for row in (rows if need.moved else (new,))]
        return list(dict.fromkeys(found))

    def primary(self, row: Row) -> str:
        """The expression of a row's own key."""
        return self.of(Unique("", self._table.primary_key, nulls_equal=True), row)

    def needs(self, event: Event, changed: Iterable[str]) -> list[Need]:
        """What of a row is locked, the primary key first. Arguments are those of `expressions`."""
        table, columns, update = self._table, set(changed), event is Event.UPDATE
        primary = Unique("", table.primary_key, nulls_equal=True)
        moved = not update or not columns.isdisjoint(table.primary_key)
        others = [Need(unique, moved=True) for unique in table.uniques if not update or unique.concerns(columns)]
        return [Need(primary, moved), *others]

    def shared(self, need: Need) -> str:
        """The one key of all rows under a rule of which equality is not known."""
        return f"{self._prefix}({need.unique.name})=*"

    def known(self, values: Iterable[str]) -> str:
        """The key of a row whose primary key has values of which these are the canonical texts."""
        return f"{self._prefix}({','.join(self._table.primary_key)})={record(values)}"

    def of(self, unique: Unique, row: Row) -> str:
        """The expression of a row's key under a rule of which equality is known; NULL: it needs none."""
        source = ""
        if unique.columns:
            name = ",".join(unique.columns)
            kinds: list[tuple[Column | Expression, str]] = [
                (self._table.column(column), row.cell(column)) for column in unique.columns
            ]
        else:
            name = unique.name
            kinds = [(expression, f"({expression.sql})") for expression in unique.expressions]
            source = ", ".join(f"{row.cell(column)} AS {quoted(column)}" for column in unique.depends)
        values = [_canonical(kind, value) for kind, value in kinds]
        prefix = f"{self._prefix}({name})="
        if None in values:
            return literal(prefix + "*")
        key = f"{literal(prefix)} || ROW({', '.join(str(value) for value in values)})::text"
        missing = [row.absent] if row.absent else []
        missing += [] if unique.nulls_equal else [f"{value} IS NULL" for _, value in kinds]
        if missing:
            key = f"CASE WHEN {' OR '.join(missing)} THEN NULL ELSE {key} END"
        return f"(SELECT {key} FROM (SELECT {source}) AS txcoord_x)" if source else key
