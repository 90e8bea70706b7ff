"""What a person is told when a rollback finds rows that somebody else has written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from txcoord_sdk.participant import ParkError

from txcoord_rm.catalogue.facts import Facts
from txcoord_rm.undo.item import Change, Value
from txcoord_rm.undo.log import Difference

_LONGEST = 480
"""Characters of the text: the coordinator keeps 500."""
_LONGEST_VALUE = 40


class DifferenceError(ParkError):
    """Rows are not as the transaction left them; nothing was undone."""

    code = "ROWS_DIFFER"

    @classmethod
    def of(cls, xid: str, differences: Sequence[Difference], facts: Facts) -> DifferenceError:
        """The error for rows that differ; its text names as many as it holds."""
        rows = f"{len(differences)} rows are" if len(differences) > 1 else "a row is"
        text = f"{rows} not as the transaction left them, nothing was undone; all of it: `txcoord-agent undo show {xid} --try`"
        return cls._with(text, differences, facts)

    @classmethod
    def not_even_by_force(cls, differences: Sequence[Difference], facts: Facts) -> DifferenceError:
        """The error for rows that cannot be put back over what is there."""
        text = (
            "nothing was restored, since that is not possible for each row; bring the data in order by hand, then "
            "`txcoord-agent undo accept-current`"
        )
        return cls._with(text, differences, facts)

    @classmethod
    def _with(cls, text: str, differences: Sequence[Difference], facts: Facts) -> DifferenceError:
        left = len(differences)
        for difference in differences:
            told = "; ".join(describe(difference, facts))
            if len(text) + len(told) + len("; and 9999 more") > _LONGEST and left < len(differences):
                return cls(f"{text}; and {left} more")
            text = f"{text}{': ' if left == len(differences) else '; '}{told}"
            left -= 1
        return cls(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "\u2026")


def describe(difference: Difference, facts: Facts, longest: int = _LONGEST_VALUE) -> Iterator[str]:
    """A row that differs, column by column: what it had before, what the transaction gave it, what it has now.

    Args:
        difference: It.
        facts: Of tables.
        longest: Characters of a value at most; 0: all.
    """
    change, current = difference.change, difference.current
    row = f"{'.'.join(change.table)}({row_key(change, facts)})"
    if difference.reason:
        yield f"{row}: {difference.reason}"
    elif current is None:
        yield f"{row} is gone"
    elif change.after is None:
        yield f"{row} was deleted, and is there again"
    elif change.before is None:
        for column, after, now in zip(change.columns, change.after, current):
            if after != now:
                yield f"{row}.{column}: inserted as {shown(after, longest)}, is {shown(now, longest)}"
    else:
        for column, before, after, now in zip(change.columns, change.before, change.after, current):
            if after != now:
                values = (shown(value, longest) for value in (before, after, now))
                yield "{}.{}: was {}, became {}, is {}".format(row, column, *values)


def row_key(change: Change, facts: Facts) -> str:
    """The primary key of a row, where the transaction left it or took it from, as a person writes it."""
    image, table = change.after if change.after is not None else change.before, facts(change.table)
    assert image is not None, "a change has one image at least"
    names = [name for name in change.columns if table is None or name in table.primary_key]
    return ", ".join(f"{name}={shown(change.value(name, image))}" for name in names)


def shown(value: Value, longest: int = _LONGEST_VALUE) -> str:
    """A value as a person reads it, cut at a sensible length.

    Args:
        value: Of an image.
        longest: Characters at most; 0: all.
    """
    if value is None:
        return "NULL"
    text = f"0x{value.hex()}" if isinstance(value, bytes) else str(value)
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return text if not longest or len(text) <= longest else text[: longest - 1] + "\u2026"
