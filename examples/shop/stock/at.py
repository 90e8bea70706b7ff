"""The stock service in AT mode, the default: what it would be without global transactions, and one line.

XA mode is the same code; an argument of that line differs.
"""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

from fastapi import HTTPException
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from txcoord_rm import enroll
from txcoord_sdk import connect

from examples.shop.database import open_database
from examples.shop.stock.database import stock

client = connect(service="stock")
engine = open_database("stock")
enroll(engine, client, mode=os.environ.get("SHOP_MODE", "at"))  # that line; "at" may be left out


async def reserve(session: AsyncSession, sku: str, quantity: int) -> Decimal:
    """Sell goods; returns what they cost."""
    sale: Any = await session.execute(
        update(stock)
        .where(stock.c.sku == sku, stock.c.free >= quantity)
        .values(free=stock.c.free - quantity, sold=stock.c.sold + quantity)
    )
    if not sale.rowcount:
        raise HTTPException(409, f"{sku} is out of stock")
    price: Decimal = (await session.execute(select(stock.c.price).where(stock.c.sku == sku))).scalar_one()
    return price * quantity
