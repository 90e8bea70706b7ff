"""Which form of txcoord the processes run that tests start: compiled, as users get it, or these sources.

Tests that step the code in their own process run the sources.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
MADE = ROOT / "build" / "compiled"


def state() -> str:
    """Empty: it is made, of what the sources are now; else why it is not used."""
    stamp = (MADE / ".made").relative_to(ROOT)
    asked = subprocess.run(["make", "--question", str(stamp)], cwd=ROOT, capture_output=True, text=True, check=False)
    if asked.returncode:
        return asked.stderr.strip() or "it is not there, or older than what it is made of: make compiled"
    return "" if any(MADE.glob("*.so")) else "there is no C compiler, or no headers of Python"


def use() -> str:
    """Let processes started from now on import it before the sources; returns why not, as `state`."""
    reason = state()
    if not reason:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(MADE), os.environ.get("PYTHONPATH"))))
    return reason
