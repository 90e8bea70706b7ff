"""One seed: build the world, run it, check it."""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from txcoord_sdk import local_transaction, mailbox
from txcoord_sdk.transaction import effects

from tests.simulation.business import make_business_database
from tests.simulation.check import violations
from tests.simulation.database import Deadlines, epoch_time
from tests.simulation.loop import SimLoop
from tests.simulation.scene import STANDSTILLS, Profile
from tests.simulation.store import SimStore, StoreFaults
from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a seed came to.

    Args:
        seed: It.
        violations: Which promises were broken, each with its number; empty: none.
        crash: What the simulated program raised where it must not, or that it came to no end; empty: nothing.
        trace: A number by which two runs are compared.
        transactions, faults, steps, seconds: How much it did; seconds are virtual.
        purged, cleaned: Transactions that the coordinator's retention removed, and fence rows that the services' did.
    """

    seed: int
    violations: list[str]
    crash: str
    trace: str
    transactions: int
    faults: int
    steps: int
    seconds: float
    purged: int
    cleaned: int

    @property
    def broken(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.violations or self.crash)


def simulate(seed: int, profile: Profile | None = None) -> Outcome:
    """Run a seed."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    templates = _templates()
    with _alone():
        directory = Path(tempfile.mkdtemp(prefix="txcoord-sim-", dir=memory))
        for name, content in templates.items():
            (directory / name).write_bytes(content)
        return _run(seed, directory, profile or (STANDSTILLS if seed % 4 == 3 else Profile()))


def _run(seed: int, directory: Path, profile: Profile) -> Outcome:
    world = World(seed, directory, profile)
    witness, loop, started, crash = world.witness, world.loop, world.loop.time(), ""
    with _virtual(seed, loop):
        try:
            world.run()
        except Exception as error:
            crash = repr(error)
    if not crash and (defects := sum(node.counters.defects for node in world.nodes)):
        crash = f"{defects} defects cost a coordinator its epoch"
    found = witness.violations if crash else violations(directory, list(world.disks), witness)
    loop.note(sorted(witness.committed), sorted(witness.rolled_back))
    with _last_words():
        world.close()
        effects._mailboxes.clear()
        mailbox._bursts.clear()
    return Outcome(
        seed, found, crash, loop.trace, world.scene.transactions, world.faults, loop.steps, loop.time() - started, witness.purged,
        world.scene.cleaned,
    )  # fmt: skip


@cache
def _templates() -> dict[str, bytes]:
    """Databases with their schemas, made once per process."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "store.db")
        store = SimStore(SimLoop(0), path, "template", StoreFaults(), None)
        store.make()
        store.crash()
        for name in ("stock", "balance"):
            make_business_database(Path(directory, f"{name}.db"), name)
        made = {file.name: file.read_bytes() for file in Path(directory).glob("*.db")}
    gc.collect()
    gc.freeze()  # what is there now stays, and need not be looked at after each seed
    return made


@contextmanager
def _virtual(seed: int, loop: SimLoop) -> Iterator[None]:
    """Clocks and chance that the program reads by itself are the simulation's, and so is what a thread of it would do."""
    clocks, chance = (time.monotonic, time.time, time.time_ns, time.clock_gettime), random.getstate()
    threads: Any = local_transaction
    reaper, threads.reaper = threads.reaper, Deadlines()
    random.seed(seed)
    time.monotonic = loop.time
    time.time = lambda: epoch_time(loop.time())
    time.time_ns = lambda: int(epoch_time(loop.time()) * 1_000_000_000)
    time.clock_gettime = lambda clock: loop.time()
    try:
        yield
    finally:
        time.monotonic, time.time, time.time_ns, time.clock_gettime = clocks
        random.setstate(chance)
        threads.reaper = reaper


@contextmanager
def _alone() -> Iterator[None]:
    """Nothing is collected meanwhile, or a frozen process would run its `finally` blocks; the program's warnings are expected."""
    loggers = [logging.getLogger(name) for name in ("txcoord_sdk", "txcoord_rm", "txcoord_server", "sqlalchemy.pool")]
    levels, collecting = [logger.level for logger in loggers], gc.isenabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    gc.disable()
    try:
        yield
        with _last_words():
            gc.collect()
    finally:
        if collecting:
            gc.enable()
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextmanager
def _last_words() -> Iterator[None]:
    """What the dead say when they are unwound and collected is heard by nobody."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = hook
