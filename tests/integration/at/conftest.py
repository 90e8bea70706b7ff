"""A coordinator for all tests of the folder, and a world for each driver."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from txcoord_sdk import Client, connect
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.at.world import ASYNC, World
from tests.servers.fixtures import FreshUrl

DRIVERS = [
    "postgres18+psycopg",
    "postgres18+asyncpg",
    "postgres18+psycopg_async",
    "postgres+psycopg",
    "postgres+asyncpg",
    "mariadb+pymysql",
    "mariadb+aiomysql",
    "sqlite+pysqlite",
    "sqlite+aiosqlite",
]
SYNC = {"postgres18": "psycopg", "postgres": "psycopg", "mariadb": "pymysql", "sqlite": "pysqlite"}
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def coordinator() -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess() as process:
        yield process


@pytest.fixture
def connected(coordinator: CoordinatorProcess) -> Iterator[Callable[..., Client]]:
    """Makes clients; each of a service of its own unless named."""
    clients: list[Client] = []

    def make(service: str = "") -> Client:
        clients.append(connect(coordinator.address, service=service or f"shop{next(_numbers)}"))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture(params=DRIVERS)
def world(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[World]:
    """On every driver."""
    yield from _world(request, connected, coordinator)


@pytest.fixture(params=[driver for driver in DRIVERS if driver.partition("+")[2] not in ASYNC])
def sync_world(
    request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess
) -> Iterator[World]:
    """On every driver with which threads can work."""
    yield from _world(request, connected, coordinator)


def _world(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[World]:
    server, driver = request.param.split("+")
    if server == "sqlite":
        plain = f"sqlite+pysqlite:///{request.getfixturevalue('tmp_path')}/service.db"
    else:
        fresh: FreshUrl = request.getfixturevalue(f"fresh_{server}_url")
        plain = fresh(SYNC[server])
    made = World(connected(), coordinator.address, plain.replace(f"+{SYNC[server]}", f"+{driver}"), plain)
    yield made
    made.close()
