"""Tables, times and ages for a terminal of 100 columns; plain text when it is not one."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from datetime import datetime

import click

_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms"))
_COLOURS = {
    "PARKED": "red", "OVERDUE": "red", "UNKNOWN": "red", "wrong": "red", "FORCED": "yellow", "warning": "yellow",
    "COMMITTED": "green", "SETTLED": "green", "ok": "green",
}  # fmt: skip


def span(milliseconds: int) -> str:
    """A length of time in its largest unit."""
    for size, unit in _UNITS:
        if milliseconds >= size:
            return f"{milliseconds // size} {unit}"
    return "0 ms"


def age(at: int) -> str:
    """How long ago `at` (milliseconds since 1970) was."""
    return span(max(0, _now() - at))


def moment(at: int) -> str:
    """A time in the local zone, with how long ago it was, or how soon it will be."""
    shown = datetime.fromtimestamp(at / 1000).astimezone().isoformat(sep=" ", timespec="milliseconds")
    distance = at - _now()
    return f"{shown} ({f'in {span(distance)}' if distance > 0 else f'{span(-distance)} ago'})"


def _now() -> int:
    return int(time.time() * 1000)


def width() -> int:
    """Columns of the terminal; 0 where the output is none: nothing is cut then."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 0


def cut(text: str, columns: int) -> str:
    """Text that fits; with 0 columns all of it."""
    return text if not columns or len(text) <= columns else text[: max(1, columns - 1)] + "…"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[Sequence[str]] = ()) -> None:
    """Print a table.

    Args:
        head: Names of the columns.
        rows: Cells.
        notes: Lines under each row.
    """
    sizes = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    click.echo(click.style(_line(head, sizes), bold=True))
    columns = width()
    for number, row in enumerate(rows):
        cells = [coloured(cell) + " " * (size - len(cell)) for cell, size in zip(row, sizes)]
        click.echo("  ".join(cells).rstrip())
        for note in notes[number] if notes else ():
            click.echo(click.style(cut(f"    {note}", columns), dim=True))


def _line(cells: Sequence[str], sizes: Sequence[int]) -> str:
    return "  ".join(cell.ljust(size) for cell, size in zip(cells, sizes)).rstrip()


def coloured(word: str) -> str:
    """A word in the colour of what it means, if it has one."""
    colour = _COLOURS.get(word)
    return click.style(word, fg=colour) if colour else word
