"""What tests of wrapped connections share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from sqlalchemy import make_url
from txcoord_sdk import Client
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.at.world import ACCOUNTS, FILL, World
from tests.servers.fixtures import FreshUrl

START = [(1, "ann", 100), (2, "bob", 100), (3, "cid", 100)]


def world_of(
    request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess, server: str, driver: str
) -> Iterator[World]:
    """A world with accounts, whose engine is of the driver."""
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{server}_url")
    plain = fresh("psycopg")
    made = World(connected(), coordinator.address, plain.replace("+psycopg", f"+{driver}"), plain)
    made.script(ACCOUNTS, FILL)
    yield made
    made.close()


def target(world: World) -> str:
    """Its database, as drivers are told it."""
    return make_url(world.url).set(drivername="postgresql").render_as_string(hide_password=False)


def accounts(world: World) -> list[tuple[Any, ...]]:
    return world.rows("SELECT id, owner, balance FROM account ORDER BY id")


def within(world: World, work: Coroutine[Any, Any, None], error: type[BaseException] | None = None) -> None:
    """Run it, which takes not too long, and ends with the error if one is named."""

    async def limited() -> None:
        await asyncio.wait_for(work, 30)

    if error is None:
        world.run(limited())
    else:
        with pytest.raises(error):
            world.run(limited())
