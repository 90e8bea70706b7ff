"""An office of a bank: a service with accounts of its own, written in plain SQLAlchemy, and a vault that takes part by TCC.

Each movement leaves a line in the ledger, in the same global transaction, so that both can be compared afterwards.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from sqlalchemy import Connection, Engine, create_engine, insert, make_url, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as SqlTimeoutError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session
from txcoord_proto.errors import TxcoordError
from txcoord_rm import enroll, mode
from txcoord_sdk import Client, tcc

from tests.chaos.bank import Server, serve
from tests.chaos.tables import account, ledger

LOCK_WAIT = 3.0
_CONNECTIONS = 48
_KEPT = text("UPDATE vault SET balance = balance + :balance, pending = pending + :pending")


class Base(DeclarativeBase):
    pass


class Account(Base):
    __table__ = account
    balance: Mapped[int]


class RefusedError(Exception):
    """The business says no."""


@dataclass(frozen=True, slots=True)
class Leg:
    """What a transfer does at one office; a negative amount is taken away."""

    number: int
    xid: str
    account: int
    amount: int
    fails: bool

    def line(self) -> dict[str, Any]:
        """Its line in the ledger."""
        return {"number": self.number, "xid": self.xid, "account": self.account, "amount": self.amount}

    def book(self, on: Session | Connection, by_owner: bool = False, amount: int | None = None) -> None:
        """Change the balance, unless that would take more than there is."""
        wanted = self.amount if amount is None else amount
        found = account.c.owner == f"owner{self.account}" if by_owner else account.c.id == self.account
        change = update(account).where(found, account.c.balance >= -wanted).values(balance=account.c.balance + wanted)
        changed: Any = on.execute(change)
        if changed.rowcount != 1:
            raise RefusedError("there is not enough")
        self.refuse()

    def refuse(self) -> None:
        """Change one's mind, after a write, if that is how the leg goes."""
        if self.fails:
            raise RefusedError("as it was ordered")

    def write(self, on: Session | Connection) -> None:
        """Write the line into the ledger."""
        on.execute(insert(ledger), self.line())


@tcc("vault")
def keep(conn: Connection, number: int, xid: str, amount: int) -> None:
    conn.execute(_KEPT, {"balance": 0, "pending": amount})


@keep.confirm
def _kept(conn: Connection, number: int, xid: str, amount: int) -> None:
    conn.execute(_KEPT, {"balance": amount, "pending": -amount})
    conn.execute(insert(ledger), {"number": number, "xid": xid, "account": 0, "amount": amount})


@keep.cancel
def _not_kept(conn: Connection, number: int, xid: str, amount: int) -> None:
    conn.execute(_KEPT, {"balance": 0, "pending": -amount})


class Office:
    """Its ways of moving money over HTTP; all arguments are in the query.

    Args:
        client: Of the coordinator.
        engine: Of the office's database.
    """

    def __init__(self, client: Client, engine: Engine) -> None:
        self._engine = engine
        self._alone = engine.execution_options(isolation_level="AUTOCOMMIT")
        enroll(engine, client, mode="xa" if client.service.endswith("-xa") else "at", lock_wait=LOCK_WAIT)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        asked = dict(parse_qsl(environ["QUERY_STRING"]))
        leg = Leg(int(asked["number"]), asked["xid"], int(asked["account"]), int(asked["amount"]), asked["fails"] == "True")
        try:
            getattr(self, environ["PATH_INFO"].strip("/"))(leg)
            answer, status = "", "200 OK"
        except RefusedError as error:
            answer, status = repr(error), "409 Conflict"
        except (TxcoordError, DBAPIError, SqlTimeoutError, ConnectionError) as error:  # the last one is a failpoint's
            answer, status = repr(error), "503 Service Unavailable"
        except Exception:  # nothing else may happen
            answer, status = traceback.format_exc(), "500 Internal Server Error"
        body = answer.encode()
        start_response(status, [("Content-Length", str(len(body)))])
        return [body]

    def known(self, leg: Leg) -> None:
        """The key is in the statement."""
        with Session(self._engine) as session:
            leg.book(session)
            leg.write(session)
            session.commit()

    def unknown(self, leg: Leg) -> None:
        """The database has to find the row, in the first statement or in a later one."""
        with Session(self._engine) as session:
            if leg.number % 2:
                leg.write(session)
            leg.book(session, by_owner=True)
            if not leg.number % 2:
                leg.write(session)
            session.commit()

    def read(self, leg: Leg) -> None:
        """An object is read for update and written back."""
        with Session(self._engine) as session:
            found = session.get_one(Account, leg.account, with_for_update=True)
            if found.balance < -leg.amount:
                raise RefusedError("there is not enough")
            found.balance += leg.amount
            session.flush()
            leg.refuse()
            leg.write(session)
            session.commit()

    def savepoint(self, leg: Leg) -> None:
        """One savepoint is rolled back, another one stays."""
        with Session(self._engine) as session:
            with session.begin_nested() as nested:
                session.execute(update(account).where(account.c.id == leg.account).values(balance=account.c.balance + 1_000_000))
                nested.rollback()
            with session.begin_nested():
                leg.book(session)
            leg.write(session)
            session.commit()

    def twice(self, leg: Leg) -> None:
        """Two local transactions on the same row."""
        for part in (leg.amount + 7, -7):
            with Session(self._engine) as session:
                leg.book(session, amount=part)
                if part == -7:
                    leg.write(session)
                session.commit()

    def alone(self, leg: Leg) -> None:
        """Each statement commits by itself."""
        with self._alone.connect() as connection:
            leg.book(connection)
            leg.write(connection)

    def xa(self, leg: Leg) -> None:
        """The database prepares it; so may others do with the same rows in AT."""
        with mode("xa"), Session(self._engine) as session:
            leg.book(session)
            leg.write(session)
            session.commit()

    def vault(self, leg: Leg) -> None:
        """Not the accounts: what is kept by TCC."""
        keep(number=leg.number, xid=leg.xid, amount=leg.amount)
        leg.refuse()


def open_engine(url: str) -> Engine:
    """As a service of many threads would."""
    if make_url(url).get_backend_name() == "sqlite":
        return create_engine(url, pool_size=_CONNECTIONS, connect_args={"timeout": 20.0})
    return create_engine(url, pool_size=_CONNECTIONS, pool_pre_ping=True)


if __name__ == "__main__":
    Server.request_queue_size = 64
    serve(lambda client, database: Office(client, open_engine(database)))
