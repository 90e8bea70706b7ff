"""`make sim SEEDS=5000`: many seeds on all cores; `--seed N` runs one and prints what is wrong."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.simulation.run import Outcome, simulate


def total(outcomes: list[Outcome]) -> str:
    """What many seeds did, in one line."""
    did = {name: sum(getattr(o, name) for o in outcomes) for name in ("transactions", "faults", "seconds", "purged", "cleaned")}
    return (
        f"{len(outcomes)} seeds: {did['transactions']} transactions, {did['faults']} faults, {did['seconds']:.0f} virtual "
        f"seconds, {did['purged']} transactions and {did['cleaned']} fence rows purged"
    )


def main() -> int:
    """Run the seeds; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this one")
    wanted = parser.parse_args()
    if wanted.seed is not None:
        outcome = simulate(wanted.seed)
        print(outcome)
        return int(outcome.broken)
    started = time.monotonic()
    seeds = range(wanted.first, wanted.first + wanted.seeds)
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for outcome in pool.map(simulate, seeds, chunksize=10):
            outcomes.append(outcome)
            if outcome.broken:
                print(f"seed {outcome.seed}: {outcome.violations[:3]} {outcome.crash}", flush=True)
            if len(outcomes) % 250 == 0:
                print(f"{len(outcomes)} seeds, {len(outcomes) / (time.monotonic() - started):.1f} a second", flush=True)
    broken = [o.seed for o in outcomes if o.broken]
    print(f"{total(outcomes)}; {time.monotonic() - started:.0f} s, {len(broken)} broken {broken[:10]}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
