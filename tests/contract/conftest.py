"""Stores that are closed at the end of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import pytest
from txcoord_server.store.open import open_store
from txcoord_server.store.sql_store import SqlStore

TTL = 600
"""Milliseconds of a lease."""


class OpenStore(Protocol):
    def __call__(self, url: str, node: str = "n1", group: str = "default", lease_ttl: int = TTL) -> SqlStore:
        """A node's store, not started."""


@pytest.fixture
async def open_store_of() -> AsyncIterator[OpenStore]:
    opened: list[SqlStore] = []

    def make(url: str, node: str = "n1", group: str = "default", lease_ttl: int = TTL) -> SqlStore:
        store = open_store(url, group, node, f"{node}:8190", lease_ttl, ThreadPoolExecutor(1), ThreadPoolExecutor(1))
        opened.append(store)
        return store

    yield make
    for store in opened:
        await store.stop()
