"""Coordinator, two banks and a teller as processes, on databases of one kind; looked at when all is quiet."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
from sqlalchemy import Connection, Engine, create_engine, make_url, text
from txcoord_proto.failpoints import Mode
from txcoord_sdk import Client, ClientConfig
from txcoord_sdk.testing import wait_until

from tests.chaos import invariants
from tests.chaos.child import Child, Coordinator, Failpoints
from tests.chaos.matrix import SURVIVED
from tests.chaos.tables import TABLES
from tests.servers import free_port

BANKS = ("east", "west")
CAPITAL = 2_000_000
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
_PATIENCE = 30.0
_WAVE = 3


class Mortal(Protocol):
    """A process that can be told to kill itself."""

    name: str
    failpoints: Failpoints

    @property
    def dead(self) -> bool:
        """Whether it has."""

    def start(self) -> None:
        """Start it; returns when it is ready."""

    def end(self) -> None:
        """Kill it."""

    def restart(self) -> None:
        """Start it again without failpoints."""

    def log(self) -> str:
        """What it has logged."""


class Driven(Protocol):
    """A world in which transfers run."""

    def drive(self, reached: Callable[[], bool], then: Callable[[], None]) -> None:
        """Let transfers run until something is reached, then do what is to be done; every transfer ends."""

    def check(self) -> None:
        """Let a transfer succeed, wait until all is quiet, and look at everything."""


def engine_of(url: str) -> Engine:
    """An engine of ours on a database of the world's."""
    parsed = make_url(url)
    return create_engine(parsed.set(drivername=_DRIVERS[parsed.get_backend_name()]), pool_pre_ping=True)


def database_of(url: str, create: Callable[[Connection], None]) -> Engine:
    """A database of the world's with its tables."""
    engine = engine_of(url)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.execute(text("PRAGMA journal_mode = WAL"))
        create(connection)
    return engine


def create_bank(url: str) -> Engine:
    """A bank's database."""

    def create(connection: Connection) -> None:
        for statement in TABLES:
            connection.execute(text(statement))

    return database_of(url, create)


def under_traffic(world: Driven, victim: Mortal, point: str, mode: str, nth: int = 1) -> None:
    """The victim reaches the failpoint while transfers run, and either dies and is restarted or goes on."""
    if mode == SURVIVED:
        said = victim.log().count(f"failpoint {point}, {Mode.UNKNOWN}")
        victim.failpoints.set(f"{point}=unknown:error@{nth}")
        world.drive(lambda: victim.log().count(f"failpoint {point}, {Mode.UNKNOWN}") > said, lambda: victim.failpoints.set(""))
    else:
        victim.failpoints.set(f"{point}={mode}:kill@{nth}")
        world.drive(lambda: victim.dead, victim.restart)
    world.check()


@dataclass(slots=True)
class Order:
    """A transfer, and what is known of it."""

    number: int
    xid: str = ""
    step: str = ""
    told: str = ""
    lost: bool = field(default=False)
    """Its teller was killed."""


