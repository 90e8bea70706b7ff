"""What tests of XA mode do and look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.integration.at.world import World


def pay(account: int, amount: int) -> Callable[[Session], None]:
    def work(session: Session) -> None:
        session.execute(text("UPDATE account SET balance = balance + :amount WHERE id = :id"), {"id": account, "amount": amount})

    return work


def balances(world: World) -> list[int]:
    return [balance for (balance,) in world.rows("SELECT balance FROM account ORDER BY id")]


def fences(world: World) -> list[str]:
    return sorted(state for (state,) in world.rows("SELECT state FROM txcoord_fence"))


def prepared(world: World) -> list[Any]:
    """Prepared transactions of this database."""
    database_id = world.rows("SELECT id FROM txcoord_database")[0][0]
    if world.outside.dialect.name == "postgresql":
        rows = world.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
        return [gid for (gid,) in rows]
    return [row[3] for row in world.rows("XA RECOVER") if database_id in str(row[3])]
