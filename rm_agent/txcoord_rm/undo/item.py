"""Undo records as rows that are to be put back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

FORMAT = 1
Value: TypeAlias = str | int | float | bytes | None
Image: TypeAlias = tuple[Value, ...]


class CorruptRecordError(Exception):
    """An undo record cannot be read; nothing was restored from it."""


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to one row.

    Args:
        table: Schema and name.
        columns: Of the images.
        before: None: there was no such row.
        after: None: it was deleted.
    """

    table: tuple[str, str]
    columns: tuple[str, ...]
    before: Image | None
    after: Image | None

    @property
    def changed(self) -> tuple[str, ...]:
        """Columns in which the images differ; of a row that came or went all."""
        if self.before is None or self.after is None:
            return self.columns
        return tuple(c for c, b, a in zip(self.columns, self.before, self.after, strict=True) if b != a)

    def value(self, column: str, image: Image) -> Value:
        """What an image has in a column."""
        return image[self.columns.index(column)]


@dataclass(frozen=True, slots=True)
class UndoRecord:
    """A row of the undo log.

    Args:
        branch_id, seq: Its key.
        state: IMAGE, GUARD or UNDONE.
        format: Of the images.
        table: Schema and name.
        columns: Of the images.
        befores, afters: Images of each row; None: there was none, or is none.
    """

    branch_id: int
    seq: int
    state: str
    format: int
    table: tuple[str, str]
    columns: tuple[str, ...]
    befores: tuple[Image | None, ...]
    afters: tuple[Image | None, ...]

    def changes(self) -> Iterator[Change]:
        """What it says, the last row first.

        Raises:
            CorruptRecordError: It says nothing certain.
        """
        odd = not self.befores or len(self.befores) != len(self.afters) or not self.columns
        if (
            odd
            or len(set(self.columns)) != len(self.columns)
            or any(before == after for before, after in zip(self.befores, self.afters))
        ):
            raise CorruptRecordError(f"undo record {self.branch_id}/{self.seq} has images that do not belong together")
        for before, after in zip(reversed(self.befores), reversed(self.afters), strict=True):
            yield Change(self.table, self.columns, self._fitting(before), self._fitting(after))

    def _fitting(self, image: Image | None) -> Image | None:
        if image is not None and len(image) != len(self.columns):
            raise CorruptRecordError(
                f"undo record {self.branch_id}/{self.seq} has {len(image)} values for {len(self.columns)} columns"
            )
        return image
