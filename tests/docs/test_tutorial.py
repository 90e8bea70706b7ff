"""The tutorial's commands print what it says."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.docs import surface
from tests.docs.page import ROOT, Page
from tests.servers import free_port


def test_the_first_transaction(tmp_path: Path) -> None:
    """From a clone, installed as the page says; its processes get free ports."""
    for name in surface.tracked():
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / "clone" / name)
    port, venv = str(free_port()), "python3 -m venv"
    page = Page(
        "tutorial/first-transaction.md",
        tmp_path,
        {"8001": str(free_port()), "8002": str(free_port()), venv: f"cd clone && {venv}"},
        {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": "",
            "TXCOORD_PORT": port,
            "TXCOORD_ADDRESS": f"127.0.0.1:{port}",
        },
    )
    page.shell()
    page.check_everything_ran()
