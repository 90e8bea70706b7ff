"""A measured figure with its floor and goal."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Args:
        name: What was measured, with its unit.
        values: One a run; none: it could not be measured, which misses every floor.
        floor: What must be reached; None: it is only printed.
        goal: What is wanted.
        more_is_better: Whether larger values are better.
    """

    name: str
    values: tuple[float, ...]
    floor: float | None = None
    goal: float | None = None
    more_is_better: bool = True

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.values)

    def _met(self, bound: float | None) -> bool:
        return bound is None or (bool(self.values) and (self.median >= bound if self.more_is_better else self.median <= bound))

    @property
    def floor_met(self) -> bool:
        """Whether the median is not worse than the floor."""
        return self._met(self.floor)

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.floor is None:
            return "-"
        if not self.floor_met:
            return "NO"
        return "goal" if self._met(self.goal) else "floor"

    def line(self) -> str:
        """For the table."""
        bounds = [_number(b) if b is not None else "" for b in (self.floor, self.goal)]
        numbers = [_number(v) for v in (self.median, min(self.values), max(self.values))] if self.values else ["none"] * 3
        return f"{self.name:58} {numbers[0]:>10} {numbers[1]:>10} {numbers[2]:>10} {bounds[0]:>9} {bounds[1]:>9}  {self.verdict}"

    def as_dict(self) -> dict[str, object]:
        """For build/bench.json."""
        return {
            "name": self.name, "median": self.median if self.values else None, "values": list(self.values),
            "floor": self.floor, "goal": self.goal, "met": self.verdict,
        }  # fmt: skip


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
