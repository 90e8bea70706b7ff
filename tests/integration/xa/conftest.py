"""A world in XA mode for each driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from txcoord_sdk import Client
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.at.world import ASYNC, World
from tests.servers.fixtures import FreshUrl

DRIVERS = [
    "postgres18+psycopg",
    "postgres18+asyncpg",
    "postgres+psycopg",
    "postgres+psycopg2",
    "postgres+psycopg_async",
    "mariadb+pymysql",
    "mariadb+aiomysql",
]
SYNC = [driver for driver in ("postgres18+psycopg", "postgres+psycopg2", "mariadb+pymysql")]
PLAIN = {"postgres": "psycopg", "postgres18": "psycopg", "mariadb": "pymysql"}


@pytest.fixture(params=DRIVERS)
def world(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[World]:
    """On every driver."""
    yield from make_world(request, request.param, connected, coordinator)


@pytest.fixture(params=SYNC)
def sync_world(
    request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess
) -> Iterator[World]:
    """On drivers with which threads can work."""
    assert all(driver.partition("+")[2] not in ASYNC for driver in SYNC)
    yield from make_world(request, request.param, connected, coordinator)


def make_world(
    request: pytest.FixtureRequest,
    where: str,
    connected: Callable[..., Client],
    coordinator: CoordinatorProcess,
    mode: str = "xa",
    starts: bool = True,
) -> Iterator[World]:
    """A world on `server+driver`, with a table of accounts; it serves the database only if it `starts`."""
    server, driver = where.split("+")
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{server}_url")
    plain = fresh(PLAIN[server])
    made = World(connected(), coordinator.address, plain.replace(f"+{PLAIN[server]}", f"+{driver}"), plain, mode, starts)
    made.script(
        "CREATE TABLE account (id integer PRIMARY KEY, owner varchar(20) NOT NULL, balance integer NOT NULL)",
        "INSERT INTO account VALUES (1, 'ann', 100), (2, 'bob', 100), (3, 'cid', 100)",
    )
    database = made.resource.database
    made.run(database.aprepare()) if made.is_async else database.prepare()
    yield made
    made.close()
