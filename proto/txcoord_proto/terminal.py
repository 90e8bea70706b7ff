"""What commands of both programs show: tables, times and ages for a terminal of 100 columns, documents for programs, and errors.

Text is plain where the output is no terminal.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

import click

from txcoord_proto.errors import TxcoordError

P = ParamSpec("P")

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


# ---------------------------------------------------------------- documents and errors

PEM = click.Path(exists=True, dir_okay=False, path_type=Path)
"""Type of options that name a file."""
CREDENTIALS = (
    click.option("--token", default="", envvar="TXCOORD_TOKEN", show_envvar=True, help="Token; better given by the variable."),
    click.option("--tls", is_flag=True, envvar="TXCOORD_TLS", show_envvar=True, help="TLS with the system's authorities."),
    click.option("--tls-ca", type=PEM, envvar="TXCOORD_TLS_CA", show_envvar=True, help="CA of the coordinator, PEM."),
    click.option("--tls-cert", type=PEM, envvar="TXCOORD_TLS_CERT", show_envvar=True, help="Client certificate, PEM."),
    click.option("--tls-key", type=PEM, envvar="TXCOORD_TLS_KEY", show_envvar=True, help="Its private key, PEM."),
    click.option(
        "--tls-server-name", default="", envvar="TXCOORD_TLS_SERVER_NAME", show_envvar=True,
        help="Name in the coordinator's certificate, where it is not the address.",
    ),
)  # fmt: skip
"""Options of commands that talk to a coordinator."""
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")


def show_document(values: Mapping[str, Any]) -> None:
    """Print a document."""
    click.echo(json.dumps(values, indent=2, ensure_ascii=False))


def show_error(error: TxcoordError, as_json: bool) -> None:
    """Print an error: one line for people, a document for programs."""
    if as_json:
        show_document({"error": {"code": error.code, "message": error.message, "details": error.details}})
    click.echo(f"Error: {' '.join(error.message.split())} [{error.code}]", err=True)


def errors_end_it(command: Callable[P, None]) -> Callable[P, None]:
    """Have an error end the command with one line and exit code 1, never with a traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except TxcoordError as error:
            show_error(error, bool(kwargs.get("as_json")))
            sys.exit(1)

    return run


# ---------------------------------------------------------------- verdicts


class Verdict(StrEnum):
    """What a check found."""

    OK = "ok"
    """As it should be."""
    WARNING = "warning"
    """Worth knowing; nothing is wrong."""
    WRONG = "wrong"
    """Somebody has to do something."""


@dataclass(frozen=True, slots=True)
class Check:
    """A check and its verdict."""

    name: str
    verdict: Verdict
    text: str


def end_with(checks: Sequence[Check], as_json: bool) -> NoReturn:
    """Show what was checked, a line each, and end the command: with exit code 1 when something is wrong."""
    well = all(check.verdict is not Verdict.WRONG for check in checks)
    if as_json:
        show_document({"well": well, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            click.echo(f"{coloured(check.verdict)}{' ' * (8 - len(check.verdict))} {check.name:<11} {check.text}")
    sys.exit(0 if well else 1)
