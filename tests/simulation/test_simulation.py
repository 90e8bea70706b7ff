"""The simulation as a test: seeds that hold, bugs that do not, and the same seed twice."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.run import Outcome, simulate

SEEDS = int(os.environ.get("TXCOORD_SIM_SEEDS", "500"))
WITHIN = 500


def test_no_seed_breaks_a_promise() -> None:
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        outcomes = list(pool.map(simulate, range(SEEDS), chunksize=10))
    broken = [o for o in outcomes if o.violations]
    did = {name: sum(getattr(o, name) for o in outcomes) for name in ("transactions", "faults", "seconds")}
    print(
        f"{len(outcomes)} seeds: {did['transactions']} transactions, {did['faults']} faults, {did['seconds']:.0f} virtual seconds"
    )
    assert not broken, f"run `make sim SEED={broken[0].seed}`: {broken[0].violations[:3]}"
    assert did["transactions"] > 5 * SEEDS
    assert did["faults"] > 5 * SEEDS


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_goes_red(name: str) -> None:
    with BUGS[name]():
        for seed in range(WITHIN):
            try:
                outcome = simulate(seed)
            except Exception:
                break  # a broken rule may also stop the program: that is red as well
            if outcome.violations:
                break
        else:
            pytest.fail(f"{WITHIN} seeds did not notice: {BUGS[name].__doc__}")
    print(f"{name}: seed {seed}")


def test_a_seed_is_its_own_repetition() -> None:
    again = 7

    def run() -> Outcome:
        return simulate(again)

    first, second = run(), run()
    assert (first.trace, first.steps) == (second.trace, second.steps)
    code = f"from tests.simulation.run import simulate; print(simulate({again}).trace)"
    environment = {**os.environ, "PYTHONHASHSEED": "777"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert other.stdout.strip() == first.trace, "the same under another hash seed"
