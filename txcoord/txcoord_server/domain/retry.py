"""When a second phase that failed is tried again.

Capped exponential back-off with full-range jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015): pure functions of the
attempt and of a random number, so that a test can walk every case. Nothing here ever gives up; past the alarm threshold the
transaction is shown as overdue.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Back-off of second phases.

    Attributes:
        first: Delay after the first failure, milliseconds.
        cap: Longest delay, milliseconds.
        factor: Growth per attempt.
        jitter: Part of the delay that is random, 0 to 1.
        alarm: From so many attempts on a branch counts as overdue.
    """

    first: int = 200
    cap: int = 60_000
    factor: float = 2.0
    jitter: float = 0.5
    alarm: int = 10

    def delay(self, attempts: int, random: float) -> int:
        """Milliseconds until the next try.

        Args:
            attempts: Failed tries so far, from 1.
            random: A number in [0, 1).

        Returns:
            At least 1, at most `cap`.
        """
        exponent = min(attempts - 1, 60)
        full = min(self.cap, self.first * self.factor**exponent)
        return max(1, int(full * (1 - self.jitter * random)))
