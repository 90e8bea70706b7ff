"""Installs the oldest SQLAlchemy that is supported beside the environment: on PYTHONPATH it stands before the newest.

usage: make_oldest.py DIRECTORY
"""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from pathlib import Path

from make_venv import run

ROOT = Path(__file__).resolve().parent.parent


def oldest() -> str:
    """Its version, from the project's own bound."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    found = next(match for name in dependencies if (match := re.fullmatch(r"sqlalchemy(?:\[\w+\])?>=([\d.]+)", name)))
    return found[1]


def main(directory: Path) -> None:
    """Make it anew."""
    shutil.rmtree(directory, ignore_errors=True)
    name = f"sqlalchemy=={oldest()}"
    run(name, sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(directory), name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
