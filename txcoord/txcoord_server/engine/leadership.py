"""What a leader waits for: its store and the time. Group commits one after another, timers, and retention beside them.

The loops of one epoch end together: when the node is to stop, and when it cannot prove any more that it leads.
"""

from __future__ import annotations

import asyncio
import logging

from txcoord_proto.errors import StoreUnavailableError, TxcoordError

from txcoord_server.domain.effects import StoredOutcome
from txcoord_server.engine.engine import Engine
from txcoord_server.engine.ports import Clock
from txcoord_server.engine.rows import restore
from txcoord_server.engine.storage import GroupWrite, Store

log = logging.getLogger(__name__)


class Leadership:
    """Of one epoch.

    Args:
        engine: Its memory.
        store: Where it writes.
        clock: Time.
    """

    def __init__(self, engine: Engine, store: Store, clock: Clock) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        self._last_commit = clock.monotonic()
        self._writing_since: float | None = None

    async def load(self) -> None:
        """Read what is not finished; only then requests may come."""
        engine = self._engine
        async for rows, branches in self._store.unfinished():
            for transaction in restore(engine.ledger.account, rows, branches, engine.lease.outage):
                engine.transactions.reenter(transaction)
                if transaction.decision is not None:
                    engine.dispatcher.look_for_overdue(transaction)

    async def run(self) -> None:
        """Lead until fenced.

        Raises:
            FencedError: Another node leads.
            UnknownCommitError: Whether the last group was written is not known.
            StoreUnavailableError: It is to stop, and the store takes nothing any more.
            Exception: A defect; what is in memory is not to be trusted.
        """
        engine = self._engine
        for transaction in list(engine.ledger.by_xid.values()):
            if transaction.decision is not None:
                engine.dispatcher.dispatch(transaction)
        tasks = [asyncio.ensure_future(loop()) for loop in (self._commit_loop, self._tick_loop, self._sweep_loop)]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in tasks:
                task.cancel()

    async def _commit_loop(self) -> None:
        engine = self._engine
        while not engine.stopping:
            await engine.wanted.wait()
            engine.wanted.clear()
            while engine.ledger.effects.durable and not engine.stopping:
                await self._commit_group()
        await self._commit_group()  # what had gathered by then; requests that come later are told that it leads no more

    async def _commit_group(self) -> None:
        effects, write = self._engine.next_group()
        started = self._clock.monotonic()
        found = await self._persist(write)
        self._last_commit = self._clock.monotonic()
        self._engine.counters.committed(write, self._last_commit - started)
        self._engine.committed(effects, write, found)

    async def _persist(self, write: GroupWrite) -> dict[str, StoredOutcome]:
        """Write the group; a store that certainly did not take it is asked again until it does."""
        engine, delay = self._engine, 0.05
        while True:
            self._writing_since = self._clock.monotonic()
            try:
                found = await self._store.commit(write)
            except StoreUnavailableError as error:
                self._writing_since = None
                engine.counters.store_failures += 1
                if engine.stopping:
                    raise
                engine.troubled(str(error))
                await asyncio.sleep(delay)
                delay = min(1.0, delay * 2)
            else:
                self._writing_since = None
                engine.relieved()
                return found

    async def _tick_loop(self) -> None:
        engine, config = self._engine, self._engine.config
        heartbeat, slow = config.lease_ttl / 4000, config.lease_ttl / 1000
        while True:
            await asyncio.sleep(config.tick / 1000)
            if self._writing_since is not None and self._clock.monotonic() - self._writing_since >= slow:
                engine.troubled(f"a commit has not returned for {slow:g} s")
            engine.tick()
            if self._clock.monotonic() - self._last_commit >= heartbeat:
                engine.ledger.effects.durable = True
            engine.flush()

    async def _sweep_loop(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            try:
                await self._engine.retention.sweep(self._store, self._engine.now())
            except TxcoordError as error:
                log.warning("retention cannot look into the store, it will try again: %s", error)
