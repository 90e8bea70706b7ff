"""A world for each driver, and accounts in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from txcoord_sdk import Client
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.at.world import ACCOUNTS, ASYNC, FILL, World
from tests.integration.at.wrapped import world_of
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


@pytest.fixture
def accounts(world: World) -> World:
    """On every driver, with three of 100 each."""
    world.script(ACCOUNTS, FILL)
    return world


@pytest.fixture
def bank(sync_world: World) -> World:
    """The same on every driver with which threads can work."""
    sync_world.script(ACCOUNTS, FILL)
    return sync_world


@pytest.fixture
def pg(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[World]:
    """With accounts on PostgreSQL; the server, and the driver of the engine, may be said."""
    server, driver = getattr(request, "param", "postgres18+asyncpg").split("+")
    yield from world_of(request, connected, coordinator, server, driver)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool
