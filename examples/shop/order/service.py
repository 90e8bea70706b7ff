"""The order service: begins the global transaction, writes the order and calls the other two services.

How the order is written is in `at`, for AT and XA, or in `tcc`, as SHOP_MODE says.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from txcoord_sdk import LockConflictError, TxcoordError, global_transaction
from txcoord_sdk.carriers.asgi import TransactionMiddleware
from txcoord_sdk.carriers.httpx import AsyncTransactionTransport

from examples.shop.order.database import metadata

record: Callable[[str, str, str, int, str | None, Decimal], Awaitable[None]]
if os.environ.get("SHOP_MODE") == "tcc":
    from examples.shop.order.tcc import engine, record
else:
    from examples.shop.order.at import engine, record

PATIENCE = float(os.environ.get("SHOP_PATIENCE", "30"))
STOCK = os.environ.get("SHOP_STOCK", "http://127.0.0.1:8001")
BALANCE = os.environ.get("SHOP_BALANCE", "http://127.0.0.1:8002")
RETRIES = 3
"""How often an order is tried again that met others on its way: in AT mode a row is its transaction's until that ends."""
CONFLICTS = ("LOCK_CONFLICT", "LOCK_TIMEOUT", "DEADLOCK")

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


@global_transaction(name="place order", key="order:{order.id}", timeout=PATIENCE, retries=RETRIES)
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
    """Ask another service to take part; where rows are held by others, so says the error, and the order is tried again."""
    answer = await http.post(service + path, json=body)
    if answer.status_code == 503 and (told := answer.json())["code"] in CONFLICTS:
        raise LockConflictError(told["error"])
    result: dict[str, str] = answer.raise_for_status().json()
    return result


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
