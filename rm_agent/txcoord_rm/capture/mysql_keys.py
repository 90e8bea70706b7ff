"""Rows of MySQL and MariaDB as they are read: their images, and the keys of their global locks.

A key names table, columns and values, `shop.stock(sku)=(A-100)`, so that a person can read it, where texts that are equal are
written alike; of other collations the values are the weights by which the database compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from txcoord_rm.capture.mysql_values import TOO_LONG, by_bytes, canonical, image
from txcoord_rm.catalogue.table import Event, Table
from txcoord_rm.sql.backticks import quoted

_PLAIN = re.compile(r'[^\s",()\\]+')


@dataclass(frozen=True, slots=True)
class Seen:
    """A row, as it was read.

    Args:
        image: Texts of the columns of its image.
        key: Those of its primary key.
        canonical: Of columns that lock keys need: texts that are the same for equal values; None: NULL.
    """

    image: tuple[str | None, ...]
    key: tuple[str, ...]
    canonical: Mapping[str, str | None]


class ImageTooLargeError(Exception):
    """A value is too long for an image of it."""


class Keys:
    """Names of the global locks of one table.

    Args:
        table: It.
        event: What happens to its rows.
        changed: Columns that an UPDATE may change.
    """

    def __init__(self, table: Table, event: Event, changed: Iterable[str] = ()) -> None:
        columns = set(changed)
        self._prefix = ".".join(table.root)
        self._event = event
        self._primary = table.primary_key
        self.moves = event is Event.UPDATE and not columns.isdisjoint(table.primary_key)
        """Whether an UPDATE gives rows other primary keys."""
        touched = [u for u in table.uniques if event is not Event.UPDATE or not u.columns or not columns.isdisjoint(u.columns)]
        self._uniques = [unique.columns for unique in touched if unique.columns]
        self._whole = frozenset(f"{self._prefix}({unique.name})=*" for unique in touched if not unique.columns)

    @property
    def columns(self) -> frozenset[str]:
        """Columns whose canonical texts they are made of."""
        return frozenset(self._primary).union(*self._uniques)

    @property
    def by_primary_key(self) -> bool:
        """Whether the primary key alone says them all, also before the change."""
        return not self._uniques and not self.moves

    @property
    def foreseeable(self) -> bool:
        """Whether the rows before the change say them all."""
        return self._event is Event.DELETE or (self._event is Event.UPDATE and self.by_primary_key)

    def of(self, old: Mapping[str, str | None] | None, new: Mapping[str, str | None] | None) -> set[str]:
        """Those that a row needs.

        Args:
            old: Canonical texts of its columns before the change; None: there was no row.
            new: The same after it.
        """
        rows = [row for row in (new, old) if row is not None]
        found = {self._key(self._primary, row) for row in (rows if self.moves else rows[:1])} | self._whole
        found |= {self._key(unique, row) for unique in self._uniques for row in rows}
        return {key for key in found if key}

    def primary(self, row: Mapping[str, str | None]) -> str:
        """The row's own; empty: there is no row."""
        return self._key(self._primary, row)

    def _key(self, columns: tuple[str, ...], row: Mapping[str, str | None]) -> str:
        """Empty where a value is missing: such rows are never equal."""
        values = [row[column] for column in columns]
        written = ",".join(_written(value) for value in values if value is not None)
        return "" if None in values else f"{self._prefix}({','.join(columns)})=({written})"


def _written(value: str) -> str:
    """So that two lists of values are written alike only if they are alike."""
    return value if _PLAIN.fullmatch(value) else '"' + value.replace('"', '""') + '"'


class Reading:
    """What is selected of rows of a table, and how it is read.

    Args:
        table: It.
        images: Columns of the images; those of the primary key are among them.
        keyed: Columns of which canonical texts are wanted.

    Raises:
        UnknownTypeError: A column has no exact text.
    """

    def __init__(self, table: Table, images: Sequence[str], keyed: Iterable[str]) -> None:
        self._columns = {name: table.column(name) for name in (*images, *keyed)}
        self.images = tuple(images)
        self._keyed = tuple(sorted(keyed))
        expressions = [*(self._image(name, "t") for name in self.images), *(self._canonical(name, "t") for name in self._keyed)]
        distinct = list(dict.fromkeys(expressions))
        self.width = len(distinct)
        self._image_at = [distinct.index(expression) for expression in expressions[: len(self.images)]]
        self._keyed_at = [distinct.index(expression) for expression in expressions[len(self.images) :]]
        self._bytes_at = [(n, name) for n, name in zip(self._image_at, self.images) if by_bytes(self._columns[name])]
        self._key_at = [self._image_at[self.images.index(name)] for name in table.primary_key]

    def _image(self, name: str, row: str) -> str:
        return image(self._columns[name], row)

    def _canonical(self, name: str, row: str) -> str:
        return canonical(self._columns[name], f"{row}.{quoted(name)}")

    def columns(self, row: str) -> str:
        """What is selected, in SQL.

        Args:
            row: What a row is called.
        """
        expressions = [self._image(name, row) for name in self.images] + [self._canonical(name, row) for name in self._keyed]
        return ", ".join(dict.fromkeys(expressions))

    def seen(self, values: Sequence[str | None]) -> Seen:
        """A row, from what was selected.

        Raises:
            ImageTooLargeError: A value is longer than the database shows.
        """
        for n, name in self._bytes_at:
            if values[n] == TOO_LONG:
                raise ImageTooLargeError(f"what stands in {name} is longer than half of max_allowed_packet")
        return Seen(
            tuple(values[n] for n in self._image_at),
            tuple(str(values[n]) for n in self._key_at),
            {name: values[n] for name, n in zip(self._keyed, self._keyed_at)},
        )
