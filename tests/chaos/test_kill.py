"""SIGKILL under load, again and again: every decision that was told is in the store, and the rest is finished afterwards."""

from __future__ import annotations

import asyncio
import gc
import random
from pathlib import Path

import pytest
from txcoord_sdk.testing import CoordinatorProcess

from tests.benchmarks.coordinator import decided, told_until_killed, unfinished
from tests.benchmarks.stuck import participate
from tests.servers.fixtures import FreshUrl

ROUNDS = 4


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
    return fresh()


async def finished(coordinator: CoordinatorProcess) -> None:
    """Once participants are back, what was decided ends."""
    serving = asyncio.ensure_future(participate(coordinator.address, 1_000_000))
    for _ in range(200):
        if not unfinished(coordinator.store):
            break
        await asyncio.sleep(0.1)
    serving.cancel()
    assert unfinished(coordinator.store) == 0


def test_no_told_decision_is_lost(url: str, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(4711)
    told: list[str] = []
    with CoordinatorProcess(url) as coordinator:
        for _ in range(ROUNDS):
            round_told = asyncio.run(told_until_killed(coordinator, chance.uniform(0.8, 1.6)))
            told += round_told
            assert decided(url, round_told) == len(round_told)
            coordinator.start()
        print(f"{len(told)} told over {ROUNDS} kills, 0 missing")
        assert decided(url, told) == len(told), "and none is lost later"
        asyncio.run(finished(coordinator))
    gc.collect()
    assert "never retrieved" not in caplog.text, "what ended the broken streams was looked at"
