"""pytest fixtures: each server starts when the first test asks for it and lives as long as the session.

Loaded by `pytest_plugins = ["tests.servers.fixtures"]`. A test that asks for a server that cannot be had is skipped with the
reason, and the summary names the server; with CI=true that makes the session fail, since a green run would prove too little.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from tests.servers.databases import fresh_database
from tests.servers.running import running
from tests.servers.server import Absence, Server, ServerName, UnavailableError


def in_ci() -> bool:
    """Whether what is missing here makes the tests fail."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


class FreshUrl(Protocol):
    """Makes a database that is dropped when the test ends."""

    def __call__(self, driver: str = "") -> str:
        """Its URL; `driver` is SQLAlchemy's name of one, such as `asyncpg`."""
        ...


@dataclass(slots=True)
class _Ledger:
    """What the session asked for, by name of a server: how it was had, or why not.

    Tests may run in several processes. Each has servers of its own; the one that shows the summary is told by the others.
    """

    config: pytest.Config
    started: dict[str, str] = field(default_factory=dict)
    unavailable: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """The line, and whether it makes the session fail."""

    def say(self, line: str) -> None:
        """Show a line at once, past pytest's capture."""
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        if capture is not None:
            with capture.global_and_fixture_disabled():
                if terminal is None:
                    print(line, file=sys.stderr, flush=True)
                else:
                    terminal.ensure_newline()
                    terminal.write_line(line)

    def obtained(self, server: Server) -> None:
        """It answers."""
        self.started[server.name] = f"{server.name}: {server.origin.value}, answered after {server.startup_s:.1f} s"

    def missed(self, error: UnavailableError) -> None:
        """It cannot be had."""
        fails = in_ci() and error.absence is Absence.MISSING
        note = " (CI=true: a missing server fails the run)" if fails else ""
        self.unavailable[error.name] = (f"{error.name}: {error.absence.value.upper()}: {error.reason}{note}", fails)

    @property
    def fails(self) -> bool:
        """Whether what is missing makes this session fail."""
        return any(fails for _, fails in self.unavailable.values())


_LEDGER = pytest.StashKey[_Ledger]()
_OUTPUT = "txcoord_servers"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LEDGER] = _Ledger(config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """One of several processes has ended; `node` is pytest-xdist's idea of it."""
    ledger = node.config.stash[_LEDGER]
    started, unavailable = getattr(node, "workeroutput", {}).get(_OUTPUT, ({}, {}))
    ledger.started |= started
    ledger.unavailable |= unavailable


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    ledger = session.config.stash[_LEDGER]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_OUTPUT] = (ledger.started, ledger.unavailable)
    if ledger.fails and exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    ledger = config.stash[_LEDGER]
    if ledger.started or ledger.unavailable:
        terminalreporter.section("servers")
    for line in ledger.started.values():
        terminalreporter.write_line(line)
    for line, fails in ledger.unavailable.values():
        terminalreporter.write_line(line, red=fails, yellow=not fails)


def _obtain(request: pytest.FixtureRequest, name: ServerName) -> Iterator[Server]:
    ledger = request.config.stash[_LEDGER]
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running(name, ledger.say))
        except UnavailableError as error:
            ledger.missed(error)
            pytest.skip(str(error))
        ledger.obtained(server)
        yield server


def _make_databases(server: Server) -> Iterator[FreshUrl]:
    with ExitStack() as stack:

        def make(driver: str = "") -> str:
            return stack.enter_context(fresh_database(server, driver))

        yield make


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[Server]:
    """PostgreSQL of the distribution."""
    yield from _obtain(request, "postgres")


@pytest.fixture(scope="session")
def postgres18(request: pytest.FixtureRequest) -> Iterator[Server]:
    """PostgreSQL 18."""
    yield from _obtain(request, "postgres18")


@pytest.fixture(scope="session")
def mariadb(request: pytest.FixtureRequest) -> Iterator[Server]:
    """MariaDB."""
    yield from _obtain(request, "mariadb")


@pytest.fixture(scope="session")
def mysql(request: pytest.FixtureRequest) -> Iterator[Server]:
    """MySQL, when one is given."""
    yield from _obtain(request, "mysql")


@pytest.fixture(scope="session")
def redis(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Redis."""
    yield from _obtain(request, "redis")


@pytest.fixture(scope="session")
def zookeeper(request: pytest.FixtureRequest) -> Iterator[Server]:
    """ZooKeeper."""
    yield from _obtain(request, "zookeeper")


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Kafka."""
    yield from _obtain(request, "kafka")


@pytest.fixture
def fresh_postgres_url(postgres: Server) -> Iterator[FreshUrl]:
    """`fresh_postgres_url(driver="")`: the URL of a new empty database."""
    yield from _make_databases(postgres)


@pytest.fixture
def fresh_postgres18_url(postgres18: Server) -> Iterator[FreshUrl]:
    """The same on PostgreSQL 18."""
    yield from _make_databases(postgres18)


@pytest.fixture
def fresh_mariadb_url(mariadb: Server) -> Iterator[FreshUrl]:
    """The same on MariaDB."""
    yield from _make_databases(mariadb)


@pytest.fixture
def fresh_mysql_url(mysql: Server) -> Iterator[FreshUrl]:
    """The same on MySQL."""
    yield from _make_databases(mysql)
