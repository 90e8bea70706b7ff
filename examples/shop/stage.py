"""Where scenarios happen: a coordinator, the three services, customers, and the means to break them."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import httpx
from sqlalchemy import make_url
from txcoord_proto.v1.operator_pb2 import LocksReply, LocksRequest
from txcoord_sdk.testing import CoordinatorProcess, free_port, wait_until
from txcoord_server.commands.coordinator import Coordinator

from examples.shop.balance.database import account
from examples.shop.ledger import Ledger, Totals
from examples.shop.modes import Pieces, Stuck, Way
from examples.shop.process import ServiceProcess
from examples.shop.stock.database import stock

SERVICES = ("order", "stock", "balance")
PATIENCE = 5.0
"""Seconds until the coordinator rolls an order back that is not decided."""
CUSTOMERS = 32
_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "mysql": "mysql+aiomysql"}
_SETTLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a customer was told."""

    order_id: str
    code: int
    text: str

    @property
    def placed(self) -> bool:
        """Whether he was told that his order is placed."""
        return self.code == 201


class Unexpected(AssertionError):
    """A scenario went another way than it must."""


class Stage:
    """Everything that a scenario uses.

    Args:
        databases: URL by service, and that of the coordinator's store as `coordinator`.
        ways: How each service takes part.
        directory: For logs.
        say: Shows what happens.
    """

    def __init__(self, databases: dict[str, str], ways: Mapping[str, Way], directory: Path, say: Callable[[str], None]) -> None:
        self.say = say
        self.ways = ways
        self.coordinator = CoordinatorProcess(
            databases["coordinator"], free_port(), ("--node", "first", "--log-level", "warning")
        )
        self.standby = CoordinatorProcess(databases["coordinator"], free_port(), ("--node", "second", "--log-level", "warning"))
        own = {name: databases[name] for name in SERVICES}
        environment = {
            "TXCOORD_ADDRESS": f"{self.coordinator.address},{self.standby.address}",
            "SHOP_PATIENCE": str(PATIENCE),
        }
        self.services: dict[str, ServiceProcess] = {}
        for name in ("stock", "balance", "order"):
            environment = {**environment, "SHOP_DATABASE": _asynchronous(own[name]), "SHOP_MODE": ways[name].name}
            self.services[name] = ServiceProcess(name, environment, directory / f"{name}.log")
            environment[f"SHOP_{name.upper()}"] = self.services[name].url
        self.ledger = Ledger(own, databases["coordinator"], ways)
        self._operator = Coordinator((self.coordinator.address, self.standby.address), "", None, 10.0)
        self._http = httpx.Client(timeout=60)
        self._told: deque[Answer] = deque(maxlen=3)
        self._customers = ThreadPoolExecutor(CUSTOMERS, "customer")

    def open(self) -> None:
        """Start it all and lay in goods and money."""
        self.coordinator.start()
        for service in self.services.values():
            service.start(wait=False)
        for service in self.services.values():
            service.wait_ready()
        self.ledger.fill(PRODUCTS, ACCOUNTS)

    def close(self) -> None:
        """End it all."""
        self._customers.shutdown()
        self._http.close()
        for service in self.services.values():
            service.stop()
        self.ledger.close()
        self.standby.close()
        self.coordinator.close()

    # ------------------------------------------------------------ customers

    def order(self, customer: str, sku: str, quantity: int = 1, gift: str | None = None) -> Answer:
        """A customer orders and waits for the answer."""
        return self.order_later(customer, sku, quantity, gift)[1].result()

    def order_later(self, customer: str, sku: str, quantity: int = 1, gift: str | None = None) -> tuple[str, Future[Answer]]:
        """A customer orders; returns the order's id and the answer to come."""
        order_id = str(uuid.uuid4())
        body = {"id": order_id, "customer": customer, "sku": sku, "quantity": quantity, "gift": gift}

        def post() -> Answer:
            answer = self._http.post(f"{self.services['order'].url}/orders", json=body)
            self._told.append(Answer(order_id, answer.status_code, answer.text))
            return self._told[-1]

        return order_id, self._customers.submit(post)

    # ------------------------------------------------------------ breaking things

    @contextmanager
    def slow_money(self, customer: str) -> Iterator[None]:
        """Somebody else holds the customer's account: a debit waits until the block is left."""
        with self.ledger.holding(account, customer):
            yield

    @contextmanager
    def slow_money_then_none(self, customer: str) -> Iterator[None]:
        """Somebody else spends all that the customer has: a debit waits until the block is left, and finds that out.

        An account that could not pay anyhow would not do: PostgreSQL does not wait for a row that WHERE does not choose.
        """
        with self.ledger.holding(account, customer, balance=Decimal(0)):
            yield

    def give_back(self, customer: str) -> None:
        """What `slow_money_then_none` has spent."""
        self.ledger.give(customer, ACCOUNTS[customer])

    @contextmanager
    def slow_goods(self, sku: str) -> Iterator[None]:
        """Somebody else holds the product: what the stock service does with it waits until the block is left."""
        with self.ledger.holding(stock, sku):
            yield

    @contextmanager
    def slow_second_phase(self, sku: str, wait_for: Stuck) -> Iterator[None]:
        """Hold up what the stock service does when the transaction is decided, until the block is left."""
        service = self.services["stock"]
        held = {"goods": lambda: self.slow_goods(sku), "process": service.frozen}
        with held.get(wait_for, lambda: self.ledger.holding_undo_records("stock"))():
            yield

    def order_until_goods_move(self, customer: str, sku: str, quantity: int = 1) -> tuple[str, Future[Answer]]:
        """Order, and wait until the stock service has done its phase one and answered; the debit waits for `slow_money`.

        The order is written down after that answer, and before the debit.
        """
        order_id, answer = self.order_later(customer, sku, quantity)
        pending = self.ledger.pending
        wait_until(lambda: answer.done() or (pending("stock") and pending("order")), what="the phases one before the payment's")
        if answer.done():
            raise Unexpected(f"the order came to an end before its payment: {answer.result()}")
        return order_id, answer

    def taking_part(self, order_id: str) -> None:
        """Wait until the stock service has registered its branch; its phase one waits for `slow_goods`."""
        wait_until(lambda: self.ledger.branches(order_id) > 0, what=f"the branch of {order_id}")

    def decided(self, order_id: str, *statuses: str) -> None:
        """Wait until the coordinator has written its decision, by which the transaction is in one of `statuses`."""
        wait_until(lambda: self.ledger.transaction(order_id) in statuses, what=f"the decision on {order_id}")

    # ------------------------------------------------------------ looking

    def moved(self, sku: str, before: Pieces) -> Pieces:
        """How pieces of a product have moved, as others see it."""
        return self.ledger.goods(sku).since(before)

    def expect(self, what: str, kept: bool) -> None:
        """Say what is seen.

        Raises:
            Unexpected: It is not so.
        """
        if not kept:
            raise Unexpected(f"not so: {what}")
        self.say(f"[green]✓[/] {what}")

    def last_words(self) -> str:
        """What customers were told last, and the ends of all logs."""
        told = "\n".join(f"{answer.code}: {answer.text[:500]}" for answer in self._told)
        logs = {"answers": told, "coordinator": self.coordinator.log(), "standby": self.standby.log()}
        logs |= {name: service.log() for name, service in self.services.items()}
        return "\n".join(f"--- {name}\n{log[-2000:]}" for name, log in logs.items() if log)

    def settled(self) -> None:
        """Wait until nothing is under way, or until it is plain that it will not end."""
        wait_until(
            lambda: not (self.ledger.unfinished() or self.ledger.pending()), _SETTLE_SECONDS, "the end of all transactions"
        )

    def broken_promises(self, start: Totals) -> list[str]:
        """What is not as it must be when all orders have ended; empty: goods and money are conserved, and nothing is held.

        Args:
            start: The books when the stage was opened.
        """
        locks = self._operator.call("Locks", LocksRequest(), LocksReply).locks
        return self.ledger.broken_promises(start) + [f"{lock.xid} still holds {lock.key}" for lock in locks]


PRODUCTS = {
    "tea": (Decimal("3.50"), 200),
    "lamp": (Decimal("19.90"), 40),
    "chair": (Decimal("45.00"), 60),
    "pen": (Decimal("0.10"), 400),
    "piano": (Decimal("4999.00"), 1),
    "unicorn": (Decimal("1.00"), 0),
}
ACCOUNTS = {
    "ann": Decimal("1000.00"),
    "bob": Decimal("10.00"),
    "eve": Decimal("100.00"),
    **{f"customer {n}": Decimal("150.00") for n in range(1, CUSTOMERS + 1)},
}


def _asynchronous(url: str) -> str:
    made = make_url(url)
    return made.set(drivername=_ASYNC_DRIVERS[made.get_backend_name()]).render_as_string(hide_password=False)
