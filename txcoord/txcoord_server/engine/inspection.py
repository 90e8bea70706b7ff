"""What a person sees of the coordinator: one transaction, lists of them, locks, and the whole at a glance.

What is not finished is read from memory, where it is complete with its explanation; what is finished comes from the store.
Answers about transactions and locks are fenced, since a person acts on them; the overview is not, so that it also answers while
the store takes no commits. Long looks through memory make way for requests in between.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from txcoord_proto.errors import UnknownXidError
from txcoord_proto.status import GlobalStatus
from txcoord_proto.xid import Xid

from txcoord_server.domain.absent import History
from txcoord_server.domain.ledger import Ledger
from txcoord_server.domain.limits import MAX_KEY, check_text
from txcoord_server.domain.locks import Entry
from txcoord_server.domain.session import Account, Transaction
from txcoord_server.domain.transitions import FINAL
from txcoord_server.domain.view import TransactionView, view
from txcoord_server.engine.dispatcher import Dispatcher
from txcoord_server.engine.rows import restore
from txcoord_server.engine.storage import ListFilter, Row, Store

_PIECE = 10_000
"""Transactions that are looked at in one go: a few milliseconds."""
_UNFINISHED = tuple(status for status in GlobalStatus if status not in FINAL)


@dataclass(frozen=True, slots=True)
class ActView:
    """An operator's act, as the audit keeps it."""

    version: int
    act: str
    at: int
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class ServedView:
    """A resource: who serves it, and what waits for it."""

    resource: str
    sessions: int
    waiting: int
    unavailable: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole at a glance."""

    transactions: dict[str, int]
    resources: tuple[ServedView, ...]
    oldest_begun_at: int


class Inspection:
    """Answers a person's questions.

    Args:
        ledger: What is not finished.
        dispatcher: Its second phases.
        history: Epochs that the store knows.
        store: For what is finished.
        fence: Returns after a group commit that began after its call.
    """

    def __init__(
        self, ledger: Ledger, dispatcher: Dispatcher, history: History, store: Store, fence: Callable[[], Awaitable[object]]
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._history = history
        self._store = store
        self._fence = fence

    # ------------------------------------------------------------ one transaction

    async def status(self, xid: str, key: str = "") -> TransactionView:
        """A transaction with its explanation, by XID, or the newest of a business key.

        Raises:
            UnknownXidError, ExpiredXidError, UnknownEpochError, MalformedXidError: There is none.
            InvalidArgumentError: The key is not one.
        """
        if key:
            check_text("key", key, MAX_KEY)
            await self._fence()
            newest, _ = await self._store.listing(ListFilter(statuses=tuple(GlobalStatus), key=key, limit=1))
            if not newest:
                raise UnknownXidError(
                    f"no transaction with the business key {key!r} is kept; a new one is found from its first branch on"
                )
            xid = newest[0][0]
        Xid.parse(xid)
        transaction = self._ledger.by_xid.get(xid)
        if transaction is not None:
            seen = self.view(transaction)
            await self._fence()
            return seen
        await self._fence()
        found = await self._store.find(xid)
        if found is None:
            raise self._history.why_absent(xid)
        return self._stored([found[0]], found[1])[0]

    async def audit(self, xid: str) -> list[ActView]:
        """What operators did to a transaction, the oldest act first."""
        return [ActView(*row[1:]) for row in await self._store.audit(xid)]

    def view(self, transaction: Transaction) -> TransactionView:
        """An unfinished transaction as it is shown."""
        overdue = self._ledger.overdue
        return view(transaction, bool(overdue) and not overdue.isdisjoint(transaction.branches))

    def _stored(self, rows: Sequence[Row], branches: Sequence[Row]) -> list[TransactionView]:
        return [view(transaction) for transaction in restore(Account, rows, branches)]

    # ------------------------------------------------------------ lists

    async def listing(self, wanted: ListFilter, overdue: bool = False) -> list[TransactionView]:
        """Transactions, newest first.

        Args:
            wanted: Which; with a key and no statuses, finished ones too.
            overdue: Only those with an overdue second phase.
        """
        statuses = wanted.statuses or (tuple(GlobalStatus) if wanted.key else _UNFINISHED)
        found: dict[str, TransactionView] = {}
        async for transaction in self._unfinished(wanted.after, overdue):
            if transaction.status in statuses and _matches(transaction, wanted):
                found[transaction.xid] = self.view(transaction)
                if len(found) == wanted.limit:
                    break
        await self._fence()
        finished = tuple(status for status in statuses if status in FINAL)
        if finished and not overdue:
            stored = self._stored(*await self._store.listing(replace(wanted, statuses=finished)))
            found = {v.xid: v for v in stored} | found
        return [found[xid] for xid in sorted(found, reverse=True)[: wanted.limit]]

    async def _unfinished(self, before: str = "", overdue: bool = False) -> AsyncIterator[Transaction]:
        """What is in memory, newest first: XIDs sort in the order in which they were minted, and so does the ledger."""
        if overdue:
            known = sorted({branch.transaction for branch in self._ledger.overdue}, key=lambda t: t.xid)
        else:
            known = list(self._ledger.by_xid.values())
        end = bisect_left(known, before, key=lambda t: t.xid) if before else len(known)
        for looked_at, place in enumerate(range(end - 1, -1, -1), start=1):
            yield known[place]
            if looked_at % _PIECE == 0:
                await asyncio.sleep(0)

    async def locks(self, resource: str, xid: str, limit: int) -> list[Entry]:
        """Global locks that are held: of a resource, of a transaction, or all; those that somebody waits for first."""
        if xid:
            transaction = self._ledger.by_xid.get(xid)
            entries = self._ledger.locks.entries_of(transaction) if transaction is not None else iter(())
            found = list(islice((e for e in entries if not resource or e.resource == resource), limit))
        else:
            found = list(islice(self._ledger.locks.entries(resource), limit))
        await self._fence()
        return found

    # ------------------------------------------------------------ the whole

    def overview(self) -> Overview:
        """Counts of what is not finished, and who serves which resource."""
        counts: dict[str, int] = {status.value: self._ledger.unfinished[status] for status in _UNFINISHED}
        oldest = next(iter(self._ledger.by_xid.values()), None)
        resources = [
            ServedView(r.name, len(r.connections), r.branches_waiting, r.unavailable)
            for _, r in sorted(self._dispatcher.resources.items())
        ]
        return Overview(counts, tuple(r for r in resources if r.sessions or r.waiting), oldest.begun_at if oldest else 0)


def _matches(transaction: Transaction, wanted: ListFilter) -> bool:
    return (not wanted.service or transaction.service == wanted.service) and (not wanted.key or transaction.key == wanted.key)
