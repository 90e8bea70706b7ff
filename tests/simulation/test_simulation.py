"""The simulation as a test: seeds that hold, bugs that do not, and the same seed twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.simulation.__main__ import total
from tests.simulation.bugs import BUGS, WITHIN, hunt
from tests.simulation.run import Outcome, simulate

SEEDS = int(os.environ.get("TXCOORD_SIM_SEEDS", "500"))


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """One process a core: what a seed leaves behind does not meet the other tests."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def hunts(pool: ProcessPoolExecutor) -> dict[str, Future[tuple[list[Outcome], bool]]]:
    """A hunt for each planted bug; they start together."""
    return {name: pool.submit(hunt, name) for name in BUGS}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_goes_red(hunts: dict[str, Future[tuple[list[Outcome], bool]]], name: str) -> None:
    outcomes, found = hunts[name].result()
    crashed = [o.seed for o in outcomes if o.crash]
    assert found, f"{WITHIN} seeds broke none of {BUGS[name].breaks} (crashed: {crashed[:5]}): {BUGS[name].plant.__doc__}"
    last = outcomes[-1]
    told = next(v for v in last.violations if v.startswith(BUGS[name].breaks))
    print(f"{name}: red at seed {last.seed}, {told}" + (f"; the program crashed in {len(crashed)} seeds" if crashed else ""))


def test_no_seed_breaks_a_promise(pool: ProcessPoolExecutor) -> None:
    outcomes = list(pool.map(simulate, range(SEEDS), chunksize=10))
    broken = [o for o in outcomes if o.broken]
    print(total(outcomes))
    assert not broken, f"run `make sim SEED={broken[0].seed}`: {broken[0].violations[:3]} {broken[0].crash}"
    assert sum(o.transactions for o in outcomes) > 5 * SEEDS
    assert sum(o.faults for o in outcomes) > 5 * SEEDS
    assert sum(o.purged for o in outcomes) > SEEDS
    assert sum(o.cleaned for o in outcomes) > SEEDS


def test_a_seed_is_its_own_repetition(pool: ProcessPoolExecutor) -> None:
    again = 7
    first, second = pool.submit(simulate, again).result(), pool.submit(simulate, again).result()
    assert (first.trace, first.steps) == (second.trace, second.steps)
    code = f"from tests.simulation.run import simulate; print(simulate({again}).trace)"
    environment = {**os.environ, "PYTHONHASHSEED": "777"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert other.stdout.strip() == first.trace, "the same under another hash seed"
