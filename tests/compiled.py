"""Which form of txcoord the processes run that tests start: compiled, as users get it, or these sources.

Tests that step the code in their own process run the sources.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent
MADE = ROOT / "build" / "compiled"
_FOLDERS = ("proto", "txcoord", "sdk", "rm_agent")


def state() -> str:
    """Empty: it is made, of what the sources are now; else why it is not used."""
    stamp = MADE / ".made"
    if not stamp.exists():
        return "it has not been made: make compiled"
    newest = max(path.stat().st_mtime for folder in _FOLDERS for path in (ROOT / folder).rglob("*.py"))
    if newest > stamp.stat().st_mtime:
        return "it is older than the sources: make compiled"
    return "" if any(MADE.glob("*.so")) else "there is no C compiler, or no headers of Python"


def use() -> None:
    """Let processes started from now on import it before the sources."""
    if not state():
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(MADE), os.environ.get("PYTHONPATH"))))
