"""Every driver that the SDK knows, driven by the same synchronous code: what is asynchronous runs in SQLAlchemy's greenlet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from tests.servers.fixtures import FreshUrl

T = TypeVar("T")

SYNC = ["sqlite+pysqlite", "postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql"]
ASYNC = ["sqlite+aiosqlite", "postgresql+psycopg_async", "postgresql+asyncpg", "mysql+aiomysql", "mysql+asyncmy"]


def fresh_url(request: pytest.FixtureRequest, driver: str, tmp_path: Path) -> str:
    """The URL of a new empty database for a driver."""
    backend, _, name = driver.partition("+")
    if backend == "sqlite":
        return f"{driver}:///{tmp_path}/service.db"
    fresh: FreshUrl = request.getfixturevalue("fresh_postgres_url" if backend == "postgresql" else "fresh_mariadb_url")
    return fresh(name)


class Driver:
    """An engine of one driver.

    Args:
        name: SQLAlchemy's name of it.
        url: Of a database.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.backend = name.partition("+")[0]
        self.is_async = name in ASYNC
        self._url = url

    def run(self, prepare: Callable[[Engine], None], *works: Callable[[Connection], T], **options: Any) -> list[T]:
        """Run each of `works` on a connection of its own, one after the other, over one pool.

        Args:
            prepare: Called with the engine first.
            works: What runs.
            options: Of the engine.
        """
        if not self.is_async:
            engine = create_engine(self._url, **options)
            try:
                prepare(engine)
                done = []
                for work in works:
                    with engine.connect() as connection:
                        done.append(work(connection))
                return done
            finally:
                engine.dispose()

        async def main() -> list[T]:
            engine = create_async_engine(self._url, **options)
            try:
                prepare(engine.sync_engine)
                done = []
                for work in works:
                    async with engine.connect() as connection:
                        done.append(await connection.run_sync(work))
                return done
            finally:
                await engine.dispose()

        return asyncio.run(main())
