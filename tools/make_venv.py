"""Makes the project's virtual environment: the quickest suitable Python, pip, and the project itself with an extra.

usage: make_venv.py DIRECTORY EXTRA
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

_OLDEST = (3, 11)
_MINORS = (13, 12, 11)
_USUAL_FOLDERS = "/usr/local/bin:/usr/bin"
_PROBE = f"""
import ensurepip, sqlite3, sys, timeit, venv
assert sys.version_info >= {_OLDEST}
class Step:
    def __init__(self, value): self.value = value
def work():
    return {{step.value: (step.value, str(step.value)) for step in map(Step, range(5000))}}
print(min(timeit.repeat(work, number=1, repeat=20)))
"""


def suitable_python() -> str:
    """This Python or another one that is here and new enough: the one that is quickest by a tenth or more.

    Builds of one version differ by a third: a distribution's is optimised by profiles, one compiled by hand often is not.
    """
    candidates = [sys.executable]
    for folders in (None, _USUAL_FOLDERS):
        candidates += [found for minor in _MINORS if (found := shutil.which(f"python3.{minor}", path=folders))]
    candidates = [python for python in dict.fromkeys(candidates) if seconds_of(python) < math.inf]
    if not candidates:
        sys.exit(f"Python {_OLDEST[0]}.{_OLDEST[1]} or newer with venv is needed; this is {sys.version.split()[0]}")
    rounds = [[seconds_of(python) for python in candidates] for _ in range(3)]  # in turn: machines have slow moments
    seconds = [min(times) for times in zip(*rounds)]
    best = seconds.index(min(seconds))
    return candidates[best if seconds[best] < 0.9 * seconds[0] else 0]


def seconds_of(python: str) -> float:
    """How long a Python computes for a fixed thing at best; infinite: it is too old, or has no part that is needed."""
    done = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else math.inf


def run(what: str, *command: str) -> None:
    """Run a step, saying what it is and how long it took."""
    print(f"  {what} ...", end="", flush=True)
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(" failed")
        sys.exit(done.stdout + done.stderr)
    print(f" {time.monotonic() - started:.0f} s", flush=True)


def main(directory: str, extra: str) -> None:
    """Make or update the environment."""
    python = Path(directory, "bin", "python")
    print(f"setting up {directory} for txcoord[{extra}]", flush=True)
    if not python.exists():
        chosen = suitable_python()
        run(f"virtual environment with {chosen}", chosen, "-m", "venv", directory)
    run("packages (a few minutes the first time)", str(python), "-m", "pip", "install", "-q", "-e", f".[{extra}]")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
