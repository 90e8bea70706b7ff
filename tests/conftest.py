"""What every test may use."""

from __future__ import annotations

from hypothesis import settings

from tests import compiled

settings.register_profile("patient", settings(), deadline=None)  # machines differ: no example is too slow
settings.load_profile("patient")

pytest_plugins = ["tests.servers.fixtures", "tests.report"]

compiled.use()


def pytest_report_header() -> str:
    """Which code the processes run that tests start."""
    reason = compiled.state()
    return f"processes run {f'the sources, nothing compiled: {reason}' if reason else 'compiled'}"
