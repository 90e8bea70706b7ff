"""What a machine was like while something was measured on it, so that two tables can be compared at all."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from txcoord_server.store.filesystem import kind_of

_SYNCS = 20
_LOOPS = 5
_COMPUTE = "print(flush=True)\nfor _ in range(10**8): pass"
"""Seconds of computing, far more than is measured beside it, and an end, should nobody be left to kill it."""
_MOUNTS = Path("/proc/self/mountinfo")
_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fixed loop, one write with fsync, and the CPU that others took.

    Args:
        loop_ms: Milliseconds of a loop of a million steps.
        loop_beside_ms: The same while another process computes, as the load does: more where two CPUs are one core's threads.
        fsync_ms: Milliseconds of writing 4 KiB and waiting until they are durable, the median of some.
        filesystem: On which that was; empty where the system does not tell.
        steal_s: Seconds since boot in which the hypervisor gave this machine's CPU to others.
        cores: CPUs of this machine.
    """

    loop_ms: float
    loop_beside_ms: float
    fsync_ms: float
    filesystem: str
    steal_s: float
    cores: int

    def __str__(self) -> str:
        where = f" on {self.filesystem}" if self.filesystem else ""
        return (
            f"loop {self.loop_ms:.0f} ms, {self.loop_beside_ms:.0f} beside another, write + fsync {self.fsync_ms:.2f} ms{where}, "
            f"steal {self.steal_s:.1f} s since boot, {self.cores} cores"
        )


def calibrate(directory: str | None = None) -> Calibration:
    """Measure this machine; takes half a second.

    Args:
        directory: Where to write; None: where temporary files are.
    """
    loop = _loop()
    with subprocess.Popen([sys.executable, "-S", "-c", _COMPUTE], stdout=subprocess.PIPE) as other:  # noqa: S603
        assert other.stdout is not None
        other.stdout.readline()
        beside = _loop()
        other.kill()
    syncs = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(_SYNCS):
            started = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            syncs.append(time.perf_counter() - started)
        filesystem = kind_of(os.path.realpath(file.name), _MOUNTS.read_text()) if _MOUNTS.exists() else ""
    steal = int(_STAT.read_text().split("\n", 1)[0].split()[8]) / os.sysconf("SC_CLK_TCK") if _STAT.exists() else 0.0
    return Calibration(loop * 1000, beside * 1000, statistics.median(syncs) * 1000, filesystem, steal, os.cpu_count() or 0)


def _loop() -> float:
    """Seconds that a fixed loop takes, the median of some."""
    times = []
    for _ in range(_LOOPS):
        started = time.perf_counter()
        total = 0
        for i in range(1_000_000):
            total += i & 7
        times.append(time.perf_counter() - started)
    return statistics.median(times)
