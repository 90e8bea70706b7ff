"""What every test may use."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes are started: not each has to compile us anew

settings.register_profile("patient", settings(), deadline=None)  # machines differ: no example is too slow
settings.load_profile("patient")

pytest_plugins = ["tests.servers.fixtures", "tests.report"]
