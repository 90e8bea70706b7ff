"""How often a service waits for its database and for the coordinator, counted on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from txcoord_sdk import Client
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.at.conftest import DRIVERS, SYNC
from tests.integration.at.world import ACCOUNTS, FILL, World
from tests.servers.fixtures import FreshUrl
from tests.servers.proxy import TcpProxy

Work = Callable[[Session], object]

_WARM = 12
"""Transactions after which drivers have prepared what they prepare."""


def known(session: Session) -> None:
    """A statement whose keys are known from its text."""
    session.execute(text("UPDATE account SET balance = balance - 1 WHERE id = :id"), {"id": 1})


def unknown(session: Session) -> None:
    """One whose keys are known once it has run."""
    session.execute(text("UPDATE account SET balance = balance - 1 WHERE owner = :owner"), {"owner": "bob"})


class Wired:
    """A world whose service reaches its database through a proxy, over one connection.

    Args:
        world: It.
        proxy: The proxy.
        app: Which of the proxy's connections the application has.
    """

    def __init__(self, world: World, proxy: TcpProxy, app: int) -> None:
        self.world = world
        self._proxy = proxy
        self._app = app

    def trips(self, run: Callable[[Work], object], works: Sequence[Work]) -> float:
        """Round trips of one local transaction to the database, once it is warm.

        Args:
            run: Runs it.
            works: Its statements.
        """

        def work(session: Session) -> None:
            for each in works:
                each(session)

        for _ in range(_WARM):
            run(work)
        before = self._proxy.traffic()[self._app].trips
        for _ in range(10):
            run(work)
        return (self._proxy.traffic()[self._app].trips - before) / 10


@pytest.fixture(params=[driver for driver in DRIVERS if not driver.startswith("sqlite")])
def wired(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[Wired]:
    """On every driver that talks to a server."""
    server, driver = request.param.split("+")
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{server}_url")
    plain = fresh(SYNC[server])
    with TcpProxy(plain) as proxy:
        through = proxy.url.replace(f"+{SYNC[server]}", f"+{driver}")
        world = World(connected(), coordinator.address, through, plain, pool_size=1, max_overflow=0)
        world.script(ACCOUNTS, FILL)
        ours = len(proxy.traffic())
        world.locally(known)
        yield Wired(world, proxy, ours)
        world.close()


def test_captured_statements_cost_few_trips_to_the_database(wired: Wired) -> None:
    world = wired.world

    def more(*works: Work) -> float:
        return wired.trips(world.globally, works) - wired.trips(world.locally, works)

    if "postgresql" in world.url:
        assert more(known) == more(unknown) == more(known, known) == 0
        assert more(known, unknown) == 1  # a savepoint
        assert more(known, unknown, unknown) == 2
    else:
        # the session, its limits and the table are looked at; rows are read before and after; the record; limits go back
        assert more(known) <= 7
        assert more(unknown) <= 8  # its rows are looked for without locks
        assert more(known, known) <= 10


def test_a_transaction_of_one_branch_waits_for_the_coordinator_twice(wired: Wired) -> None:
    """Its registration, which begins it, and the decision; reports ride along."""
    world = wired.world
    wired.trips(world.globally, [known])
    asked = world.asked()
    world.globally(known)
    assert world.asked() - asked == 2
