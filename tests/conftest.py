"""What every test may use."""

from __future__ import annotations

import os

from hypothesis import settings

from tests import compiled

settings.register_profile("patient", settings(), deadline=None)  # machines differ: no example is too slow
settings.load_profile("patient")

pytest_plugins = ["tests.servers.fixtures", "tests.report"]

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes are started: not each has to compile us anew
_not_compiled = compiled.use()


def pytest_report_header() -> str:
    """Which code the processes run that tests start."""
    return f"processes run the sources, nothing compiled: {_not_compiled}" if _not_compiled else "processes run compiled"