class World:
    """See the module.

    Args:
        store: SQLAlchemy URL of the coordinator's database, empty.
        banks: Of the banks', empty.
        directory: For files.
    """

    def __init__(self, store: str, banks: list[str], directory: Path) -> None:
        self.coordinator = Coordinator(store, directory)
        self.coordinator.start()
        self.store = engine_of(store)
        self.databases = {name: create_bank(url) for name, url in zip(BANKS, banks, strict=True)}
        address = self.coordinator.server.address
        self.ports = {name: free_port() for name in BANKS}
        self.banks: dict[str, Child] = {}
        for name, engine in self.databases.items():
            url = engine.url.render_as_string(hide_password=False)
            arguments = ("tests.chaos.bank", name, url, address, str(self.ports[name]))
            self.banks[name] = Child(name, arguments, directory, self.ports[name], spare=True)
        self.teller = Child("teller", ("tests.chaos.teller", address), directory, spare=True)
        self.orders: dict[int, Order] = {}
        self._decided: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._reader: threading.Thread | None = None
        self._client: Client | None = None
        for child in (*self.banks.values(), self.teller):
            child.start()
        self._listen()

    def close(self) -> None:
        """End all."""
        if self._client is not None:
            self._client.close()
        for child in (self.teller, *self.banks.values()):
            child.close()
        self.coordinator.server.close()
        for engine in (self.store, *self.databases.values()):
            engine.dispose()

    # ------------------------------------------------------------ transfers

    def _listen(self) -> None:
        self._reader = threading.Thread(target=self._read, args=(self.teller.process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, lines: Any) -> None:
        for line in lines:
            said = json.loads(line)
            order = self.orders[said.pop("id")]
            for name, value in said.items():
                setattr(order, name, value)

    def url(self, name: str) -> str:
        """Where a bank answers."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def send(self, abandon: bool = False, die: str = "", timeout: float = 8.0, pause: float = 0.0) -> Order:
        """Have the teller begin a transfer, in the one direction or the other."""
        order = Order(next(self._numbers))
        self.orders[order.number] = order
        source, target = BANKS if order.number % 2 else BANKS[::-1]
        what = {
            "id": order.number,
            "source": self.url(source),
            "target": self.url(target),
            "amount": order.number,
            "abandon": abandon,
            "die": die,
            "timeout": timeout,
            "pause": pause,
        }
        self.teller.say(json.dumps(what))
        return order

    def told(self, *orders: Order) -> None:
        """Wait until the teller was told of these."""
        wait_until(lambda: all(order.told for order in orders), _PATIENCE, f"the end of {orders}")

    def drive(self, reached: Callable[[], bool], then: Callable[[], None]) -> None:
        """Let transfers run until something is reached, then do what is to be done; every transfer ends."""
        until, sent = time.monotonic() + _PATIENCE, list[Order]()
        while not reached():
            if len([order for order in sent if not order.told]) < _WAVE:
                sent.append(self.send(abandon=len(sent) % 2 == 1))
            time.sleep(0.005)
            assert time.monotonic() < until, "never reached"
        then()
        self.told(*sent)

    # ------------------------------------------------------------ the teller's death

    def teller_dies(self, step: str, abandon: bool) -> Order:
        """A transfer whose teller dies at a step; `asked`: when the decision is made, and not told since a bank is slow."""
        asked = step == "asked"
        order = self.send(abandon, "" if asked else step, 8.0 if asked else 1.0, 0.5 if asked else 0.0)
        if asked:
            wait_until(lambda: order.xid and invariants.decision(self.store, order.xid), what="the decision")
            assert not order.told
            self.teller.process.kill()
        wait_until(lambda: self.teller.dead, what=f"the teller's death at {step!r}")
        order.lost = True
        self.teller.end()
        self.teller.start()
        self._listen()
        return order

    # ------------------------------------------------------------ quiet

    def client(self) -> Client:
        """A client of this process."""
        if self._client is None:
            self._client = Client(ClientConfig("inspector", (self.coordinator.server.address,)))
        return self._client

    def check(self) -> None:
        """Let a transfer succeed, wait until all is quiet, and look at everything."""
        last = self.send()
        self.told(last)
        assert last.told == "COMMIT", (last, self.coordinator.log(), [bank.log() for bank in self.banks.values()])
        wait_until(lambda: invariants.unfinished(self.store) == 0, _PATIENCE, "the end of all transactions")
        told = {order.xid: order.told for order in self.orders.values() if order.xid and not order.lost}
        assert all(told.values())
        invariants.check(self.store, self.databases, CAPITAL, told, self._decided)

    def purge(self, name: str) -> bool:
        """Have a bank remove fence rows; whether it answered that it has."""
        try:
            return httpx.post(f"{self.url(name)}/purge", timeout=10).is_success
        except httpx.TransportError:
            return False


@contextmanager
def world(store: str, banks: list[str], directory: Path) -> Iterator[World]:
    """One, for the length of a block."""
    made = World(store, banks, directory)
    try:
        yield made
    finally:
        made.close()
