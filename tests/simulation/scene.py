"""What the simulated processes share, and how bad it gets around them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.simulation.loop import SimLoop
from tests.simulation.network import Network
from tests.simulation.witness import Witness


@dataclass(frozen=True, slots=True)
class Profile:
    """How bad it gets, per virtual second or as a share.

    Attributes:
        seconds: How long the faults last.
        workers: Business transactions at once, of each initiator.
        kills, pauses, breaks, outages, jumps, losses: Expected number a second: of processes killed and stopped, of streams
            broken, of times that the store is away, that its clock is set, that a service's database connections are lost.
        outsiders: Expected number a second of rows that somebody writes who knows of no global transactions.
        unknown: Share of group commits, and of the services' commits, whose outcome is not told.
        loss: Share of calls between services that get lost or come twice.
        local_failures: Share of tries that fail by themselves.
    """

    seconds: float = 8.0
    workers: int = 2
    kills: float = 0.4
    pauses: float = 0.3
    breaks: float = 0.7
    outages: float = 0.08
    jumps: float = 0.05
    losses: float = 0.15
    outsiders: float = 0.15
    unknown: float = 0.02
    loss: float = 0.03
    local_failures: float = 0.08


STANDSTILLS = Profile(kills=0.05, pauses=1.0, breaks=1.0, outages=0.02)
"""Leaders that stand still longer than their lease, and clients that wander."""


@dataclass(slots=True)
class Scene:
    """Around all processes.

    Attributes:
        loop: Time and chance.
        network: Between them.
        witness: Judges what they are told.
        profile: How bad it gets.
        bad: Whether it is bad at the moment.
        lines: Numbers of lines in the services' ledgers.
        transactions: Business transactions that were begun.
        cleaned: Fence rows that retention has removed.
    """

    loop: SimLoop
    network: Network
    witness: Witness
    profile: Profile
    bad: bool = True
    lines: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    transactions: int = 0
    cleaned: int = 0
