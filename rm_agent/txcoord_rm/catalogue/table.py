"""A table as capture and restore see it, and why a change of one cannot be captured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias


class Event(Enum):
    """A change of a row."""

    INSERT = "INSERT"
    """A row comes."""
    UPDATE = "UPDATE"
    """A row changes."""
    DELETE = "DELETE"
    """A row goes."""

    @property
    def undone(self) -> Event:
        """What an undo does to the row."""
        return {Event.INSERT: Event.DELETE, Event.DELETE: Event.INSERT}.get(self, self)


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Args:
        name: Its name.
        type: Its type with modifiers, as the database writes it.
        base: The type below a domain, without modifiers: what equality of its values depends on.
        generated: Whether its value follows from others, so that nobody writes it.
        identity: Whether the database numbers it, always.
        deterministic: Whether two texts are equal only when their bytes are.
        writer: A function that its default calls and that may write rows; empty: none.
        charset, collation: Of a text, where they are the column's own.
        numbered: Whether the database numbers it where no value is given.
        touched: Whether the database sets it whenever the row changes and it is not assigned to.
    """

    name: str
    type: str
    base: str
    generated: bool = False
    identity: bool = False
    deterministic: bool = True
    writer: str = ""
    charset: str = ""
    collation: str = ""
    numbered: bool = False
    touched: bool = False


@dataclass(frozen=True, slots=True)
class Expression:
    """What a unique index says of a row, where it is not a column.

    Args:
        sql: It, with names of columns as they stand in a query of the table alone.
        base: See `Column`.
        deterministic: See `Column`.
    """

    sql: str
    base: str
    deterministic: bool = True


@dataclass(frozen=True, slots=True)
class Unique:
    """A rule, beside the primary key, that rows of a table must differ in something.

    Args:
        name: Of its index; of a partition's: of the index of the whole.
        columns: In which they must differ; empty: in what columns alone do not tell (an expression, another operator).
        partial: Whether it holds for a part of the rows only.
        nulls_equal: Whether two rows without a value are equal.
        expressions: In which they must differ, where that are not columns alone and may be asked of any row; else empty.
        depends: All columns of which it speaks, those of its condition among them; empty: not known.
    """

    name: str
    columns: tuple[str, ...]
    partial: bool = False
    nulls_equal: bool = False
    expressions: tuple[Expression, ...] = ()
    depends: tuple[str, ...] = ()

    def concerns(self, changed: Iterable[str]) -> bool:
        """Whether it may hold for a row otherwise than before, once columns have changed."""
        return not self.depends or not set(self.depends).isdisjoint(changed)


@dataclass(frozen=True, slots=True)
class Trigger:
    """A row trigger, or one of statements, that users have made.

    Args:
        name: Its name.
        events: On which it fires.
        after: Whether it fires after the row has changed, so that it may change it again.
        own_row_only: Whether it is known to touch nothing but the row itself.
        aside: Whether it does not fire while rows are put back.
    """

    name: str
    events: frozenset[Event]
    after: bool
    own_row_only: bool
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key of another table to this one, by which a change here changes rows there.

    Args:
        table: The other table, as it is written in SQL.
        their_columns: Of the other table, by which it refers to this one.
        columns: Of this table, that it refers to.
        on_delete, on_update: Whether rows there go, or change, together with the row here.
        to_itself: Whether the other table is this one.
        follows: Whether a change of the columns here gives the rows there what the row here got, and nothing else.
        name: Schema and name of the other table, where it follows.
    """

    table: str
    their_columns: tuple[str, ...]
    columns: tuple[str, ...]
    on_delete: bool
    on_update: bool
    to_itself: bool = False
    follows: bool = False
    name: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Table:
    """What the catalogue says of a table.

    Args:
        oid: The database's number for it, where there is one.
        schema, name: Its name; of a partition: its own.
        root: Schema and name of the partitioned table to which it belongs, or its own: locks are taken under this name.
        columns: In order.
        primary_key: In the order of its index; empty: it has none.
        uniques: What else rows must differ in.
        triggers: Of users.
        references: By which other tables change with this one.
        partitioned: Whether its rows are in partitions, between which an UPDATE may move them.
        obstacle: Why it cannot be captured at all; empty: it can.
        altered: A condition in SQL that is true once the catalogue says something else; empty: there is none.
        capturing: Names of triggers of ours that capture its changes, and a digest of what they do; empty where they do not fire.
    """

    oid: int
    schema: str
    name: str
    root: tuple[str, str]
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    uniques: tuple[Unique, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    references: tuple[Reference, ...] = ()
    partitioned: bool = False
    obstacle: str = ""
    altered: str = ""
    capturing: tuple[tuple[str, str], ...] = ()

    def __hash__(self) -> int:
        return hash((self.oid, self.schema, self.name))

    def follows(self, assigned: Iterable[str]) -> frozenset[str]:
        """Columns that change with those that are assigned to."""
        changed = frozenset(assigned)
        return changed | {c.name for c in self.columns if c.generated or c.touched} if changed else changed

    def column(self, name: str) -> Column:
        """The column of that name."""
        return next(column for column in self.columns if column.name == name)

    def fires(self, event: Event, after: bool) -> bool:
        """Whether a trigger of users fires before or after an event."""
        return any(event in trigger.events and trigger.after is after for trigger in self.triggers)

    def triggered(self, event: Event, but_aside: bool = False) -> str:
        """What a trigger may change that no capture of the statement sees; empty: nothing.

        Args:
            event: What happens to a row.
            but_aside: Whether triggers do not count that do not fire while rows are put back.
        """
        fires = (t for t in self.triggers if event in t.events and not t.own_row_only)
        names = (trigger.name for trigger in fires if not (but_aside and trigger.aside))
        return next((f"the trigger {name} may change other rows" for name in names), "")

    def carrying(self, event: Event, changed: Iterable[str]) -> Iterator[Reference]:
        """References by which rows of other tables change with a row.

        Args:
            event: What happens to the row.
            changed: Columns that an UPDATE changes.
        """
        for reference in self.references:
            moved = event is Event.UPDATE and reference.on_update and not set(reference.columns).isdisjoint(changed)
            if (event is Event.DELETE and reference.on_delete) or moved:
                yield reference

    def carried_on(self, event: Event, changed: Iterable[str]) -> str:
        """Which rows of other tables change with a row; empty: none. Arguments are those of `carrying`."""
        tables = (reference.table for reference in self.carrying(event, changed))
        return next((f"rows of {table} change with it by a foreign key" for table in tables), "")


Happening: TypeAlias = tuple[Table, Event, frozenset[str]]
"""Rows of a table come, go or change in some columns."""


def spread(
    begin: Iterable[Happening], read: Callable[[str], Table]
) -> Iterator[tuple[Table, Event, frozenset[str], Reference | None]]:
    """What happens to rows, of these tables and of others, by foreign keys; each with the one by which it does.

    Args:
        begin: What happens first.
        read: What the catalogue says of a table by its name, as it is written in SQL.
    """
    pending: list[tuple[Table, Event, frozenset[str], Reference | None]] = [(*happening, None) for happening in begin]
    seen = set[tuple[int, Event, frozenset[str]]]()
    while pending:
        table, event, changed, by = pending.pop()
        if (table.oid, event, changed) not in seen:
            seen.add((table.oid, event, changed))
            yield table, event, changed, by
            for reference in table.carrying(event, changed):
                other = table if reference.to_itself else read(reference.table)
                pending.append((other, Event.UPDATE, other.follows(reference.their_columns), reference))
                if event is Event.DELETE:
                    pending.append((other, Event.DELETE, frozenset(), reference))
