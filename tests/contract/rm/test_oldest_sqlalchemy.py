"""The contract of drivers also holds on the oldest SQLAlchemy that is supported; everything else is tested on the newest."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests import compiled
from tests.servers.fixtures import in_ci

OLDEST = compiled.ROOT / "build" / "sqlalchemy-oldest"
CONTRACT = ("tests/contract/rm/test_capture_drivers.py", "tests/integration/at/test_phases.py")


def test_the_contract_of_drivers_on_the_oldest_sqlalchemy() -> None:
    if not OLDEST.is_dir() and not in_ci():
        pytest.skip("it is not there: make build/sqlalchemy-oldest/.made")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(OLDEST), env.get("PYTHONPATH"))))
    ask = [sys.executable, "-c", "import sqlalchemy; print(sqlalchemy.__version__)"]
    version = subprocess.run(ask, env=env, capture_output=True, text=True, check=True).stdout.strip()
    bound = f"sqlalchemy[asyncio]>={version}"
    assert bound in (compiled.ROOT / "pyproject.toml").read_text(), f"{version} is not the oldest that is supported"
    run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *CONTRACT]
    done = subprocess.run(run, cwd=compiled.ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"\b\d\d+ passed", done.stdout) or "TXCOORD_SERVERS" in os.environ, done.stdout[-2000:]
