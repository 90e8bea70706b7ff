"""Makes the project's virtual environment: the newest suitable Python, pip, and the project itself with an extra.

usage: make_venv.py DIRECTORY EXTRA
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

OLDEST = (3, 11)


def suitable_python() -> str:
    """A Python that is new enough: this one, or one on the path."""
    if sys.version_info[:2] >= OLDEST:
        return sys.executable
    for minor in (13, 12, 11):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return found
    sys.exit(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; this is {sys.version.split()[0]}")


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
        run("virtual environment", suitable_python(), "-m", "venv", directory)
    run("packages (a few minutes the first time)", str(python), "-m", "pip", "install", "-q", "-e", f".[{extra}]")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
