"""The order service: begins the global transaction, writes the order and calls the other two services."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection
from txcoord_sdk import TxcoordError, connect, global_transaction, tcc
from txcoord_sdk.carriers.asgi import TransactionMiddleware
from txcoord_sdk.carriers.httpx import AsyncTransactionTransport

from examples.shop.database import open_database
from examples.shop.order.database import metadata, orders

PATIENCE = float(os.environ.get("SHOP_PATIENCE", "30"))
STOCK = os.environ.get("SHOP_STOCK", "http://127.0.0.1:8001")
BALANCE = os.environ.get("SHOP_BALANCE", "http://127.0.0.1:8002")

client = connect(service="order")
engine = open_database("order")
client.bind(engine)
http = httpx.AsyncClient(timeout=PATIENCE + 15, transport=AsyncTransactionTransport())


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Tables first; then the middleware connects to the coordinator, which may have second phases waiting."""
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield
    await http.aclose()
    await engine.dispose()


app = FastAPI(title="order", lifespan=lifespan)
app.add_middleware(TransactionMiddleware)


class Order(BaseModel):
    """What a customer sends; the id is his, so that a repeated request is no second order."""

    id: str
    customer: str
    sku: str
    quantity: int
    gift: str | None = None


@global_transaction(name="place order", key="order:{order.id}", timeout=PATIENCE)
async def place(order: Order) -> Decimal:
    """All of it or nothing: goods, gift, order and money."""
    amount = Decimal((await call(STOCK, "/reservations", sku=order.sku, quantity=order.quantity))["amount"])
    gift = await wrap_gift(order.gift) if order.gift else None
    await record(order.id, order.customer, order.sku, order.quantity, gift, amount)
    await call(BALANCE, "/debits", customer=order.customer, amount=str(amount))
    return amount


async def wrap_gift(sku: str) -> str | None:
    """The gift, if there is one left: an order does not fail for want of it."""
    try:
        await call(STOCK, "/reservations", sku=sku, quantity=1)
    except httpx.HTTPStatusError:
        return None
    return sku


async def call(service: str, path: str, **body: object) -> dict[str, str]:
    """Ask another service to take part."""
    answer = await http.post(service + path, json=body)
    result: dict[str, str] = answer.raise_for_status().json()
    return result


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


@app.post("/orders", status_code=201)
async def post_order(order: Order) -> dict[str, Decimal]:
    """Place an order."""
    return {"amount": await place(order)}


@app.exception_handler(httpx.HTTPStatusError)
async def refused(_: Request, error: httpx.HTTPStatusError) -> JSONResponse:
    """Another service said no; the global transaction was rolled back."""
    return JSONResponse({"error": error.response.text}, error.response.status_code)


@app.exception_handler(httpx.TransportError)
async def unanswered(_: Request, error: httpx.TransportError) -> JSONResponse:
    """Another service did not answer; the global transaction was rolled back."""
    return JSONResponse({"error": f"{error.request.url} did not answer: {error!r}"}, 503)


@app.exception_handler(TxcoordError)
async def not_committed(_: Request, error: TxcoordError) -> JSONResponse:
    """The global transaction was rolled back, or its end is not known yet: the code tells which."""
    return JSONResponse({"error": str(error), "code": error.code}, 503)


@app.get("/health")
async def health() -> str:
    """Whether it serves."""
    return "ok"
