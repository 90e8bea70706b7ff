"""The order in which rows are put back, the same on every family of databases.

A row is only ever changed from its after image to its before image. What has its before image already is left as it is. What has
neither was written by somebody else: then nothing is overwritten, and a person decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, ProgrammingError

from txcoord_rm.catalogue.table import Event, Table
from txcoord_rm.undo.item import Change, CorruptRecordError, Image
from txcoord_rm.undo.port import FamilyUndo, Undone

Facts = Callable[[tuple[str, str]], Table | None]
"""What the catalogue says of a table, by schema and name; None: there is no such table."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not as the transaction left it.

    Args:
        change: What the transaction did to it.
        current: What is there now, in the columns of the images; None: nothing.
        reason: Why it is not restored, where the row itself does not say.
    """

    change: Change
    current: Image | None
    reason: str = ""


_TRIES = 3
"""How often a row that is written meanwhile is looked at again."""


@contextmanager
def _fitting() -> Iterator[None]:
    """Says of records that are for other tables than those that are there."""
    try:
        yield
    except (DataError, ProgrammingError) as error:
        if error.connection_invalidated:  # sqlite3 has no other class for a connection that is gone
            raise
        raise CorruptRecordError(f"an undo record does not fit the tables as they are now: {first_line(error)}") from error


class Restorer:
    """Undoes changes in one local transaction, at READ COMMITTED.

    Args:
        connection: In it.
        family: Of its database.
        facts: What the catalogue says of a table.
    """

    def __init__(self, connection: Connection, family: FamilyUndo, facts: Facts) -> None:
        self._connection = connection
        self._family = family
        self._facts = facts
        self._tables: dict[tuple[str, str], Table] = {}
        self._reasons: dict[int, str] = {}
        """Why a change could not be undone, by its identity, where the row itself does not say."""

    def restore(self, items: Iterable[Sequence[Change]]) -> list[Difference]:
        """Put rows back.

        An item of which a row does not match waits until one behind it is undone, and is the first again: two branches of one
        transaction may have written one row in another order than their records tell, and rows may refer to each other. Only when
        nothing moves any more a row may count as put back by somebody else; earlier it could be one that another item is still to
        change.

        Args:
            items: Changes of one statement each, in the order in which they are to be undone.

        Returns:
            Rows that are not as the transaction left them; with any, the local transaction has to be rolled back.

        Raises:
            CorruptRecordError: The changes do not fit the tables as they are now.
        """
        every = [list(item) for item in items]
        self._check_all(every)
        with _fitting():
            return self._restored(every)

    def force(self, items: Iterable[Sequence[Change]]) -> list[Difference]:
        """Put rows back over whatever is there: a person wants it so.

        The order is kept among changes of one row; what refers to others may wait for them. At its turn a row that is not as
        the transaction left it is taken for what the transaction made of it; to look for one that fits first, as `restore` does,
        could end with a value that was there in between.

        Returns:
            Rows that cannot be put back even so; with any, the local transaction has to be rolled back.

        Raises:
            CorruptRecordError: The changes do not fit the tables as they are now.
        """
        every = [list(item) for item in items]
        self._check_all(every)
        with _fitting():
            waiting: list[list[Change]] = []
            for item in every:
                if any(not self._rows(item).isdisjoint(self._rows(other)) for other in waiting):
                    break
                waiting, moves = [*waiting, item], True
                while waiting and moves:
                    left = [each for each in waiting if self._forced(each)]
                    waiting, moves = left, len(left) < len(waiting)
            if waiting:
                return self._forced(waiting[0]) or [Difference(change, change.after) for change in waiting[0]]
            return self._checked(every)

    def _rows(self, item: list[Change]) -> set[tuple[object, ...]]:
        """Tables and keys of the rows of an item."""
        return {
            (change.table, *(change.value(column, image) for column in self._table(change).primary_key))
            for change in item
            for image in (change.before, change.after)
            if image is not None
        }

    def _forced(self, item: list[Change]) -> list[Difference]:
        for _ in range(_TRIES):
            self._reasons.clear()  # of changes that have been replaced
            if self._undo(item) or self._undo(item, may_be_back=True):
                return []
            differences = {id(difference.change): difference for difference in self._differences(item)}
            if impossible := [d for d in differences.values() if self._is_part_of_what_is_gone(d)]:
                return impossible
            over = [self._over(change, differences.get(id(change))) for change in item]
            left, item = item, [change for change in over if change is not None]
            if item == left:
                break  # it is something else than what the row has
        return list(self._differences(item)) or [Difference(change, change.after) for change in item]

    def _is_part_of_what_is_gone(self, difference: Difference) -> bool:
        """Whether a row would have to be made of an image that has only some of its columns."""
        change = difference.change
        if difference.current is not None or change.before is None:
            return False
        return any(not c.generated and c.name not in change.columns for c in self._table(change).columns)

    @staticmethod
    def _over(change: Change, difference: Difference | None) -> Change | None:
        """The change as if the transaction had made what is there now; None: there is nothing to do.

        Columns that the transaction did not change are somebody else's business.
        """
        if difference is None or difference.current == change.after:
            return change  # it has a reason of its own
        before, current, changed = change.before, difference.current, set(change.changed)
        if before is not None and current is not None:
            triples = zip(change.columns, before, current, strict=True)
            before = tuple(was if column in changed else now for column, was, now in triples)
        return None if current == before else replace(change, before=before, after=current)

    def _restored(self, every: list[list[Change]]) -> list[Difference]:
        pending = list(every)
        while pending:
            place = self._first(pending)
            if place is None:
                place = self._first(pending, may_be_back=True)
            if place is None:
                return [d for item in pending for d in self._differences(item)] or [
                    Difference(c, c.after) for i in pending for c in i
                ]
            undone = pending.pop(place)
            pending[:place] = self._but_followers(pending[:place], undone)
        return self._checked(every)

    def _but_followers(self, newer: list[list[Change]], undone: list[Change]) -> list[list[Change]]:
        """Of these items those that the database has not undone with another one: their rows follow a key that was set back.

        Later their rows might be gone, as items behind them are undone.
        """
        found = [undone]
        while newer and found:
            keys = self._followed(found.pop())
            followers = [item for item in newer if self._follows(item, keys) and self._undo(item, may_be_back=True)]
            newer = [item for item in newer if not any(item is follower for follower in followers)]
            found += followers
        return newer

    def _followed(self, undone: list[Change]) -> set[tuple[tuple[str, str], tuple[str, ...]]]:
        """Tables and columns that follow what has been set back."""
        kinds = {(c.table, c.changed) for c in undone if c.before is not None and c.after is not None}
        carrying = (r for name, changed in kinds for r in self._tables[name].carrying(Event.UPDATE, changed))
        return {(reference.name, reference.their_columns) for reference in carrying if reference.follows}

    @staticmethod
    def _follows(item: list[Change], keys: set[tuple[tuple[str, str], tuple[str, ...]]]) -> bool:
        return all(any(c.table == name and {*c.changed} <= {*columns} for name, columns in keys) for c in item)

    def _first(self, pending: list[list[Change]], may_be_back: bool = False) -> int | None:
        """Undo the newest item that can be undone now; its place. Those before it may need what was there in between."""
        return next((place for place, item in enumerate(pending) if self._undo(item, may_be_back)), None)

    def _checked(self, every: list[list[Change]]) -> list[Difference]:
        """Every row is back; whether the constraints that are asked for at COMMIT allow it."""
        savepoint = self._connection.begin_nested()
        try:
            self._family.check()
        except DBAPIError as error:
            savepoint.rollback()
            if not self._family.forbids(error):
                raise
            reason = first_line(error)
            return [Difference(change, self._found(change), reason) for item in every for change in item]
        savepoint.commit()
        return []

    def _undo(self, item: list[Change], may_be_back: bool = False) -> bool:
        """Undo all of an item or nothing.

        Args:
            item: Changes of one statement.
            may_be_back: Whether rows that have their before image already need nothing done.
        """
        savepoint = self._connection.begin_nested()
        left, pending = list[Change](), item
        while pending and len(left) != len(pending):  # a row of the same statement may stand in the way, by a foreign key
            left, pending = pending, self._undo_some(pending, may_be_back)
        if pending:
            savepoint.rollback()
            return False
        savepoint.commit()
        return True

    def _undo_some(self, item: list[Change], may_be_back: bool) -> list[Change]:
        """Undo what can be undone now; what is left."""
        left: list[Change] = []
        for _, group in groupby(item, key=lambda change: (change.before is None, change.after is None, change.changed)):
            changes = list(group)
            undone = self._undo_alike(changes, may_be_back)
            left += [c for n, c in enumerate(changes) if n not in undone and not (may_be_back and self._is_back(c))]
        return left

    def _undo_alike(self, changes: list[Change], singly: bool) -> set[int]:
        """Undo changes of one kind, in a set; which of them were.

        Rows in a set may stand in each other's way; one by one and backwards they walk through states that there were. Where the
        order of the images is not the one in which the rows were changed, they are tried in both directions until nothing moves.

        Args:
            changes: They.
            singly: Whether rows that refer to others which are not there are tried one by one, so that each has its own reason.
        """
        undone, hard = set[int](), list[int]()
        for begin in range(0, len(changes), self._family.at_once):
            some = changes[begin : begin + self._family.at_once]
            tried = self._tried(some, singly)
            if tried is None:
                hard += range(begin, begin + len(some))
            else:
                undone.update(begin + n for n in tried)
        moved = True
        while hard and moved:
            left = [n for n in hard if not self._tried([changes[n]], True)]
            moved = len(left) < len(hard)
            undone.update(set(hard) - set(left))
            hard = left[::-1]
        return undone

    def _tried(self, changes: list[Change], singly: bool) -> frozenset[int] | None:
        """Which changes were undone; None: a constraint forbids it, and none was, but one by one they may be."""
        savepoint = None if self._family.fails_alone else self._connection.begin_nested()
        try:
            undone = self._run(changes)
        except DBAPIError as error:
            if not self._family.forbids(error):
                raise
            if savepoint is not None:
                savepoint.rollback()
            for change in changes:
                self._reasons[id(change)] = first_line(error)
            return None if singly or not self._family.refers(error) else frozenset()
        if savepoint is not None:
            savepoint.commit()
        for n, reason in undone.reasons.items():
            self._reasons[id(changes[n])] = reason
        for n in undone.places:
            self._reasons.pop(id(changes[n]), None)
        return undone.places

    def _run(self, changes: list[Change]) -> Undone:
        first = changes[0]
        table = self._table(first)
        if first.after is None:
            return self._family.put_back(table, changes)
        if first.before is None:
            return self._family.take_away(table, changes)
        return self._family.set_back(table, changes)

    def _is_back(self, change: Change) -> bool:
        """Whether the row has its before image already."""
        if change.before is None:
            return self._current(change, change.after) is None
        current = self._current(change, change.before)
        if current is None or any(change.value(c, current) != change.value(c, change.before) for c in change.changed):
            return False
        moved = change.after is not None and not set(self._table(change).primary_key).isdisjoint(change.changed)
        return not moved or self._current(change, change.after) is None

    def _differences(self, item: list[Change]) -> Iterator[Difference]:
        for change in item:
            current = self._found(change)
            if current != change.after or id(change) in self._reasons:
                yield Difference(change, current, self._reasons.get(id(change), ""))

    def _found(self, change: Change) -> Image | None:
        """The row where the change left it, or took it from."""
        return self._current(change, change.after if change.after is not None else change.before)

    def _current(self, change: Change, image: Image | None) -> Image | None:
        assert image is not None, "a change has one image at least"
        return self._family.current(self._table(change), change, image)

    def _table(self, change: Change) -> Table:
        return self._tables[change.table]

    def _check_all(self, every: list[list[Change]]) -> None:
        """Look at all tables before anything is written. Raises like `_check`."""
        for item in every:
            for name, columns in {(change.table, change.columns) for change in item}:
                self._check(name, columns)

    def _check(self, name: tuple[str, str], columns: tuple[str, ...]) -> None:
        """Remember what images with these columns tell of, as it is now.

        Raises:
            CorruptRecordError: It is gone, or no longer what they tell of.
        """
        table, shown = self._tables.get(name) or self._facts(name), ".".join(name)
        if table is None:
            raise CorruptRecordError(f"{shown} does not exist any more, of which an undo record tells")
        if table.obstacle:
            raise CorruptRecordError(f"{shown} cannot be restored any more: {table.obstacle}")
        if missing := set(columns) - {column.name for column in table.columns}:
            raise CorruptRecordError(f"{shown} has no column {min(missing)} any more, which an undo record names")
        if missing := set(table.primary_key) - set(columns):
            raise CorruptRecordError(
                f"the primary key of {shown} has changed: it has {min(missing)} now, of which an undo record says nothing"
            )
        self._tables[name] = table


def first_line(error: DBAPIError) -> str:
    """What the database said, without its details."""
    said = error.orig.args if error.orig is not None else ()
    text = said[1] if len(said) > 1 and isinstance(said[1], str) else str(error.orig)  # MySQL's drivers put a number before it
    return text.split("\n", 1)[0]
