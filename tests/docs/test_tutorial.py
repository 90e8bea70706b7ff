"""The tutorial's commands print what it says."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from tests.docs.page import ROOT, Page
from tests.servers import free_port


def test_the_first_transaction(tmp_path: Path) -> None:
    """Everything that it installs is here already, which pip itself finds out; its processes get free ports."""
    installed = [sysconfig.get_path("purelib"), *(str(ROOT / folder) for folder in ("proto", "txcoord", "sdk", "rm_agent"))]
    port = str(free_port())
    page = Page(
        "tutorial/first-transaction.md",
        tmp_path,
        {"8001": str(free_port()), "8002": str(free_port()), "mkdir shop": "mkdir -p shop"},
        {
            "PIP_NO_INDEX": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": ":".join(installed),
            "TXCOORD_PORT": port,
            "TXCOORD_ADDRESS": f"127.0.0.1:{port}",
        },
    )
    page.shell()
    page.check_everything_ran()
