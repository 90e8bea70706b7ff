"""A node that leads on a SQLite store, and what takes its engine through transactions as a session would."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from txcoord_proto.status import BranchType, Wait
from txcoord_server.domain.requests import NewBranch, NewTransaction
from txcoord_server.engine.engine import Engine, EngineConfig
from txcoord_server.engine.node import Node
from txcoord_server.engine.ports import SystemClock, SystemRng
from txcoord_server.store.open import open_store

from tests.unit.server.books import Caller


def make_node(
    path: Path, writer: Executor | None = None, around_load: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Node:
    store = open_store(f"sqlite:///{path}/store.db", "default", "n1", "127.0.0.1:1", 3000, writer, None)
    return Node(EngineConfig(), store, "n1", SystemClock(), SystemRng(), around_load)


class Driver:
    """Takes an engine through transactions as a session would."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.caller = Caller()
        self._requests = 0
        self.branch = 0

    def ticket(self) -> tuple[Caller, int]:
        self._requests += 1
        return self.caller, self._requests

    async def prepared(self, *resources: str) -> str:
        """A transaction with a branch that is done on each resource."""
        t, now = self.engine.transactions, self.engine.now()
        xid = t.begin("order", NewTransaction("place_order"), now).xid
        for resource in resources:
            self.branch += 1
            keys = (f"{xid}-{self.branch}",)
            t.register(self.ticket(), xid, NewBranch(self.branch, BranchType.TCC, resource, keys, done=True), now)
        await self.engine.fence()
        return xid

    async def commit(self, xid: str) -> None:
        self.engine.transactions.commit(self.ticket(), "order", xid, Wait.DECIDED, self.engine.now())
        await self.engine.fence()

    async def rollback(self, xid: str) -> None:
        self.engine.transactions.rollback(self.ticket(), "order", xid, Wait.DECIDED, self.engine.now())
        await self.engine.fence()
