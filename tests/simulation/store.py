"""The real SQLite store on virtual time, with a database's faults: slow, gone, and a commit whose outcome is not told."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.pool import NullPool
from txcoord_proto.errors import StoreUnavailableError
from txcoord_server.domain.effects import StoredOutcome
from txcoord_server.engine.storage import GroupState, GroupWrite, Lease, UnknownCommitError
from txcoord_server.store.sql_store import SqlStore
from txcoord_server.store.sqlite import SqliteDialect

from tests.simulation.loop import SimLoop

_EPOCH_DAY = 2440587.5
_START = 1_790_000_000.0


@dataclass(slots=True)
class StoreFaults:
    """What is wrong with the database at the moment.

    Attributes:
        down: It cannot be reached.
        unknown: Share of commits that end with a lost connection: done or not.
        slow: Longest time of a commit, seconds.
    """

    down: bool = False
    unknown: float = 0.0
    slow: float = 0.01


def virtual_clock(loop: SimLoop, raw: sqlite3.Connection) -> None:
    """Have the database's clock be the simulation's."""
    raw.create_function("julianday", 1, lambda _: _EPOCH_DAY + (_START + loop.time()) / 86400)


class SimDialect(SqliteDialect):
    """SQLite with the simulation's clock, without waiting for the disk."""

    def __init__(self, loop: SimLoop, path: Path) -> None:
        super().__init__("default", str(path))
        self._loop = loop

    def connect(self, engine: Any) -> sqlite3.Connection:
        raw = super().connect(engine)
        raw.execute("PRAGMA synchronous = OFF")
        raw.execute("PRAGMA busy_timeout = 0")
        virtual_clock(self._loop, raw)
        return raw


class SimStore(SqlStore):
    """One node's access to the store."""

    def __init__(self, loop: SimLoop, path: Path, node: str, faults: StoreFaults) -> None:
        engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args={"timeout": 0})
        event.listen(engine, "connect", lambda raw, record: virtual_clock(loop, raw))
        super().__init__(engine, SimDialect(loop, path), "default", node, node, None, None)
        self._loop = loop
        self._faults = faults

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
        await asyncio.sleep(self._loop.rng.uniform(0, self._faults.slow))
        return lease

    async def commit(self, write: GroupWrite) -> dict[str, StoredOutcome]:
        await self._reach()
        rng = self._loop.rng
        if rng.random() >= self._faults.unknown:
            found = await super().commit(write)
            await asyncio.sleep(rng.uniform(0, self._faults.slow))
            return found
        if rng.random() < 0.5:
            await super().commit(write)
        self.crash()
        raise UnknownCommitError("the connection was lost in a commit (simulated)")

    def crash(self) -> None:
        """What the operating system does when the process dies: close the connection and give back the lock."""
        self._disconnect()
