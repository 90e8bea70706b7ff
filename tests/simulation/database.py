"""The services' databases: real SQLite files behind a driver that waits in virtual time, and a database's faults.

To SQLAlchemy it is an asynchronous driver, so the SDK runs as it does over asyncpg or aiosqlite: statements take time, a process
can be killed or stopped between any two of them with its local transaction open, writers wait for each other. A connection may be
lost at any time, and within COMMIT it may be lost before or after the database has committed: then the program is told neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import sqlite3
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Dialect, create_engine, make_url
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.util.concurrency import await_only, in_greenlet
from txcoord_sdk.local_state import LocalState

from tests.simulation.loop import SimLoop

_EPOCH_DAY = 2440587.5
_START = 1_790_000_000.0
_BUSY_PAUSES = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1)
"""Seconds between two looks at a lock, as SQLite's own busy handler has them; the last one goes on."""
_BUSY_SECONDS = 10.0
_COMPILED: dict[Any, Any] = {}
"""SQL that has been compiled, for all engines of this process."""


def virtual_clock(raw: sqlite3.Connection, time: Callable[[], float]) -> None:
    """Have the database's clock be the simulation's."""
    raw.create_function("julianday", 1, lambda _: _EPOCH_DAY + (_START + time()) / 86400)


def epoch_time(time: float) -> float:
    """Seconds since 1970 at a time of the simulation."""
    return _START + time


class Disk:
    """One database and what is wrong with it.

    Args:
        loop: Whose time and chance.
        path: Its file.
    """

    def __init__(self, loop: SimLoop, path: Path) -> None:
        self.loop = loop
        self.path = path
        self.lost = 0.0
        """Share of COMMITs that end with a lost connection: done or not."""


class Access:
    """One process's access to a database.

    Args:
        disk: It.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._open: list[VirtualConnection] = []
        dialect = copy.copy(_dialect())
        pool = AsyncAdaptedQueuePool(self.connect, dialect=dialect)  # type: ignore[arg-type]  # what DB-API calls a connection
        engine = Engine(pool, dialect, make_url(f"sqlite:///{disk.path}"), execution_options={"compiled_cache": _COMPILED})
        self.engine = AsyncEngine(engine)
        """For the service's code."""

    def connect(self) -> VirtualConnection:
        """What the pool calls."""
        raw = sqlite3.connect(self._disk.path, timeout=0, factory=VirtualConnection)
        raw.access = self
        virtual_clock(raw, self._disk.loop.time)
        raw.execute("PRAGMA synchronous = OFF")
        self._open.append(raw)
        return raw

    def lose(self) -> None:
        """All connections are lost; the database rolls back what was open."""
        for raw in self._open:
            raw.lose()
        self._open.clear()

    def wait(self, share: float = 1.0) -> None:
        """A statement takes its time."""
        rng = self._disk.loop.rng
        pause(rng.expovariate(300) if rng.random() < share else 0.0)

    def loses_commit(self) -> bool:
        """Whether the connection is lost within this COMMIT."""
        return self._disk.loop.rng.random() < self._disk.lost

    def has_committed(self) -> bool:
        """Whether a COMMIT whose connection is lost has happened."""
        return self._disk.loop.rng.random() < 0.5


class Deadlines:
    """Ends local transactions at their deadline: in the SDK a thread of the process, here a timer of its loop."""

    def watch(self, state: LocalState, deadline: float) -> None:
        """See `txcoord_sdk.local_state.Reaper.watch`."""
        known = weakref.ref(state)
        asyncio.get_running_loop().call_at(deadline, self._expire, known)

    def _expire(self, known: weakref.ref[LocalState]) -> None:
        state = known()
        if state is not None and (state.lock.locked() or not state.expire()):  # the thread would wait for the end of a COMMIT
            asyncio.get_running_loop().call_later(0.05, self._expire, known)


def pause(seconds: float) -> None:
    """Wait in virtual time, where the driver is called as SQLAlchemy calls asynchronous ones."""
    if in_greenlet():
        await_only(asyncio.sleep(seconds) if seconds else _at_once())


async def _at_once() -> None:
    """SQLAlchemy wants each statement of an asynchronous driver to await something."""


class VirtualConnection(sqlite3.Connection):
    """A connection that takes its time and can be lost."""

    access: Access

    def lose(self) -> None:
        """End it, with what is open; a cursor of a frozen process would keep that alive."""
        with contextlib.suppress(sqlite3.ProgrammingError):  # it is closed already
            self.rollback()
        self.close()

    def cursor(self, factory: Any = None) -> VirtualCursor:  # type: ignore[override]  # always ours
        """See `sqlite3.Connection.cursor`."""
        return super().cursor(VirtualCursor)

    def commit(self) -> None:
        """COMMIT, or lose the connection in it."""
        access = self.access
        if self.in_transaction and access.loses_commit():
            if access.has_committed():
                super().commit()
            self.lose()
            raise sqlite3.ProgrammingError("Cannot operate on a closed database.")
        super().commit()
        access.wait()


class VirtualCursor(sqlite3.Cursor):
    """A cursor whose statements take their time and wait for other writers."""

    connection: VirtualConnection

    def execute(self, sql: str, parameters: Any = ()) -> VirtualCursor:
        """See `sqlite3.Cursor.execute`."""
        if sql.startswith("PRAGMA busy_timeout"):
            return self  # it would stop the one thread that there is
        waited, looks = 0.0, 0
        while True:
            try:
                super().execute(sql, parameters)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_BUSY" or waited >= _BUSY_SECONDS:
                    raise
                seconds = _BUSY_PAUSES[min(looks, len(_BUSY_PAUSES) - 1)]
                waited, looks = waited + seconds, looks + 1
                pause(seconds)
            else:
                self.connection.access.wait(0.3)
                return self


class VirtualDialect(SQLiteDialect_pysqlite):
    """SQLite over an asynchronous driver; all are equal, so that what one engine has compiled the others need not."""

    is_async = True
    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VirtualDialect)

    def __hash__(self) -> int:
        return 1


@cache
def _dialect() -> Dialect:
    engine = create_engine("sqlite://")
    with engine.connect():
        dialect = engine.dialect
    engine.dispose()
    dialect.__class__ = VirtualDialect
    return dialect
