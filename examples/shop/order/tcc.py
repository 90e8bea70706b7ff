"""The order service in TCC mode: an order is pending until the global transaction is decided."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection
from txcoord_sdk import connect, tcc

from examples.shop.database import open_database
from examples.shop.order.database import orders

client = connect(service="order")
engine = open_database("order")
client.bind(engine)


@tcc("record")
async def record(
    conn: AsyncConnection, order_id: str, customer: str, sku: str, quantity: int, gift: str | None, amount: Decimal
) -> None:
    """Try: write the order down."""
    row = {"id": order_id, "customer": customer, "sku": sku, "quantity": quantity, "gift": gift, "amount": amount}
    await conn.execute(insert(orders).values(**row, status="PENDING"))


@record.confirm
async def placed(conn: AsyncConnection, order_id: str) -> None:
    """Confirm."""
    await conn.execute(update(orders).where(orders.c.id == order_id).values(status="PLACED"))


@record.cancel
async def rejected(conn: AsyncConnection, order_id: str) -> None:
    """Cancel."""
    await conn.execute(update(orders).where(orders.c.id == order_id).values(status="REJECTED"))
