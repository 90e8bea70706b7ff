"""The balance service: holds a customer's money, then takes it or gives it back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from txcoord_sdk import TxcoordError, connect, tcc
from txcoord_sdk.carriers.asgi import TransactionMiddleware

from examples.shop.balance.database import account, metadata
from examples.shop.database import open_database

client = connect(service="balance")
engine = open_database("balance")
client.bind(engine)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Tables first; then the middleware connects to the coordinator, which may have second phases waiting."""
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(title="balance", lifespan=lifespan)
app.add_middleware(TransactionMiddleware)


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


class Debit(BaseModel):
    """Who pays how much."""

    customer: str
    amount: Decimal


@app.post("/debits")
async def post_debit(wanted: Debit) -> Debit:
    """Hold money within the caller's global transaction."""
    await debit(wanted.customer, wanted.amount)
    return wanted


@app.exception_handler(TxcoordError)
async def came_to_nothing(_: Request, error: TxcoordError) -> JSONResponse:
    """The global transaction is over already, or the coordinator does not answer: the code tells which."""
    return JSONResponse({"error": str(error), "code": error.code}, 503)


@app.get("/health")
async def health() -> str:
    """Whether it serves."""
    return "ok"
