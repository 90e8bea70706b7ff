"""What the steps of one group commit leave behind: rows to write, and answers that may be given once the rows are durable.

A row stands in a set, not as a copy: it is built from the object's state when the group is handed to the store, so each row is
written at most once per group, however often it changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from txcoord_proto.status import Settlement

from txcoord_server.domain.answers import Answer, Ticket
from txcoord_server.domain.session import Branch, Transaction


@dataclass(frozen=True, slots=True)
class StoredOutcome:
    """What the store keeps of a transaction that is no longer in memory."""

    xid: str
    status: str
    reason: str
    service: str


@dataclass(slots=True)
class Effects:
    """Effects of all requests of one group commit.

    Attributes:
        transactions: Whose rows are new or changed, in order of their first change.
        branches: Likewise.
        answers: Who is told what after the commit, in order.
        decided: Transactions decided in this group: their second phases start after the commit.
        operated: Transactions on whose second phases an operator acted: some are due now, or need not be done any more.
        absent: Questions about XIDs that are not in memory; the store is asked within the commit.
        asked: How many XIDs they are about.
        audit: An operator's acts: xid, version, act, at, actor, reason.
        durable: Whether somebody waits for this group; without it the rows may ride with the next one.
    """

    transactions: dict[Transaction, None] = field(default_factory=dict)
    branches: dict[Branch, None] = field(default_factory=dict)
    answers: list[tuple[Ticket, Answer]] = field(default_factory=list)
    decided: list[Transaction] = field(default_factory=list)
    operated: list[Transaction] = field(default_factory=list)
    absent: list[AbsentQuestion] = field(default_factory=list)
    asked: int = 0
    audit: list[tuple[object, ...]] = field(default_factory=list)
    durable: bool = False

    def __bool__(self) -> bool:
        return self.durable or bool(self.transactions) or bool(self.branches)


@dataclass(frozen=True, slots=True)
class AbsentQuestion:
    """A request about XIDs that are not in memory: the store answers it.

    Args:
        ticket: Who asks.
        kind: Name of the request: `register`, `commit`, `rollback`, `order` or `settled`.
        xids: The XIDs in question.
        known: For `settled`: what memory already knows, None where the store decides.
        service: Who must have begun it; empty: anybody.
    """

    ticket: Ticket
    kind: str
    xids: tuple[str, ...]
    known: tuple[Settlement | None, ...] = ()
    service: str = ""
