"""What the second phase of a rollback asks of a family of databases: SQL for rows, but not the order in which they go back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy.exc import DBAPIError

from txcoord_rm.catalogue.table import Table
from txcoord_rm.undo.item import Change, Image


@dataclass(frozen=True, slots=True)
class Undone:
    """What came of a statement that was to undo changes.

    Args:
        places: Those of the changes that it undid.
        reasons: By place, why another was not, where the row itself does not say.
    """

    places: frozenset[int]
    reasons: Mapping[int, str] = field(default_factory=dict)


class FamilyUndo(Protocol):
    """One family of databases, in one local transaction.

    All changes of a call are of one table and one kind, and have images of the same columns.
    """

    fails_alone: bool
    """Whether a statement that fails leaves the transaction as it was before it; else a savepoint is needed around it."""

    at_once: int
    """Changes that a call is given at most."""

    def set_level(self) -> None:
        """Set the isolation level of the transaction that begins with this.

        It sees what others commit while it waits for them, and locks no more than it writes.
        """

    def prepare(self) -> None:
        """Set what the session needs so that images mean what they did, and so that no lock is waited for without end."""

    def images(self, row: Any) -> tuple[tuple[Image | None, ...], tuple[Image | None, ...]]:
        """Images before and after in a row of the undo log.

        Raises:
            ValueError: They cannot be read.
        """

    def put_back(self, table: Table, changes: Sequence[Change]) -> Undone:
        """Insert rows that were deleted, where there are none with their keys."""

    def take_away(self, table: Table, changes: Sequence[Change]) -> Undone:
        """Delete rows that were inserted, where they are as they were then and nothing of others would go or change with them."""

    def set_back(self, table: Table, changes: Sequence[Change]) -> Undone:
        """Give rows that were changed what they had before, where they have what they were given."""

    def current(self, table: Table, change: Change, image: Image) -> Image | None:
        """The row with the primary key that an image has, in the columns of the images; None: there is none."""

    def check(self) -> None:
        """Ask now for constraints that would else be asked for at COMMIT.

        Raises:
            DBAPIError: One forbids it; `forbids` is true of the error.
        """

    def forbids(self, error: DBAPIError) -> bool:
        """Whether an error says that a constraint, a type or a trigger forbids a row, and nothing of the statement itself."""

    def refers(self, error: DBAPIError) -> bool:
        """Whether such an error says that rows refer to others which are not there, so that they need not be tried one by one."""
