"""The balance service: its routes; what they do is in `at`, for AT and XA, or in `tcc`, as SHOP_MODE says."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from txcoord_sdk import TxcoordError
from txcoord_sdk.carriers.asgi import TransactionMiddleware

from examples.shop.balance.database import metadata

debit: Callable[[str, Decimal], Awaitable[None]]
if os.environ.get("SHOP_MODE") == "tcc":
    from examples.shop.balance.tcc import debit, engine
else:
    from examples.shop.balance.at import debit, engine


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Tables first; then the middleware connects to the coordinator, which may have second phases waiting."""
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(title="balance", lifespan=lifespan)
app.add_middleware(TransactionMiddleware)


class Debit(BaseModel):
    """Who pays how much."""

    customer: str
    amount: Decimal


@app.post("/debits")
async def post_debit(wanted: Debit) -> Debit:
    """Take money within the caller's global transaction."""
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
