"""The real SQLite store on virtual time, with a database's faults: slow, gone, and a commit whose outcome is not told."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Dialect, Engine, create_engine, make_url
from sqlalchemy.pool import StaticPool
from txcoord_proto.errors import StoreUnavailableError
from txcoord_server.domain.effects import StoredOutcome
from txcoord_server.engine.storage import GroupState, GroupWrite, Lease, UnknownCommitError
from txcoord_server.store.sql_store import SqlStore
from txcoord_server.store.sqlite import SqliteDialect

from tests.simulation.database import virtual_clock
from tests.simulation.loop import SimLoop
from tests.simulation.witness import Witness

_COMPILED: dict[Any, Any] = {}


@dataclass(slots=True)
class StoreFaults:
    """What is wrong with the database at the moment.

    Attributes:
        down: It cannot be reached.
        unknown: Share of commits that end with a lost connection: done or not.
        slow: Longest time of a commit, seconds.
        ahead: Seconds that its clock has been set forward, or back.
    """

    down: bool = False
    unknown: float = 0.0
    slow: float = 0.01
    ahead: float = 0.0


class SimDialect(SqliteDialect):
    """SQLite with the simulation's clock, without waiting for the disk."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        super().__init__("default", str(path))
        self._clock = clock

    def connect(self, engine: Any) -> sqlite3.Connection:
        raw = super().connect(engine)
        raw.execute("PRAGMA synchronous = OFF")
        raw.execute("PRAGMA busy_timeout = 0")
        virtual_clock(raw, self._clock)
        return raw


class SimStore(SqlStore):
    """One node's access to the store.

    Args:
        loop: Whose time and chance.
        path: Its file.
        node: Name of the node.
        faults: What is wrong at the moment.
        witness: Sees what is durable.
    """

    def __init__(self, loop: SimLoop, path: Path, node: str, faults: StoreFaults, witness: Witness | None) -> None:
        def clock() -> float:
            return loop.time() + faults.ahead

        def connect() -> sqlite3.Connection:
            raw = sqlite3.connect(path, timeout=0)
            raw.execute("PRAGMA synchronous = OFF")
            virtual_clock(raw, clock)
            return raw

        dialect = _dialect()
        pool = StaticPool(connect, dialect=dialect)  # type: ignore[arg-type]  # what DB-API calls a connection
        engine = Engine(pool, dialect, make_url(f"sqlite:///{path}"), execution_options={"compiled_cache": _COMPILED})
        super().__init__(engine, SimDialect(path, clock), "default", node, node, None, None)
        self._loop = loop
        self._faults = faults
        self._witness = witness

    def _start(self) -> None:
        """The schema is there: each simulation begins with a copy of one that was made once."""

    def make(self) -> None:
        """Make the schema."""
        super()._start()

    async def _reach(self) -> None:
        await asyncio.sleep(self._loop.rng.uniform(0, self._faults.slow))
        if self._faults.down:
            raise StoreUnavailableError("the store is down (simulated)")

    async def look(self) -> GroupState:
        await self._reach()
        return await super().look()

    async def take_over(self, seen_epoch: int, min_age: int, how: str) -> Lease | None:
        await self._reach()
        lease = await super().take_over(seen_epoch, min_age, how)
        if lease is not None and self._witness is not None:
            self._witness.taken_over(lease.epoch)
        await asyncio.sleep(self._loop.rng.uniform(0, self._faults.slow))
        return lease

    async def commit(self, write: GroupWrite) -> dict[str, StoredOutcome]:
        await self._reach()
        rng = self._loop.rng
        unknown = rng.random() < self._faults.unknown
        if not unknown or rng.random() < 0.5:
            found = await super().commit(write)
            if self._witness is not None:
                self._witness.committed_group(write)
            if not unknown:
                await asyncio.sleep(rng.uniform(0, self._faults.slow))
                return found
        await self._writer.disconnect()
        raise UnknownCommitError("the connection was lost in a commit (simulated)")

    def crash(self) -> None:
        """What the operating system does when the process dies: close the connections and give back the lock."""
        with contextlib.suppress(StopIteration):
            self._writer.disconnect().send(None)  # nothing waits in it
        self._engine.dispose()


@cache
def _dialect() -> Dialect:
    """One for all engines of this process, so that what one has compiled the others need not."""
    engine = create_engine("sqlite://")
    with engine.connect():
        dialect = engine.dialect
    engine.dispose()
    return dialect
