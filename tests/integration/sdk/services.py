"""Services on loopback that take part in their callers' transactions, in threads of this process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, StreamingResponse
from starlette.middleware.base import RequestResponseEndpoint
from starlette.responses import Response
from txcoord_proto.status import PhaseOne
from txcoord_sdk import Client, GlobalTransaction, current
from txcoord_sdk.carriers.httpx import AsyncTransactionTransport

from tests.integration.sdk.conftest import Ledger, atake_part, registration, take_part
from tests.servers import free_port


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an ASGI application; gives its URL."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the service did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def here() -> GlobalTransaction:
    """The current transaction, which there must be."""
    transaction = current()
    assert transaction is not None
    return transaction


def stock_service(client: Client, ledger: Ledger, log: list[str]) -> FastAPI:
    """A service with everything that a request can meet; to be wrapped in the middleware.

    Args:
        client: Of the service.
        ledger: Its participant.
        log: What happened in it.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        log.append(f"app starts, client {client.started}")
        yield
        log.append(f"app ends, client {client.started}")

    app = FastAPI(lifespan=lifespan)
    client.serve(ledger.resource, ledger)
    app.include_router(branches(ledger))
    app.include_router(exits(ledger, log))
    app.include_router(streams())

    @app.middleware("http")
    async def stamp(request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Middleware of this kind cuts every body up as if it were a stream."""
        response = await call_next(request)
        response.headers["x-stamp"] = "1"
        return response

    return app


def branches(ledger: Ledger) -> APIRouter:
    """Operations that take part, answer, refuse, or do not answer in time."""
    router = APIRouter()

    @router.post("/reservations")
    async def reserve(quantity: int) -> dict[str, str]:
        await atake_part(here(), ledger)
        return {"xid": here().known_xid}

    @router.post("/threaded")
    def threaded() -> dict[str, str]:
        take_part(here(), ledger)
        return {"xid": here().known_xid}

    @router.post("/refused")
    async def refused() -> None:
        await atake_part(here(), ledger, PhaseOne.FAILED)
        raise HTTPException(409, "out of stock")

    @router.post("/slow")
    async def slow() -> None:
        await atake_part(here(), ledger)
        await asyncio.sleep(1.5)

    @router.get("/xid")
    async def xid() -> str:
        transaction = current()
        return transaction.known_xid if transaction is not None else "none"

    @router.post("/onward")
    async def onward(url: str) -> str:
        """Calls another service, which does not answer, and carries on."""
        await atake_part(here(), ledger)
        async with httpx.AsyncClient(transport=AsyncTransactionTransport(), timeout=0.3) as http:
            with contextlib.suppress(httpx.ReadTimeout):
                await http.post(url)
        return "carried on"

    return router


def exits(ledger: Ledger, log: list[str]) -> APIRouter:
    """Operations that do something after they have answered."""
    router = APIRouter()

    async def committed_in_its_exit() -> AsyncIterator[None]:
        branch_id = await here().aregister(registration(ledger))
        yield
        await asyncio.sleep(0.3)
        here().report(branch_id, PhaseOne.DONE)
        log.append("exit done")

    async def failing_in_its_exit() -> AsyncIterator[None]:
        branch_id = await here().aregister(registration(ledger))
        yield
        here().report(branch_id, PhaseOne.FAILED)
        raise RuntimeError("the COMMIT failed")

    @router.post("/exit", dependencies=[Depends(committed_in_its_exit)])
    async def with_exit() -> str:
        log.append("answered")
        return "fine"

    @router.post("/failing-exit", dependencies=[Depends(failing_in_its_exit)])
    async def with_failing_exit() -> str:
        return "fine"

    @router.post("/background")
    async def background(tasks: BackgroundTasks) -> str:
        async def later() -> None:
            await asyncio.sleep(0.2)
            await atake_part(here(), ledger)
            log.append("background done")

        tasks.add_task(later)
        return "fine"

    return router


def streams() -> APIRouter:
    """Operations whose answers come in parts."""
    router = APIRouter()

    @router.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            for number in range(3):
                yield str(number)

        return StreamingResponse(parts())

    @router.get("/file")
    async def file() -> FileResponse:
        return FileResponse(Path(__file__))

    return router
