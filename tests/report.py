"""What was run: the chaos suite's table, and minutes per folder, beside their shares of the half hour that all tests may take."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from tests.chaos import matrix

_FOUNDATION = ("unit", "contract", "integration", "acceptance", "simulation", "chaos", "servers", "house", "docs")
SHARES: dict[str, tuple[float, tuple[str, ...]]] = {
    "the foundation and TCC": (9.0, _FOUNDATION),
    "AT and XA": (8.0, ("unit/rm", "contract/rm", "integration/at", "integration/xa")),
}
"""Minutes of each worker, and the folders under tests/ that share them; what is named within a folder has a share of its own."""
_APART = frozenset(folder for _, folders in SHARES.values() for folder in folders if "/" in folder)

_seconds: dict[str, float] = defaultdict(float)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> None:
    """What a test has found out goes where the reports go, which may be another process."""
    item.user_properties += matrix.taken()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up."""
    parts = Path(report.nodeid.split("::")[0]).parts
    inner = "/".join(parts[1:3])
    _seconds[inner if inner in _APART else parts[1] if len(parts) > 2 else parts[0]] += report.duration
    if report.when == "call":
        for name, value in report.user_properties:
            if name == matrix.CASE:
                matrix.add(*value)  # type: ignore[misc]  # properties may be anything


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show; a share that is exceeded is a mark and no failure, since machines differ."""
    if table := matrix.table():
        terminalreporter.section("chaos: SIGKILL at points x modes")
        for line in table:
            terminalreporter.write_line(line)
    if sum(_seconds.values()) < 30:
        return
    terminalreporter.section("minutes")
    for folder, seconds in sorted(_seconds.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{folder:14} {seconds / 60:5.1f}")
    workers = getattr(terminalreporter.config.option, "numprocesses", None) or 1
    for name, (share, folders) in SHARES.items():
        share *= workers
        used = sum(_seconds[folder] for folder in folders) / 60
        terminalreporter.write_line(f"{name}: {used:.1f} of {share:.0f}{'  OVER ITS SHARE' if used > share else ''}")
