"""Seams to the world outside: time and chance. The simulation replaces them; nothing else in the engine may reach around them."""

from __future__ import annotations

import random
import time
from typing import Protocol


class Clock(Protocol):
    """A clock that never goes back."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""


class Rng(Protocol):
    """Chance."""

    def random(self) -> float:
        """A number in [0, 1)."""


class SystemClock:
    """The machine's clock, counted through suspension where the system offers that."""

    def __init__(self) -> None:
        self._id = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def monotonic(self) -> float:
        """Seconds since boot."""
        return time.clock_gettime(self._id)


class SystemRng:
    """Chance from the operating system's seed."""

    def __init__(self) -> None:
        self.random = random.Random().random  # noqa: S311 - jitter, not a secret
