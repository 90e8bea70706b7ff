"""A bank: a service with a database of its own, taking part in transfers. What a user would write.

Each step leaves an entry beside its effect, in the same local transaction, so that effects can be counted afterwards.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qsl
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.orm import Session
from txcoord_sdk import Client, connect, current_branch, tcc
from txcoord_sdk.carriers.wsgi import TransactionMiddleware
from txcoord_sdk.tcc.cleaning import purge

MOVE = text("UPDATE account SET balance = balance + :balance, pending = pending + :pending")
ENTRY = text("INSERT INTO entry VALUES (:xid, :branch_id, :action, :step, :amount)")


def book(on: Connection | Session, action: str, step: str, amount: int, balance: int = 0, pending: int = 0) -> None:
    """Move money and write it down."""
    branch = current_branch()
    assert branch is not None
    on.execute(MOVE, {"balance": balance, "pending": pending})
    row = {"xid": branch.xid, "branch_id": branch.branch_id, "action": action, "step": step, "amount": amount}
    on.execute(ENTRY, row)


@tcc("withdraw")
def withdraw(conn: Connection, amount: int, pause: float) -> None:
    book(conn, "withdraw", "try", amount, -amount, amount)


@withdraw.confirm
def _withdrawn(conn: Connection, amount: int, pause: float) -> None:
    time.sleep(pause)
    book(conn, "withdraw", "confirm", amount, 0, -amount)


@withdraw.cancel
def _not_withdrawn(conn: Connection, amount: int, pause: float) -> None:
    time.sleep(pause)
    book(conn, "withdraw", "cancel", amount, amount, -amount)


@tcc("deposit")
def deposit(session: Session, amount: int) -> None:
    book(session, "deposit", "try", amount, 0, amount)


@deposit.confirm
def _deposited(session: Session, amount: int) -> None:
    book(session, "deposit", "confirm", amount, amount, -amount)


@deposit.cancel
def _not_deposited(session: Session, amount: int) -> None:
    book(session, "deposit", "cancel", amount, 0, -amount)


@tcc("advise", fence="intent")
def advise(amount: int) -> None:
    """A letter is printed: an effect outside the database."""


@advise.confirm
def _advised(conn: Connection, amount: int) -> None:
    book(conn, "advise", "confirm", amount)


@advise.cancel
def _not_advised(conn: Connection, amount: int) -> None:
    book(conn, "advise", "cancel", amount)


class Bank:
    """Its operations over HTTP; all arguments are in the query.

    Args:
        client: Of the coordinator.
        engine: Of the bank's database.
    """

    def __init__(self, client: Client, engine: Engine) -> None:
        self._client = client
        self._engine = engine
        client.bind(engine)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        operation = getattr(self, environ["PATH_INFO"].strip("/"))
        try:
            answer, status = operation(**dict(parse_qsl(environ["QUERY_STRING"]))), "200 OK"
        except Exception as error:
            answer, status = repr(error), "500 Internal Server Error"
        body = str(answer).encode()
        start_response(status, [("Content-Length", str(len(body)))])
        return [body]

    def withdraw(self, amount: str, pause: str) -> None:
        withdraw(amount=int(amount), pause=float(pause))

    def deposit(self, amount: str) -> None:
        with Session(self._engine) as session:
            deposit(session, amount=int(amount))
            session.commit()

    def advise(self, amount: str) -> None:
        advise(amount=int(amount))

    def purge(self) -> int:
        """Remove all fence rows of settled transactions; there is no traffic."""
        database = self._client.databases.get()
        kept, database.fence_retention = database.fence_retention, -1.0
        try:
            return purge(self._client, database)
        finally:
            database.fence_retention = kept


class Server(ThreadingMixIn, WSGIServer):
    """One thread a request."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve(app: Callable[[Client, str], Callable[..., Iterable[bytes]]]) -> None:
    """Run a service as the command line says: its name, its database, the coordinator's address, and a port.

    Args:
        app: Makes it of a client and the URL of the database.
    """
    parser = argparse.ArgumentParser()
    for name in ("service", "database", "coordinator"):
        parser.add_argument(name)
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    if not sys.stdin.readline():
        return
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(3)), daemon=True).start()
    client = connect(args.coordinator, service=args.service)
    made = app(client, args.database)
    with client, make_server("127.0.0.1", args.port, TransactionMiddleware(made, client), Server, Quiet) as server:
        server.serve_forever()


if __name__ == "__main__":
    serve(lambda client, database: Bank(client, create_engine(database)))
