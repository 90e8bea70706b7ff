"""The stock service: reserves goods, then sells them or puts them back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from txcoord_sdk import TxcoordError, connect, tcc
from txcoord_sdk.carriers.asgi import TransactionMiddleware

from examples.shop.database import open_database
from examples.shop.stock.database import Demand, metadata, stock

client = connect(service="stock")
engine = open_database("stock")
client.bind(engine)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Tables first; then the middleware connects to the coordinator, which may have second phases waiting."""
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(title="stock", lifespan=lifespan)
app.add_middleware(TransactionMiddleware)


async def open_session() -> AsyncIterator[AsyncSession]:
    """A session per request, committed when the request has been served."""
    async with AsyncSession(engine) as session, session.begin():
        yield session


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


class Reservation(BaseModel):
    """What is wanted."""

    sku: str
    quantity: int


class Cost(BaseModel):
    """What it costs."""

    amount: Decimal


@app.post("/reservations")
async def post_reservation(wanted: Reservation, session: Annotated[AsyncSession, Depends(open_session)]) -> Cost:
    """Reserve goods within the caller's global transaction, and remember what was asked for."""
    amount = await reserve(session, wanted.sku, wanted.quantity)
    session.add(Demand(sku=wanted.sku, quantity=wanted.quantity))  # written when the session commits
    return Cost(amount=amount)


@app.exception_handler(TxcoordError)
async def came_to_nothing(_: Request, error: TxcoordError) -> JSONResponse:
    """The global transaction is over already, or the coordinator does not answer: the code tells which."""
    return JSONResponse({"error": str(error), "code": error.code}, 503)


@app.get("/health")
async def health() -> str:
    """Whether it serves."""
    return "ok"
