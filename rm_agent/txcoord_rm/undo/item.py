"""Undo records as rows that are to be put back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from txcoord_rm.undo.record import fields

FORMAT = 1
Image = tuple[str | None, ...]


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

    def value(self, column: str, image: Image) -> str | None:
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
        befores, afters: Texts of records, or None.
    """

    branch_id: int
    seq: int
    state: str
    format: int
    table: tuple[str, str]
    columns: tuple[str, ...]
    befores: tuple[str | None, ...]
    afters: tuple[str | None, ...]

    def changes(self) -> Iterator[Change]:
        """What it says, the last row first.

        Raises:
            CorruptRecordError: It says nothing certain.
        """
        if self.format != FORMAT:
            raise CorruptRecordError(
                f"undo record {self.branch_id}/{self.seq} has format {self.format}, this version reads {FORMAT}: let an agent of "
                "the version that wrote it do this second phase"
            )
        if len(self.befores) != len(self.afters) or not self.columns:
            raise CorruptRecordError(f"undo record {self.branch_id}/{self.seq} has images that do not belong together")
        for before, after in zip(reversed(self.befores), reversed(self.afters), strict=True):
            yield Change(self.table, self.columns, self._image(before), self._image(after))

    def _image(self, text: str | None) -> Image | None:
        if text is None:
            return None
        try:
            image = fields(text)
        except ValueError as error:
            raise CorruptRecordError(f"undo record {self.branch_id}/{self.seq} cannot be read: {error}") from error
        if len(image) != len(self.columns):
            raise CorruptRecordError(
                f"undo record {self.branch_id}/{self.seq} has {len(image)} values for {len(self.columns)} columns"
            )
        return image
