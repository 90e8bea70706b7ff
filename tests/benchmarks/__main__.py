"""`make bench`: every figure with its floor and its goal, in one table and in build/bench.json.

    python -m tests.benchmarks [--only coordinator] [--strict] [--runs 3]

Each figure is the median of three runs, but memory, which is looked at once; a calibration of the machine is printed beside
them, since the same code differs by a third from one hour to the next. With --strict a missed floor is a failure, and so is a
store that cannot be had. No figure is asserted anywhere else.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from txcoord_proto.commands import COMPILED
from txcoord_server.bench.machine import calibrate

from tests.benchmarks import at, coordinator
from tests.benchmarks.figure import Figure

SUITES: dict[str, Callable[[int], list[Figure]]] = {"coordinator": coordinator.figures, "at": at.figures}


def main() -> int:
    """Run the suites; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=[*SUITES])
    parser.add_argument("--strict", action="store_true", help="a missed floor is a failure")
    parser.add_argument("--runs", type=int, default=3)
    wanted = parser.parse_args()
    started = time.monotonic()
    print("compiled" if COMPILED else "nothing is compiled: these are not the figures that users get", flush=True)
    before = calibrate()
    figures = [f for name, suite in SUITES.items() if wanted.only in (None, name) for f in suite(wanted.runs)]
    after = calibrate()
    print()
    print(f"{'':58} {'median':>10} {'min':>10} {'max':>10} {'floor':>9} {'goal':>9}  met")
    for figure in figures:
        print(figure.line())
    print(f"\nmachine before: {before}\nmachine after:  {after}\ntook {time.monotonic() - started:.0f} s")
    target = Path("build/bench.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(
        json.dumps({"before": asdict(before), "after": asdict(after), "figures": [f.as_dict() for f in figures]}, indent=1)
    )
    missed = [f.name for f in figures if not f.floor_met]
    if missed:
        print(f"\nbelow the floor: {'; '.join(missed)}", file=sys.stderr)
    return int(bool(missed and wanted.strict))


if __name__ == "__main__":
    sys.exit(main())
