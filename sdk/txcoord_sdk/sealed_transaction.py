"""A local transaction that the SDK opens and ends, and in which user code works without being able to end it.

A try without the caller's session, confirm and cancel run in one. Would user code commit it half-way, its fence row and its
effects would no longer stand or fall together: so its COMMIT is refused, and after its ROLLBACK ours is.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from txcoord_proto.errors import ConfigurationError

from txcoord_sdk.local_transaction import enlist

T = TypeVar("T")

_ENDED = (
    "the function ended the local transaction that txcoord gave it: leave commit and rollback to txcoord, raise an exception "
    "to roll back, or open a session of your own for what must stay"
)


class _Seal:
    """Enlisted first, so that it is asked first."""

    def __init__(self) -> None:
        self.is_open = False
        self.rolled_back_early = False

    def before_commit(self, in_doubt: bool) -> None:
        """See `Enlistment.before_commit`."""
        if not self.is_open:
            raise ConfigurationError(_ENDED)

    def committed(self) -> None:
        """See `Enlistment.committed`."""

    def rolled_back(self) -> None:
        """See `Enlistment.rolled_back`."""
        self.rolled_back_early = True

    def unknown(self, error: BaseException) -> None:
        """See `Enlistment.unknown`."""

    def open(self) -> None:
        if self.rolled_back_early:
            raise ConfigurationError(_ENDED)
        self.is_open = True


def _begin(connection: Connection, seal: _Seal, work: Callable[[Connection], T]) -> T:
    connection.begin()
    enlist(connection, seal)
    return work(connection)


class SealedTransaction:
    """Of a synchronous engine.

    Args:
        engine: Where it takes its connection.
        gate: Limits how many there are at a time; None: the engine's pool does.
    """

    def __init__(self, engine: Engine, gate: threading.Semaphore | None = None) -> None:
        self._engine = engine
        self._gate = gate
        self._inside = False
        self._seal = _Seal()
        self._connection: Connection | None = None

    def start(self, work: Callable[[Connection], T]) -> T:
        """Take a connection, begin and run `work`; `close` gives it back, also where this fails."""
        if self._gate is not None:
            self._gate.acquire()
            self._inside = True
        self._connection = self._engine.connect()
        return _begin(self._connection, self._seal, work)

    @property
    def is_lost(self) -> bool:
        """Whether its connection is lost."""
        return self._connection is not None and self._connection.invalidated

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in it."""
        assert self._connection is not None
        return work(self._connection)

    def commit(self) -> None:
        """Commit it.

        Raises:
            ConfigurationError: User code has rolled it back.
        """
        self._seal.open()
        self.run(Connection.commit)

    def close(self) -> None:
        """Roll back what has not been committed."""
        try:
            if self._connection is not None:
                self._connection.close()
        finally:
            if self._gate is not None and self._inside:
                self._inside = False
                self._gate.release()


class AsyncSealedTransaction:
    """Of an asynchronous engine.

    Args:
        engine: Where it takes its connection.
        gate: Limits how many there are at a time; None: the engine's pool does.
    """

    def __init__(self, engine: AsyncEngine, gate: asyncio.Semaphore | None = None) -> None:
        self._engine = engine
        self._gate = gate
        self._inside = False
        self._seal = _Seal()
        self.connection: AsyncConnection | None = None
        """For user code that is asynchronous."""

    async def start(self, work: Callable[[Connection], T]) -> T:
        """Take a connection, begin and run synchronous `work`; `close` gives it back, also where this fails."""
        if self._gate is not None:
            await self._gate.acquire()
            self._inside = True
        self.connection = await self._engine.connect()
        return await self.connection.run_sync(_begin, self._seal, work)

    @property
    def is_lost(self) -> bool:
        """Whether its connection is lost."""
        return self.connection is not None and self.connection.invalidated

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run synchronous `work` in it."""
        assert self.connection is not None
        return await self.connection.run_sync(work)

    async def commit(self) -> None:
        """Commit it. Raises like `SealedTransaction.commit`."""
        assert self.connection is not None
        self._seal.open()
        await self.connection.commit()

    async def close(self) -> None:
        """Roll back what has not been committed."""
        try:
            if self.connection is not None:
                # A task that is cancelled twice must not leave it half closed.
                await asyncio.shield(self.connection.close())
        finally:
            if self._gate is not None and self._inside:
                self._inside = False
                self._gate.release()
