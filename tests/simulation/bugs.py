"""Planted bugs: each takes one rule away from the real code, and the simulation has to go red.

A bug that no seed finds would mean that the simulation does not look at that rule. Each names the invariants of which at least
one must break: a simulated program that only crashes has not been caught.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from txcoord_proto.status import Decision, GlobalStatus, Reason, Settlement
from txcoord_rm.at import participant
from txcoord_rm.at.branch import LocalBranch
from txcoord_rm.undo import log
from txcoord_rm.undo.restorer import Restorer
from txcoord_sdk.fence import fence, retention
from txcoord_sdk.local_transaction import start_limit
from txcoord_server.domain.answers import OK, LockState, Ticket
from txcoord_server.domain.locks import LockRequest, LockTable
from txcoord_server.domain.session import Transaction
from txcoord_server.domain.settlement import Settler
from txcoord_server.domain.transactions import Transactions
from txcoord_server.engine.leadership import Leadership
from txcoord_server.store import sqlite as sqlite_module

from tests.simulation.run import Outcome, simulate

WITHIN = 500
"""Seeds in which each bug has to be found."""


@contextmanager
def _patched(owner: Any, name: str, value: object) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def no_fence() -> Iterator[None]:
    """Group commits of an old epoch are taken."""
    loose = sqlite_module._FENCE.replace("AND epoch = ? AND commit_seq = ?", "AND (epoch = ? OR 1) AND (commit_seq = ? OR 1)")
    with _patched(sqlite_module, "_FENCE", loose):
        yield


@contextmanager
def no_compare_and_set() -> Iterator[None]:
    """A decision overwrites whatever the row says.

    That shows only where the fence has failed: the compare-and-set is the second line behind it. With the fence alone away, no
    decision in the store is ever overwritten; with both away, it is.
    """
    update = sqlite_module._update

    def loose(table: str, keys: tuple[str, ...], columns: tuple[str, ...], rows: int) -> str:
        return update(table, keys, columns, rows).replace("AND t.status = v.column2", "")

    def unchecked(raw: Any, table: str, keys: tuple[str, ...], columns: tuple[str, ...], rows: list[Any]) -> None:
        for row in rows:
            raw.execute(loose(table, keys, columns, 1), row)

    with no_fence(), _patched(sqlite_module.SqliteDialect, "_update", staticmethod(unchecked)):
        yield


@contextmanager
def reload_after_publishing() -> Iterator[None]:
    """A node serves under its new epoch before it has read what is there."""
    load = Leadership.load

    async def late(leadership: Leadership) -> None:
        async def load_later() -> None:
            await asyncio.sleep(0.5)
            await load(leadership)
            for transaction in list(leadership._engine.ledger.by_xid.values()):
                if transaction.decision is not None:
                    leadership._engine.dispatcher.dispatch(transaction)

        leadership.loading = asyncio.ensure_future(load_later())  # type: ignore[attr-defined]

    with _patched(Leadership, "load", late):
        yield


@contextmanager
def no_guard() -> Iterator[None]:
    """A cancel that finds nothing leaves nothing: the try may come after it."""

    def cancelled(connection: Connection, xid: str, branch_id: int, resource: str) -> bool:
        return fence._change(connection, xid, branch_id, fence.FenceState.CANCELLED)

    with _patched(fence, "cancelled", cancelled):
        yield


@contextmanager
def lock_query_from_memory() -> Iterator[None]:
    """A lock query is answered at once, not after a group commit: a leader that stood still answers from the past."""

    def query_locks(self: Transactions, ticket: Ticket, resource: str, keys: tuple[str, ...], xid: str) -> None:
        holder = self.ledger.locks.free_for(self.ledger.by_xid.get(xid), resource, keys)
        ticket[0].answer(ticket[1], LockState(holder.xid if holder is not None else ""))

    with _patched(Transactions, "query_locks", query_locks):
        yield


@contextmanager
def decision_without_reports() -> Iterator[None]:
    """Commit is decided although branches have not reported their phase one."""
    commit = Transactions.commit

    def hasty(self: Transactions, ticket: Ticket, service: str, xid: str, wait: Any, now: int) -> None:
        transaction = self.ledger.by_xid.get(xid)
        if transaction is not None and transaction.status is GlobalStatus.ACTIVE and transaction.unreported:
            self.decide(transaction, Decision.COMMIT, Reason.REQUESTED, now)
        commit(self, ticket, service, xid, wait, now)

    with _patched(Transactions, "commit", hasty):
        yield


@contextmanager
def fence_cleaned_early() -> Iterator[None]:
    """Fence rows go by age alone, although the coordinator has not said that their transactions are settled."""
    with _patched(retention, "_GOES", frozenset(Settlement)):
        yield


@contextmanager
def told_before_it_is_durable() -> Iterator[None]:
    """When the time to wait for settlement is over, the decision is told although its group commit may still be under way."""

    def tick(self: Settler, now: int) -> None:
        for transaction in self._waits.due(now):
            for waiter in transaction.waiters or ():
                waiter.ticket[0].answer(waiter.ticket[1], OK)
            transaction.waiters = None

    with _patched(Settler, "tick", tick):
        yield


@contextmanager
def restored_in_the_wrong_order() -> Iterator[None]:
    """A rollback undoes what was written first, and tries nothing else where that does not fit."""
    changes_of = log.changes_of
    with (
        _patched(log, "changes_of", lambda *given: changes_of(*given)[::-1]),
        _patched(
            Restorer,
            "_restored",
            lambda self, every: [d for item in every if not self._undo(item) for d in self._differences(item)],
        ),
    ):
        yield


@contextmanager
def restored_without_a_look() -> Iterator[None]:
    """A rollback overwrites whatever is there."""
    with _patched(Restorer, "restore", lambda self, items: self.force(items)):
        yield


@contextmanager
def acknowledged_and_not_forgotten() -> Iterator[None]:
    """Commits are acknowledged without the deletion of their undo records."""
    with _patched(participant, "forget", lambda connection, branches: None):
        yield


@contextmanager
def locks_given_back_by_the_decision() -> Iterator[None]:
    """The decision to roll back gives back locks, before anything is put back."""
    with _patched(Settler, "needs_locks", staticmethod(lambda transaction, resource: transaction.decision is None)):
        yield


@contextmanager
def locks_never_given_back() -> Iterator[None]:
    """A branch that failed keeps its locks beyond the end of its transaction."""
    release = LockTable.release

    def forgetful(self: LockTable, transaction: Transaction, resource: str, keys: Iterable[str]) -> list[LockRequest]:
        return release(self, transaction, resource, [] if transaction.decision is Decision.ROLLBACK else keys)

    with _patched(LockTable, "release", forgetful):
        yield


@contextmanager
def ended_in_the_middle_of_a_statement() -> Iterator[None]:
    """At the deadline a local transaction is rolled back while its first statement runs, whose rest commits by itself."""
    with _patched(LocalBranch, "_limit", lambda self: start_limit(self.connection, self.transaction.deadline)):
        yield


@dataclass(frozen=True, slots=True)
class Bug:
    """A planted bug.

    Args:
        plant: A block with it.
        breaks: Numbers of the invariants of which at least one must break; see `check`.
    """

    plant: Callable[[], AbstractContextManager[None]]
    breaks: tuple[str, ...]


BUGS = {
    "no fence": Bug(no_fence, ("TC-2",)),
    "no compare-and-set": Bug(no_compare_and_set, ("TC-1: the store said",)),
    "reload after publishing": Bug(reload_after_publishing, ("TC-1", "TC-3", "A-1", "AT-1", "AT")),
    "no guard": Bug(no_guard, ("T-3", "A-1")),
    "lock query answered from memory": Bug(lock_query_from_memory, ("AT-1",)),
    "decision without reports": Bug(decision_without_reports, ("TC-3",)),
    "fence cleaned early": Bug(fence_cleaned_early, ("TC-8", "T-3")),
    "told before it is durable": Bug(told_before_it_is_durable, ("TC-1",)),
    "restored in the wrong order": Bug(restored_in_the_wrong_order, ("AT-2", "TC-8")),
    "restored without a look": Bug(restored_without_a_look, ("AT-2",)),
    "acknowledged and not forgotten": Bug(acknowledged_and_not_forgotten, ("AT-2",)),
    "locks given back by the decision": Bug(locks_given_back_by_the_decision, ("AT-1", "AT-2", "TC-8")),
    "locks never given back": Bug(locks_never_given_back, ("AT-7",)),
    "ended in the middle of a statement": Bug(ended_in_the_middle_of_a_statement, ("AT-2",)),
}


def hunt(name: str) -> tuple[list[Outcome], bool]:
    """Run seeds with a planted bug until an invariant that it breaks is violated; the outcomes, and whether one was."""
    outcomes: list[Outcome] = []
    with BUGS[name].plant():
        for seed in range(WITHIN):
            outcomes.append(simulate(seed))
            if any(violation.startswith(BUGS[name].breaks) for violation in outcomes[-1].violations):
                return outcomes, True
    return outcomes, False
