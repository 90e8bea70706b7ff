"""`make sim SEEDS=5000`: many seeds on all cores; `--seed N` runs one and prints what is wrong."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.simulation.run import simulate


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
        return int(bool(outcome.violations))
    started = time.monotonic()
    seeds = range(wanted.first, wanted.first + wanted.seeds)
    broken, transactions, faults, virtual = [], 0, 0, 0.0
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for done, outcome in enumerate(pool.map(simulate, seeds, chunksize=10), 1):
            transactions += outcome.transactions
            faults += outcome.faults
            virtual += outcome.seconds
            if outcome.violations:
                broken.append(outcome.seed)
                print(f"seed {outcome.seed}: {outcome.violations[:3]}", flush=True)
            if done % 250 == 0:
                print(f"{done} seeds, {done / (time.monotonic() - started):.1f} a second, {len(broken)} broken", flush=True)
    print(
        f"{len(seeds)} seeds in {time.monotonic() - started:.0f} s: {transactions} transactions, {faults} faults, "
        f"{virtual:.0f} virtual seconds, {len(broken)} broken {broken[:10]}"
    )
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
