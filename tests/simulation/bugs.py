"""Planted bugs: each removes one rule of the protocol, and the simulation has to go red.

What they patch is the real code; a bug that no seed finds would mean that the simulation does not look at that rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import Connection, text
from txcoord_proto.status import Decision, GlobalStatus, Reason
from txcoord_sdk.fence import fence
from txcoord_server.domain.answers import OK, Ticket
from txcoord_server.domain.settlement import Settler
from txcoord_server.domain.transactions import Transactions
from txcoord_server.engine.engine import Engine
from txcoord_server.store import sqlite as sqlite_module

from tests.simulation.world import ParticipantService


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
    """Group commits of an old epoch are taken, and a decision overwrites whatever the row says."""
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
    load = Engine.load

    async def late(engine: Engine) -> None:
        import asyncio

        async def load_later() -> None:
            await asyncio.sleep(0.5)
            await load(engine)
            for transaction in list(engine.ledger.by_xid.values()):
                if transaction.decision is not None:
                    engine.dispatcher.dispatch(transaction)

        engine.loading = asyncio.ensure_future(load_later())  # type: ignore[attr-defined]

    with _patched(Engine, "load", late):
        yield


@contextmanager
def no_guard() -> Iterator[None]:
    """A cancel that finds nothing leaves nothing: the try may come after it."""

    def cancelled(connection: Connection, xid: str, branch_id: int, resource: str) -> bool:
        return fence._change(connection, xid, branch_id, fence.FenceState.CANCELLED)

    with _patched(fence, "cancelled", cancelled):
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
    """Fence rows go although the coordinator has not said that their transactions are settled."""
    settle = ParticipantService._settle

    def forgetful(self: ParticipantService, command: Any, branch: int) -> None:
        settle(self, command, branch)
        with self.engine.begin() as connection:
            connection.execute(text("DELETE FROM txcoord_fence WHERE state <> 'TRIED'"))

    with _patched(ParticipantService, "_settle", forgetful):
        yield


BUGS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "no fence": no_fence,
    "no compare-and-set": no_compare_and_set,
    "reload after publishing": reload_after_publishing,
    "no guard": no_guard,
    "told before it is durable": told_before_it_is_durable,
    "decision without reports": decision_without_reports,
    "fence cleaned early": fence_cleaned_early,
}
