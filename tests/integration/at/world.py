"""One way to write a test for every driver: work on a plain Session runs as it is, or inside an AsyncSession."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.v1.operator_pb2 import LocksReply, LocksRequest
from txcoord_rm import enroll
from txcoord_rm.at.hook import resource_of_engine
from txcoord_sdk import Client, GlobalTransaction
from txcoord_sdk.testing import wait_until
from txcoord_server.commands.coordinator import Coordinator

T = TypeVar("T")

ACCOUNTS = "CREATE TABLE account (id integer PRIMARY KEY, owner varchar(20) NOT NULL, balance integer NOT NULL)"
FILL = "INSERT INTO account VALUES (1, 'ann', 100), (2, 'bob', 100), (3, 'cid', 100)"

ASYNC = frozenset({"asyncpg", "psycopg_async", "aiomysql", "asyncmy", "aiosqlite"})


class Undo(Exception):
    """Rolls a global transaction back."""


class World:
    """A service with one database, enrolled.

    Args:
        client: Of the service.
        address: Of the coordinator.
        url: Of its database, with a driver.
        plain_url: The same with a synchronous driver, for looking at it from outside.
        mode: Of its local transactions.
        starts: Whether the client starts, so that it serves the database.
        options: Further arguments of the engine.
    """

    def __init__(
        self, client: Client, address: str, url: str, plain_url: str, mode: str = "at", starts: bool = True, **options: Any
    ) -> None:
        self.client = client
        self.url = url
        self.is_async = any(f"+{driver}" in url for driver in ASYNC)
        self.loop = asyncio.new_event_loop()
        self.outside = create_engine(plain_url)
        self.aengine = create_async_engine(url, **options) if self.is_async else None
        self.engine: Any = self.aengine.sync_engine if self.aengine is not None else create_engine(url, **options)
        enroll(self.aengine or self.engine, client, mode=mode)
        found = resource_of_engine(self.engine)
        assert found is not None
        self.resource = found
        if self.is_async and starts:
            self.run(self._start())
        elif starts:
            client.start()
            wait_until(self._is_served, what="our tables and second phases")
        self._operator = Coordinator((address,), "", None, 10.0)
        self.last: GlobalTransaction | None = None

    async def _start(self) -> None:
        self.client.start()
        while not self._is_served():
            await asyncio.sleep(0.01)

    def _is_served(self) -> bool:
        return bool(self.resource.database.id) and f"db@{self.resource.database.id}" in self.client._resources

    def close(self) -> None:
        if self.aengine is not None:
            self.run(self.client.aclose())
            self.run(self.aengine.dispose())
        else:
            self.client.close()
            self.engine.dispose()
        self.outside.dispose()
        self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def asked(self) -> int:
        """How many requests the service has made of the coordinator."""
        return self.client._thread().session._next_id

    # ------------------------------------------------------------ inside

    def globally(self, *works: Callable[[Session], T], undo: bool = False) -> list[T]:
        """Do each work in a local transaction of its own, all in one global transaction; with `undo` it is rolled back."""
        if self.is_async:
            return self.run(self._aglobally(works, undo))
        results: list[T] = []
        try:
            with self.client.global_transaction(name="test") as self.last:
                for work in works:
                    with Session(self.engine) as session:
                        results.append(work(session))
                        session.commit()
                if undo:
                    raise Undo
        except Undo:
            pass
        return results

    async def _aglobally(self, works: tuple[Callable[[Session], T], ...], undo: bool) -> list[T]:
        results: list[T] = []
        try:
            async with self.client.global_transaction(name="test") as self.last:
                for work in works:
                    async with AsyncSession(self.aengine) as session:
                        results.append(await session.run_sync(work))
                        await session.commit()
                if undo:
                    raise Undo
        except Undo:
            pass
        return results

    def locally(self, work: Callable[[Session], T]) -> T:
        """Do a work in a local transaction, outside any global one."""
        if self.is_async:
            return self.run(self._alocally(work))
        with Session(self.engine) as session:
            result = work(session)
            session.commit()
            return result

    async def _alocally(self, work: Callable[[Session], T]) -> T:
        async with AsyncSession(self.aengine) as session:
            result = await session.run_sync(work)
            await session.commit()
            return result

    # ------------------------------------------------------------ outside

    def script(self, *statements: str) -> None:
        with self.outside.begin() as connection:
            for statement in statements:
                connection.execute(text(statement.replace(":", "\\:")))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.outside.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    def looking(self, look: Callable[[Connection], T]) -> T:
        with self.outside.connect() as connection:
            return look(connection)

    def waiters(self) -> list[str]:
        """XIDs of transactions that wait for rows of this database."""
        reply = self._operator.call("Locks", LocksRequest(resource=f"db@{self.resource.database.id}"), LocksReply)
        return [xid for lock in reply.locks for xid in lock.waiters]

    def undo_rows(self) -> list[tuple[Any, ...]]:
        return self.rows("SELECT branch_id, seq, state FROM txcoord_undo_log ORDER BY branch_id, seq")

    def transaction(self) -> Any:
        """The last transaction, as the coordinator shows it."""
        assert self.last is not None
        xid = self.last.known_xid
        return self.run(self.client.astatus(xid)) if self.is_async else self.client.status(xid)

    def status(self) -> str:
        """Of the last transaction."""
        return pb.GlobalStatus.Name(self.transaction().status)

    def explanation(self) -> str:
        """What branches of the last transaction say."""
        return "; ".join(branch.error for branch in self.transaction().branches)

    def statuses(self) -> list[str]:
        """Of the last transaction's branches."""
        assert self.last is not None
        return [branch.status for branch in self.transaction().branches] if self.last.known_xid else []
