"""The stock service: its routes; what they do is in `at`, for AT and XA, or in `tcc`, as SHOP_MODE says."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from txcoord_sdk import TxcoordError
from txcoord_sdk.carriers.asgi import TransactionMiddleware

from examples.shop.stock.database import Demand, metadata

reserve: Callable[[AsyncSession, str, int], Awaitable[Decimal]]
if os.environ.get("SHOP_MODE") == "tcc":
    from examples.shop.stock.tcc import engine, reserve
else:
    from examples.shop.stock.at import engine, reserve


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


class Reservation(BaseModel):
    """What is wanted."""

    sku: str
    quantity: int


class Cost(BaseModel):
    """What it costs."""

    amount: Decimal


@app.post("/reservations")
async def post_reservation(wanted: Reservation, session: Annotated[AsyncSession, Depends(open_session)]) -> Cost:
    """Take goods within the caller's global transaction, and remember what was asked for."""
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
