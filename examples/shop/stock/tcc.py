"""The stock service in TCC mode: reserves goods, then sells them or puts them back."""

from __future__ import annotations

from decimal import Decimal

from fastapi import HTTPException
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from txcoord_sdk import connect, tcc

from examples.shop.database import open_database
from examples.shop.stock.database import stock

client = connect(service="stock")
engine = open_database("stock")
client.bind(engine)


@tcc("reserve")
async def reserve(session: AsyncSession, sku: str, quantity: int) -> Decimal:
    """Try: set goods aside; returns what they cost."""
    row = select(stock.c.price, stock.c.free).where(stock.c.sku == sku).with_for_update()
    found = (await session.execute(row)).one_or_none()
    if found is None or found.free < quantity:
        raise HTTPException(409, f"{sku} is out of stock")
    await session.execute(
        update(stock).where(stock.c.sku == sku).values(free=stock.c.free - quantity, reserved=stock.c.reserved + quantity)
    )
    cost: Decimal = found.price * quantity
    return cost


@reserve.confirm
async def sell(conn: AsyncConnection, sku: str, quantity: int) -> None:
    """Confirm: they are sold."""
    await conn.execute(
        update(stock).where(stock.c.sku == sku).values(reserved=stock.c.reserved - quantity, sold=stock.c.sold + quantity)
    )


@reserve.cancel
async def put_back(conn: AsyncConnection, sku: str, quantity: int) -> None:
    """Cancel: they are free again."""
    await conn.execute(
        update(stock).where(stock.c.sku == sku).values(reserved=stock.c.reserved - quantity, free=stock.c.free + quantity)
    )
