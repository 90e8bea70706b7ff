"""What a service wrote is prepared by its commit, and ends as the global transaction is decided."""

from __future__ import annotations

from tests.integration.at.world import World
from tests.integration.xa.book import balances, fences, pay, prepared


def test_a_commit_keeps_everything(world: World) -> None:
    seen: list[list[int]] = []
    world.globally(pay(1, 10), pay(2, -10), lambda session: seen.append(balances(world)))
    assert seen == [[100, 100, 100]], "nothing is to be seen before the decision"
    assert balances(world) == [110, 90, 100]
    assert fences(world) == ["TRIED", "TRIED"]
    assert prepared(world) == []
    assert world.statuses() == ["SETTLED", "SETTLED"]


def test_a_rollback_undoes_everything(world: World) -> None:
    world.globally(pay(1, 10), pay(2, -10), undo=True)
    assert balances(world) == [100, 100, 100]
    assert prepared(world) == []
    assert world.statuses() == ["SETTLED", "SETTLED"]
