"""A rollback that somebody else's write has parked, and the ways in which an operator ends it, on every driver."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text
from sqlalchemy.orm import Session
from txcoord_rm.commands.undo import undo_command
from txcoord_sdk.testing import CoordinatorProcess, wait_until
from txcoord_server.cli import main as txcoord

from tests.integration.at.world import World


def sold(world: World) -> Callable[[Session], None]:
    """Sells what is there, and then somebody writes one of the rows who asks nobody."""

    def work(session: Session) -> None:
        session.execute(text("UPDATE stock SET free = free - 2 WHERE sku = 'apple'"))
        session.execute(text("INSERT INTO stock (sku, free, note) VALUES ('fig', 1, NULL)"))
        session.execute(text("DELETE FROM stock WHERE sku = 'pear'"))

    return work


def written_by_others(world: World) -> Callable[[Session], None]:
    return lambda session: world.script("UPDATE stock SET free = 77, note = 'mine' WHERE sku = 'apple'")


@pytest.fixture
def parked(world: World) -> World:
    """After a rollback that found a row which the transaction did not leave so."""
    world.script(
        "CREATE TABLE stock (sku varchar(20) NOT NULL PRIMARY KEY, free int NOT NULL, note varchar(20))",
        "INSERT INTO stock VALUES ('apple', 10, 'ripe'), ('pear', 20, NULL)",
    )
    world.globally(sold(world), written_by_others(world), undo=True)
    assert world.status() == "PARKED"
    assert "stock(sku=apple).free: was 10, became 8, is 77" in world.explanation()
    return world


def undo(world: World, *words: str) -> Result:
    url = world.outside.url.render_as_string(hide_password=False)
    done = CliRunner().invoke(undo_command, [*words, "--database", url], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def retry(world: World, coordinator: CoordinatorProcess) -> None:
    """Have the coordinator try it again; it ends."""
    assert world.last is not None
    words = ["retry", world.last.known_xid, "--address", coordinator.address, "--yes"]
    done = CliRunner().invoke(txcoord, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    wait_until(lambda: world.status() == "ROLLED_BACK", what="the end of the rollback")
    assert world.waiters() == []


def stock(world: World) -> list[Any]:
    return world.rows("SELECT sku, free, note FROM stock ORDER BY sku")


def test_it_is_shown_with_what_stands_against_it(parked: World) -> None:
    assert parked.last is not None
    before, xid = stock(parked), parked.last.known_xid
    shown = undo(parked, "show", xid, "--try").stdout
    assert shown.splitlines()[0].split() == ["BRANCH", "DID", "TABLE", "ROW", "COLUMN", "BEFORE", "AFTER"]
    assert {line.split()[1] for line in shown.splitlines()[1:9] if line} == {"DELETE", "INSERT", "UPDATE"}
    assert "these rows are not as the transaction left them" in shown
    found = json.loads(undo(parked, "show", xid, "--try", "--json").stdout)
    assert [item["sqlType"] for item in found["branches"][0]["undoItems"]] == ["UPDATE", "INSERT", "DELETE"]
    (difference,) = found["differences"]
    assert {side: str(difference[side]["free"]) for side in ("before", "after", "current")} == {
        "before": "10", "after": "8", "current": "77",
    }  # fmt: skip
    assert stock(parked) == before, "nothing was changed by looking"


def test_the_row_is_put_right_by_hand(parked: World, coordinator: CoordinatorProcess) -> None:
    parked.script("UPDATE stock SET free = 10 WHERE sku = 'apple'")
    retry(parked, coordinator)
    assert stock(parked) == [("apple", 10, "mine"), ("pear", 20, None)]


def test_it_is_restored_by_force(parked: World, coordinator: CoordinatorProcess) -> None:
    assert parked.last is not None
    undo(parked, "force-restore", parked.last.known_xid, "--address", coordinator.address, "--reason", "ticket 4711", "--yes")
    assert stock(parked) == [("apple", 10, "mine"), ("pear", 20, None)]
    retry(parked, coordinator)
    assert {state for *_, state in parked.undo_rows()} == {"UNDONE"}


def test_what_is_there_is_accepted(parked: World, coordinator: CoordinatorProcess) -> None:
    assert parked.last is not None
    undo(parked, "accept-current", parked.last.known_xid, "--address", coordinator.address, "--reason", "ticket 4711", "--yes")
    retry(parked, coordinator)
    assert stock(parked) == [("apple", 77, "mine"), ("fig", 1, None)]
    assert {state for *_, state in parked.undo_rows()} == {"UNDONE"}
