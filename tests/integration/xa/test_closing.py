"""A client that is closed holds nothing back: others can end what its process has prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from txcoord_proto.status import BranchStatus
from txcoord_rm.xa.kept import kept
from txcoord_sdk import Client
from txcoord_sdk.context import entered
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.agent import agent
from tests.integration.at.world import World
from tests.integration.deciding import decide
from tests.integration.xa.book import balances, pay, prepared
from tests.integration.xa.conftest import make_world


@pytest.fixture(params=["mariadb+pymysql", "mariadb+aiomysql"])
def world(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[World]:
    """On MariaDB, whose sessions are kept to end what they have prepared."""
    yield from make_world(request, request.param, connected, coordinator)


@pytest.mark.parametrize("commit", [True, False])
def test_the_sessions_that_were_kept_are_closed_with_the_client(
    world: World, connected: Callable[..., Client], coordinator: CoordinatorProcess, commit: bool
) -> None:
    caller = connected()
    transaction = caller.new_transaction("closing", 30.0, "", 0)
    with entered(world.client.joined_transaction(transaction.xid())):
        world.locally(pay(1, 10))
    wait_until(lambda: caller.status(transaction.xid()).branches[0].status == BranchStatus.DONE, 10, "its report")
    assert len(kept) == 1
    assert len(prepared(world)) == 1
    if world.is_async:
        world.run(world.client.aclose())
    else:
        world.client.close()
    assert len(kept) == 0
    with agent(coordinator.address, world.outside.url.render_as_string(hide_password=False)):
        decide(caller, transaction, commit)
        wait_until(lambda: caller.status(transaction.xid()).settled_at, 15, "its settlement")
    assert prepared(world) == []
    assert balances(world) == [110 if commit else 100, 100, 100]


@pytest.mark.parametrize("world", ["mariadb+pymysql"], indirect=True)
@pytest.mark.parametrize("commit", [True, False])
def test_where_others_serve_the_database_the_process_that_prepared_is_asked_first(
    world: World, connected: Callable[..., Client], coordinator: CoordinatorProcess, commit: bool
) -> None:
    with agent(coordinator.address, world.outside.url.render_as_string(hide_password=False)):
        for _ in range(6):
            transaction = connected().new_transaction("asked", 30.0, "", 0)
            with entered(world.client.joined_transaction(transaction.xid())):
                world.locally(pay(1, 10))
            (transaction.commit if commit else transaction.rollback)()
            (branch,) = world.client.status(transaction.xid()).branches
            assert (branch.attempts, branch.settled_at > 0) == (1, True)
    assert balances(world) == [160 if commit else 100, 100, 100]


@pytest.mark.parametrize("world", ["mariadb+pymysql"], indirect=True)
def test_sessions_of_another_database_stay(
    world: World, request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess
) -> None:
    others = make_world(request, "mariadb+pymysql", connected, coordinator)
    other = next(others)
    transaction = connected().new_transaction("closing", 30.0, "", 0)
    with entered(world.client.joined_transaction(transaction.xid())):
        world.locally(pay(1, 10))
    assert len(kept) == 1
    other.client.close()
    assert len(kept) == 1
    transaction.rollback()
    assert prepared(world) == []
    next(others, None)
