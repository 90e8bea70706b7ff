"""The balance service in TCC mode: holds a customer's money, then takes it or gives it back."""

from __future__ import annotations

from decimal import Decimal

from fastapi import HTTPException
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from txcoord_sdk import connect, tcc

from examples.shop.balance.database import account
from examples.shop.database import open_database

client = connect(service="balance")
engine = open_database("balance")
client.bind(engine)


@tcc("debit")
async def debit(conn: AsyncConnection, customer: str, amount: Decimal) -> None:
    """Try: hold the money."""
    at_hand = await conn.scalar(select(account.c.balance).where(account.c.customer == customer).with_for_update())
    if at_hand is None or at_hand < amount:
        raise HTTPException(409, f"{customer} cannot pay {amount}")
    await conn.execute(
        update(account)
        .where(account.c.customer == customer)
        .values(balance=account.c.balance - amount, held=account.c.held + amount)
    )


@debit.confirm
async def take(conn: AsyncConnection, customer: str, amount: Decimal) -> None:
    """Confirm: it is paid."""
    await conn.execute(
        update(account).where(account.c.customer == customer).values(held=account.c.held - amount, paid=account.c.paid + amount)
    )


@debit.cancel
async def give_back(conn: AsyncConnection, customer: str, amount: Decimal) -> None:
    """Cancel: it is at hand again."""
    await conn.execute(
        update(account)
        .where(account.c.customer == customer)
        .values(held=account.c.held - amount, balance=account.c.balance + amount)
    )
