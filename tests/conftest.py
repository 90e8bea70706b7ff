"""What every test may use."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", settings(), deadline=None)  # machines differ: no example is too slow
settings.load_profile("patient")

pytest_plugins = ["tests.servers.fixtures", "tests.report"]
