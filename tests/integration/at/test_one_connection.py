"""With one connection in the application's pool, which a waiter holds: the rollback that he waits for needs none of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from txcoord_sdk import Client
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.at.conftest import SYNC
from tests.integration.at.test_locks import SECONDS, Holder, balances, pay, waits
from tests.integration.at.world import ACCOUNTS, FILL, World
from tests.servers.fixtures import FreshUrl


@pytest.fixture(params=sorted(SYNC))
def narrow(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[World]:
    """With accounts, on each database."""
    if request.param == "sqlite":
        url = f"sqlite+pysqlite:///{request.getfixturevalue('tmp_path')}/service.db"
    else:
        fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
        url = fresh(SYNC[request.param])
    world = World(connected(), coordinator.address, url, url, pool_size=1, max_overflow=0)
    world.script(ACCOUNTS, FILL)
    yield world
    world.close()


@pytest.mark.parametrize("by_key", [True, False])
def test_the_rollback_of_the_holder_ends_at_once(narrow: World, pool: ThreadPoolExecutor, by_key: bool) -> None:
    narrow.globally(pay(3, 0), undo=True)  # its second phases have a connection of their own now
    holder = Holder(narrow, pool, pay(1, 10), pay(2, 10))
    waiter = pool.submit(narrow.globally, pay(1, 1, by_key))
    waits(narrow, waiter)
    assert narrow.engine.pool.checkedout() == 1, "the waiter's, and there is no other"
    holder.end(undo=True)
    assert holder.ended_in < 0.5, "it takes less than 0.1 s on a machine that does nothing else"
    waiter.result(SECONDS)
    assert balances(narrow) == [101, 100, 100]
