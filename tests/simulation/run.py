"""One seed: build the world, run it, check it."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.simulation.check import violations
from tests.simulation.loop import SimLoop
from tests.simulation.store import SimStore, StoreFaults
from tests.simulation.world import STANDSTILLS, Profile, World


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a seed came to.

    Args:
        seed: It.
        violations: What is wrong; empty: all is well.
        trace: A number by which two runs are compared.
        transactions, faults, steps, seconds: How much it did; seconds are virtual.
    """

    seed: int
    violations: list[str]
    trace: str
    transactions: int
    faults: int
    steps: int
    seconds: float


@contextmanager
def silent_logs() -> Iterator[None]:
    """The simulated processes' warnings are expected."""
    loggers = [logging.getLogger(name) for name in ("txcoord_sdk", "txcoord_server")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before):
            logger.setLevel(level)


@cache
def _fresh_store() -> bytes:
    """A store with its schema, made once per process."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "store.db")
        store = SimStore(SimLoop(0), path, "template", StoreFaults())
        store.make()
        store.crash()
        return path.read_bytes()


def simulate(seed: int, profile: Profile | None = None) -> Outcome:
    """Run a seed."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="txcoord-sim-", dir=memory))
    (directory / "store.db").write_bytes(_fresh_store())
    collecting = gc.isenabled()
    gc.disable()  # a frozen process must not be collected: its `finally` blocks would run
    try:
        world = World(seed, directory, profile or (STANDSTILLS if seed % 4 == 3 else Profile()))
        started = world.loop.time()
        with silent_logs():
            history = world.run()
        found = violations(directory, history)
        seconds = world.loop.time() - started
        world.loop.note(sorted(history.committed), sorted(history.rolled_back))
        return Outcome(seed, found, world.loop.trace, history.transactions, history.faults, world.loop.steps, seconds)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        if collecting:
            gc.enable()
