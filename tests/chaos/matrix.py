"""Which failpoints are driven in which modes, and what was run: the table at the end of a test run."""

from __future__ import annotations

from collections import defaultdict

from txcoord_proto.failpoints import Mode

SURVIVED = "survived"
"""Told that the outcome is unknown, and not killed."""
MODES = (*Mode, SURVIVED)

CASE = "chaos"
"""Name of a case among a test's properties, by which it travels from the process that has run it."""

_just_run: list[tuple[str, str, str]] = []
_run: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))


def ran(point: str, mode: str, database: str) -> None:
    """A case is done."""
    _just_run.append((point, str(mode), database))


def taken() -> list[tuple[str, object]]:
    """The properties of the test that has just run."""
    found: list[tuple[str, object]] = [(CASE, case) for case in _just_run]
    _just_run.clear()
    return found


def add(point: str, mode: str, database: str) -> None:
    """Count one for the table."""
    _run[point][mode][database] += 1


def table() -> list[str]:
    """Points by modes, and in which databases; one line each."""
    if not _run:
        return []
    databases = dict.fromkeys(name for modes in _run.values() for cell in modes.values() for name in cell)
    lines = [f"cases a mode, on {', '.join(databases)}", f"{'':18}" + "".join(f"{mode:10}" for mode in MODES)]
    for point, modes in sorted(_run.items()):
        cells = (" ".join(str(modes[mode].get(name, "-")) for name in databases) for mode in MODES)
        lines.append(f"{point:18}" + "".join(f"{cell:10}" for cell in cells))
    cases = sum(count for modes in _run.values() for cell in modes.values() for count in cell.values())
    pairs = sum(len([mode for mode in modes.values() if mode]) for modes in _run.values())
    lines.append(f"{cases} cases of {pairs} pairs of point and mode: each was reached, and all invariants held afterwards")
    return lines
