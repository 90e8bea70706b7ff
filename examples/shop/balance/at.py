"""The balance service in AT mode, the default: what it would be without global transactions, and one line.

XA mode is the same code; an argument of that line differs.
"""

from __future__ import annotations

import os
from decimal import Decimal

from fastapi import HTTPException
from sqlalchemy import update
from txcoord_rm import enroll
from txcoord_sdk import connect

from examples.shop.balance.database import account
from examples.shop.database import open_database

client = connect(service="balance")
engine = open_database("balance")
enroll(engine, client, mode=os.environ.get("SHOP_MODE", "at"))  # that line; "at" may be left out


async def debit(customer: str, amount: Decimal) -> None:
    """Take the money."""
    async with engine.begin() as conn:
        payment = await conn.execute(
            update(account)
            .where(account.c.customer == customer, account.c.balance >= amount)
            .values(balance=account.c.balance - amount, paid=account.c.paid + amount)
        )
        if not payment.rowcount:
            raise HTTPException(409, f"{customer} cannot pay {amount}")
