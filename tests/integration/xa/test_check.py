"""What `txcoord-agent check` can say of the modes in which a database is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner
from sqlalchemy import text
from txcoord_rm.commands.check import check_command
from txcoord_rm.commands.init import init_command
from txcoord_sdk import Client
from txcoord_sdk.context import entered
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.contract.rm.branches import phase_one
from tests.integration.at.world import World
from tests.integration.xa.book import pay, prepared
from tests.integration.xa.conftest import make_world

UNKNOWN = "recorded nowhere"


@pytest.fixture(params=["postgres+psycopg", "postgres18+psycopg", "mariadb+pymysql"])
def world(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[World]:
    """In XA mode; the undo log is there as well."""
    worlds = make_world(request, request.param, connected, coordinator)
    made = next(worlds)
    assert CliRunner().invoke(init_command, [url_of(made)]).exit_code == 0
    yield made
    next(worlds, None)


def url_of(world: World) -> str:
    return world.outside.url.render_as_string(hide_password=False)


def said(world: World) -> list[str]:
    """Lines about modes."""
    checked = CliRunner().invoke(check_command, [url_of(world)])
    assert checked.exit_code == 0, checked.output
    return [" ".join(line.split()) for line in checked.stdout.splitlines() if line.split()[1] == "modes"]


def test_nothing_is_recorded(world: World) -> None:
    assert said(world) == ["ok modes no branch is recorded; those of AT that were committed leave nothing behind"]


def test_xa_and_tcc(world: World) -> None:
    world.globally(pay(1, 10))
    wait_until(lambda: prepared(world) == [], 10, "the end of the branch")
    assert said(world) == ["ok modes used here lately: XA (1 branches)"]
    fence = "INSERT INTO txcoord_fence SELECT 'x', 7, 'stock:stock.reserve@{}', 'TRIED', NULL, 0, 0"
    world.script(fence.format(world.resource.database.id))
    (line,) = said(world)
    assert line.startswith("warning modes used here lately: XA (1 branches), TCC (stock:stock.reserve): ")
    assert UNKNOWN in line


@pytest.mark.parametrize("world", ["postgres+psycopg", "postgres18+psycopg"], indirect=True)
def test_a_table_that_is_written_in_at_and_xa_is_named_while_both_are_open(world: World) -> None:
    world.script("CREATE TABLE quiet (id integer PRIMARY KEY)", "INSERT INTO quiet VALUES (1)")
    phase_one(world.outside, "g.1.00000001", 1, "UPDATE account SET balance = 0 WHERE id = 2")
    assert said(world) == ["ok modes used here lately: AT (public.account now)"]
    transaction = world.client.new_transaction("check", 30.0, "", 0)
    with entered(transaction):
        world.locally(lambda session: [pay(1, 10)(session), session.execute(text("SELECT * FROM quiet FOR UPDATE"))])
    assert len(prepared(world)) == 1
    table, use = said(world)
    assert table.startswith("warning modes public.account: written in AT and in XA, both not ended; ")
    assert use.startswith("warning modes used here lately: AT (public.account now), XA (0 branches, public.account now): ")
    transaction.rollback()
    assert said(world) == ["ok modes used here lately: AT (public.account now)"]
