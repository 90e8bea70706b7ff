"""A transaction as it is shown: a frozen copy with its explanation."""

from __future__ import annotations

from dataclasses import dataclass

from txcoord_server.domain.explain import Explanation, NextEvent, explain, next_events
from txcoord_server.domain.session import Branch, Transaction


@dataclass(frozen=True, slots=True)
class BranchView:
    """A branch as it is shown; times are milliseconds since 1970, 0: not yet."""

    id: int
    type: str
    resource: str
    status: str
    lock_keys: tuple[str, ...]
    attempts: int
    executor: str
    error_code: str
    error: str
    registered_at: int
    reported_at: int
    first_command_at: int
    settled_at: int
    next_try_at: int


@dataclass(frozen=True, slots=True)
class TransactionView:
    """A transaction as it is shown; times are milliseconds since 1970, 0: not yet."""

    xid: str
    status: str
    decision: str
    reason: str
    name: str
    service: str
    key: str
    traceparent: str
    begun_at: int
    deadline_at: int
    decided_at: int
    settled_at: int
    version: int
    branches: tuple[BranchView, ...]
    explanation: Explanation
    next_events: tuple[NextEvent, ...]
    overdue: bool
    forced: bool


def view(transaction: Transaction, overdue: bool = False) -> TransactionView:
    """A frozen copy of `transaction` as it is now.

    Args:
        transaction: What is shown.
        overdue: Whether one of its second phases has failed so often that somebody should look.
    """
    t = transaction
    return TransactionView(
        t.xid, t.status, t.decision or "", t.reason or "", t.name, t.service, t.key, t.traceparent, t.begun_at, t.deadline_at,
        t.decided_at, t.settled_at, t.revision, tuple(_branch(b) for b in t.branches), explain(t), tuple(next_events(t)),
        overdue, t.forced,
    )  # fmt: skip


def _branch(b: Branch) -> BranchView:
    return BranchView(
        b.id, b.type, b.resource, b.status, b.lock_keys, b.attempts, b.executor, b.error_code, b.error, b.registered_at,
        b.reported_at, b.first_command_at, b.settled_at, b.next_try_at,
    )  # fmt: skip
