"""The one connection of group commits, and the session lock that it holds.

What waits for a server waits in the event loop. What is embedded is written in the engine's thread for as long as the disk is
quick (see `disk`), else in a thread of the writer's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, TypeVar, cast

from sqlalchemy import Engine
from txcoord_proto.errors import StoreUnavailableError, TxcoordError

from txcoord_server.domain.effects import StoredOutcome
from txcoord_server.engine.storage import GroupWrite
from txcoord_server.store.dialect import Dialect
from txcoord_server.store.disk import Disk

T = TypeVar("T")


async def run_in(thread: Executor | None, call: Callable[..., T], *args: Any) -> T:
    """What `call` returns, run in `thread`; None: in place."""
    if thread is None:
        return call(*args)
    return await asyncio.get_running_loop().run_in_executor(thread, call, *args)


class Writer:
    """Group commits of one node; every method is called from the node's event loop.

    Args:
        engine: Where to connect.
        dialect: What differs on this database.
        thread: For what is embedded; None runs the calls in place (for the simulation).
    """

    def __init__(self, engine: Engine, dialect: Dialect, thread: Executor | None) -> None:
        self._engine = engine
        self._dialect = dialect
        self._thread = thread
        self._raw: Any = None
        self.locked = False
        """Whether the session lock is ours."""
        self._hindered = False
        """Whether the last group commit failed: the next may wait long, and not in the engine's thread."""
        self._disk = Disk()

    async def commit(self, write: GroupWrite) -> dict[str, StoredOutcome]:
        """See `Store.commit`."""
        if not self.locked and not write.waiting:
            await self.try_lock()  # it was taken over from a leader that was silent, and may have come free since
        here = self._dialect.embedded and self._raw is not None and not self._hindered and self._disk.suits(write.waiting)
        self._hindered = True
        raw = await self._connected()
        try:
            if here:
                with self._disk.measured():
                    found = cast(dict[str, StoredOutcome], self._dialect.write(raw, write, self.locked))
            else:
                found = await self._run(self._dialect.write, raw, write, self.locked)
        except StoreUnavailableError:
            if not self._dialect.usable(raw):
                await self.disconnect()
            raise
        except TxcoordError:
            await self.disconnect()
            raise
        except asyncio.CancelledError:
            if not self._dialect.embedded and self._raw is raw:  # a thread goes on to the end of what it does
                await self.disconnect()  # in the middle of an answer, or closed already
            raise
        self._hindered = False
        return found

    async def try_lock(self) -> bool:
        """Take the session lock if it is free; returns whether it is ours."""
        raw = await self._connected()
        try:
            self.locked = await self._run(self._dialect.try_lock, raw)
        except StoreUnavailableError:
            await self.disconnect()
            raise
        return self.locked

    async def unlock(self) -> None:
        """Give the session lock back."""
        self.locked = False
        raw = await self._connected()
        try:
            await self._run(self._dialect.unlock, raw)
        except StoreUnavailableError:
            await self.disconnect()
            raise

    async def disconnect(self) -> None:
        """Close the connection, and with it give the session lock back; a group commit under way in the thread ends first."""
        raw, self._raw, self.locked = self._raw, None, False
        if raw is not None:
            await self._run(self._dialect.close, raw)

    async def _connected(self) -> Any:
        if self._raw is None:
            self._raw = await self._run(self._dialect.connect, self._engine)
        return self._raw

    async def _run(self, call: Callable[..., T | Awaitable[T]], *args: Any) -> T:
        result = await run_in(self._thread if self._dialect.embedded else None, call, *args)
        return await result if isinstance(result, Awaitable) else result
