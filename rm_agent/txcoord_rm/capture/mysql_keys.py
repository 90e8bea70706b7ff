"""Rows of MySQL and MariaDB as they are read: their images, and the keys of their global locks.

A key names table, columns and values, `shop.stock(sku)=(A-100)`, so that a person can read it, where texts that are equal are
written alike; of other collations the values are the weights by which the database compares them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from txcoord_rm.capture.mysql_values import TOO_LONG, by_bytes, canonical, image, in_json
from txcoord_rm.catalogue.table import Event, Table
from txcoord_rm.sql.backticks import quoted

_PLAIN = re.compile(r'[^\s",()\\]+')


Canonical: TypeAlias = Mapping[str, Sequence[str | None]]
"""Of columns that lock keys need, row by row: texts that are the same for equal values; None: NULL."""
Columns: TypeAlias = Sequence[Sequence[str | None]]
"""What was selected of rows, column by column."""
_MOST = 8 << 20
"""Bytes of rows that are asked for as one text."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Rows, as they were read, in parallel lists: there may be many, and an object for each would take longer than reading it.

    Args:
        images: Texts of the columns of their images.
        keys: Those of their primary keys.
        canonical: What their lock keys are made of.
    """

    images: list[tuple[str | None, ...]]
    keys: list[tuple[str, ...]]
    canonical: Canonical

    def __len__(self) -> int:
        return len(self.keys)

    def ordered(self, keys: list[tuple[str, ...]]) -> Seen:
        """The rows in the order of their primary keys.

        Raises:
            LookupError: There is no row with one of them.
        """
        if keys == self.keys:
            return self
        places = dict(zip(self.keys, range(len(self.keys))))
        return self._some([places[key] for key in keys])

    def without(self, keys: Sequence[tuple[str, ...]]) -> Seen:
        """The rows that have none of these primary keys."""
        if not keys:
            return self
        left_out = set(keys)
        return self._some([n for n, key in enumerate(self.keys) if key not in left_out])

    def _some(self, places: Sequence[int]) -> Seen:
        canonical = {name: [texts[n] for n in places] for name, texts in self.canonical.items()}
        return Seen([self.images[n] for n in places], [self.keys[n] for n in places], canonical)


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

    def of(self, old: Canonical | None, new: Canonical | None) -> set[str]:
        """Those that rows need.

        Args:
            old: Of them before the change; None: there were none.
            new: The same after it.
        """
        both = [rows for rows in (new, old) if rows is not None]
        found = set[str]()
        for rows in both if self.moves else both[:1]:
            found.update(self._keys(self._primary, rows))
        for unique in self._uniques:
            for rows in both:
                found.update(self._keys(unique, rows))
        found.discard("")
        return found | self._whole if found else found

    def primary(self, rows: Canonical) -> set[str]:
        """The rows' own, of those that are there."""
        return set(filter(None, self._keys(self._primary, rows)))

    def _keys(self, columns: tuple[str, ...], rows: Canonical) -> Iterable[str]:
        """Empty where a value is missing: such rows are never equal."""
        prefix = f"{self._prefix}({','.join(columns)})=("
        written = [_written(rows[column]) for column in columns]
        if len(columns) == 1:
            return ["" if text is None else f"{prefix}{text})" for text in written[0]]
        return ["" if None in texts else f"{prefix}{','.join(map(str, texts))})" for texts in zip(*written)]


def _written(values: Sequence[str | None]) -> Sequence[str | None]:
    """So that two lists of values are written alike only if they are alike."""
    texts = [value for value in values if value is not None]
    if "" not in texts and _PLAIN.fullmatch("".join(texts)):
        return values
    return [None if value is None else _quoted(value) for value in values]


def _quoted(value: str) -> str:
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

    def packed(self, row: str) -> str:
        """What is selected instead so that all rows come as one text, which `rows` reads: drivers take long over each row.

        Args:
            row: What a row is called.
        """
        named = [(name, self._image(name, row)) for name in self.images]
        named += [(name, self._canonical(name, row)) for name in self._keyed]
        values = {text: in_json(self._columns[name], f"{row}.{quoted(name)}", text) for name, text in named}
        parts = ", ',', ".join(values.values())
        return f"COUNT(*), GROUP_CONCAT({parts})"

    def unpacked(self, count: int, packed: str | bytes | None) -> Columns | None:
        """What `packed` has selected; None: the text was too long, the database has cut it."""
        text = packed.decode() if isinstance(packed, (bytes, bytearray)) else packed or ""
        try:
            values: list[str | None] = json.loads(f"[{text}]")
        except ValueError:
            return None
        return [values[n :: self.width] for n in range(self.width)] if len(values) == count * self.width else None

    def columns_of(self, rows: Sequence[Sequence[Any]]) -> Columns:
        """What `columns` has selected, whatever there is beside it."""
        return [[row[n] for row in rows] for n in range(self.width)]

    def seen(self, columns: Columns) -> Seen:
        """Rows, from what was selected of them.

        Raises:
            ImageTooLargeError: A value is longer than the database shows.
        """
        for n, name in self._bytes_at:
            if TOO_LONG in columns[n]:
                raise ImageTooLargeError(f"what stands in {name} is longer than half of max_allowed_packet")
        return Seen(
            list(zip(*(columns[n] for n in self._image_at))),
            list(zip(*(columns[n] for n in self._key_at))),
            {name: columns[n] for name, n in zip(self._keyed, self._keyed_at)},
        )


def select_packed(what: str) -> str:
    """The begin of a query that makes one long text of rows, which both MariaDB and MySQL are told to allow for it alone."""
    limit = f"group_concat_max_len = {_MOST}"
    return f"/*M! SET STATEMENT {limit} FOR */ SELECT /*+ SET_VAR({limit}) */ {what}"
