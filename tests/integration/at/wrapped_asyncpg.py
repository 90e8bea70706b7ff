"""What tests of wrapped connections of asyncpg share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from txcoord_rm import wrap

from tests.integration.at.world import Undo, World
from tests.integration.at.wrapped import accounts, target, within

Work = Callable[[Any], Awaitable[None]]
UPDATE = "UPDATE account SET balance = balance + $1 WHERE id = $2"


every = pytest.mark.parametrize("pg", ["postgres18+asyncpg", "postgres+asyncpg", "postgres18+psycopg_async"], indirect=True)
"""On every version, and beside engines of both drivers."""


def wrapped(world: World, raw: Any) -> Any:
    assert world.aengine is not None
    return wrap(raw, world.aengine)


async def connect(world: World, **options: Any) -> Any:
    return wrapped(world, await asyncpg.connect(target(world), **options))


def outside(world: World, work: Work, **options: Any) -> None:
    """Do it with a connection, in no global transaction."""

    async def run() -> None:
        conn = await connect(world, **options)
        try:
            await work(conn)
        finally:
            await conn.close()

    within(world, run())


def inside(world: World, work: Work, undo: bool = True, **options: Any) -> None:
    """Do it in a global transaction."""

    async def run(conn: Any) -> None:
        with contextlib.suppress(Undo):
            async with world.client.global_transaction(name="test") as world.last:
                await work(conn)
                if undo:
                    raise Undo

    outside(world, run, **options)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.02)


def balance(world: World, number: int = 1) -> int:
    return int(next(row[2] for row in accounts(world) if row[0] == number))
