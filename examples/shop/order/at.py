"""The order service in AT mode, the default: what it would be without global transactions, and one line.

XA mode is the same code; an argument of that line differs.
"""

from __future__ import annotations

import os
from decimal import Decimal

from sqlalchemy import insert
from txcoord_rm import enroll
from txcoord_sdk import connect

from examples.shop.database import open_database
from examples.shop.order.database import orders

client = connect(service="order")
engine = open_database("order")
enroll(engine, client, mode=os.environ.get("SHOP_MODE", "at"))  # that line; "at" may be left out


async def record(order_id: str, customer: str, sku: str, quantity: int, gift: str | None, amount: Decimal) -> None:
    """Write the order down."""
    row = {"id": order_id, "customer": customer, "sku": sku, "quantity": quantity, "gift": gift, "amount": amount}
    async with engine.begin() as conn:
        await conn.execute(insert(orders).values(**row, status="PLACED"))
