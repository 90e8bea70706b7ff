"""Reports of DONE that wait for their transaction's decision, which says the same and saves them a row.

Nobody acts on a report's acknowledgement: the participant keeps the report until then, and repeats it to whoever leads. So a
report whose transaction is decided soon is acknowledged with the decision and never written; one that waits longer becomes a row
like any other.
"""

from __future__ import annotations

from txcoord_server.domain.answers import Reported, Ticket
from txcoord_server.domain.ledger import Ledger
from txcoord_server.domain.session import Branch, Transaction

HOLD = 100
"""Milliseconds that a report waits at least; at most twice as long."""


class Reports:
    """Reports that have been taken and are neither written nor acknowledged.

    Args:
        ledger: The books.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._young: dict[Branch, Ticket] = {}
        self._old: dict[Branch, Ticket] = {}
        self._turn = 0

    def hold(self, branch: Branch, ticket: Ticket) -> None:
        """Take a report of DONE."""
        self._young[branch] = ticket

    def take(self, branch: Branch) -> Ticket | None:
        """Give back a report, to be written and acknowledged by the caller; None: it is not held."""
        return self._young.pop(branch, None) or self._old.pop(branch, None)

    def decided(self, transaction: Transaction) -> None:
        """Acknowledge the transaction's reports with its decision."""
        if not (self._young or self._old):
            return
        for branch in transaction.branches:
            if (ticket := self.take(branch)) is not None:
                self._ledger.effects.answers.append((ticket, Reported(branch.id)))

    def tick(self, now: int) -> None:
        """Write and acknowledge those that have waited long enough."""
        if now < self._turn:
            return
        self._turn = now + HOLD
        effects = self._ledger.effects
        for branch, ticket in self._old.items():
            effects.branches[branch] = None
            effects.answers.append((ticket, Reported(branch.id)))
        self._old, self._young = self._young, {}
