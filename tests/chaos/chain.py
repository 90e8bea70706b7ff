"""Offices of a bank with a database of another kind each, a coordinator, and clients that move money between them.

Offices and coordinator are processes that can be killed; the clients are threads of the test.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import requests
from click.testing import CliRunner
from sqlalchemy import text
from txcoord_proto.errors import RolledBackError, TxcoordError
from txcoord_proto.v1.operator_pb2 import LocksReply, LocksRequest
from txcoord_sdk import Client, ClientConfig
from txcoord_sdk.carriers.requests import TransactionAdapter
from txcoord_sdk.testing import free_port, wait_until
from txcoord_server.cli import main as commands
from txcoord_server.commands.coordinator import Coordinator as Operator

from tests.chaos import audit, invariants
from tests.chaos.audit import Leg, Transfer
from tests.chaos.child import Child, Coordinator
from tests.chaos.tables import ACCOUNTS, create_office
from tests.chaos.world import Mortal, database_of, engine_of

CLIENTS = 32
TIMEOUT = 8.0
"""Seconds that a transfer may take."""
WAYS = ("known", "unknown", "savepoint", "twice", "alone", "vault")
"""How money is moved where the engine is enrolled in AT mode."""
POSSIBLE = {"postgres": (*WAYS, "read", "xa"), "mariadb": WAYS, "sqlite": WAYS, "mariadb-xa": ("xa", "vault")}
"""By office: MariaDB does not mix AT and XA in one database, SQLite prepares nothing."""
PAUSE = 0.3
"""Seconds for which a client leaves an office alone that does not answer."""
_PATIENCE = 40.0
_WAVE = 4


class AbandonedError(Exception):
    """The customer changes his mind."""


class Chain:
    """See the module.

    Args:
        store: SQLAlchemy URL of the coordinator's database, empty.
        offices: URLs of the offices' databases by name, empty.
        directory: For files.
        seed: Of what is random.
    """

    def __init__(self, store: str, offices: dict[str, str], directory: Path, seed: int) -> None:
        self.coordinator = Coordinator(store, directory)
        self.coordinator.start()
        address = self.coordinator.server.address
        self.store = engine_of(store)
        self.databases = {name: database_of(url, create_office) for name, url in offices.items()}
        self.offices: dict[str, Child] = {}
        self._urls: dict[str, str] = {}
        for name, engine in self.databases.items():
            port = free_port()
            url = engine.url.render_as_string(hide_password=False)
            self._urls[name] = f"http://127.0.0.1:{port}"
            arguments = ("tests.chaos.office", f"office-{name}", url, address, str(port))
            self.offices[name] = Child(f"office-{name}", arguments, directory, port, spare=True)
            self.offices[name].start()
        self.chance = random.Random(seed)
        self.favoured = ""
        """A way that is taken wherever an office has it; empty: all are."""
        self.transfers: list[Transfer] = []
        self._numbers = itertools.count(1)
        self._client = Client(ClientConfig("customers", (address,)))
        self._operator = Operator((address,), "", None, 10.0)
        self._pool = ThreadPoolExecutor(CLIENTS)

    def close(self) -> None:
        """End all."""
        self._pool.shutdown(cancel_futures=True)
        self._client.close()
        for child in self.offices.values():
            child.close()
        self.coordinator.server.close()
        for engine in (self.store, *self.databases.values()):
            engine.dispose()

    def mortals(self) -> list[Mortal]:
        """All that can be killed."""
        return [self.coordinator, *self.offices.values()]

    # ------------------------------------------------------------ transfers

    def order(self, abandon: bool | None = None, ways: tuple[str, ...] = ()) -> Transfer:
        """A random transfer; one in four rolls back, at the first write, at the second office's or at the end."""
        chance = self.chance
        names, amount = chance.sample(list(self.databases), 2), chance.randrange(1, 200)
        ends_badly = chance.random() < 0.25 if abandon is None else abandon
        place = chance.randrange(3) if ends_badly and abandon is None else 2
        legs = []
        for nth, (name, signed) in enumerate(zip(names, (-amount, amount), strict=True)):
            every = POSSIBLE[name]
            possible = ways or ((self.favoured,) if self.favoured in every else every)
            fails = ends_badly and nth == place
            legs.append(Leg(name, chance.choice(possible), chance.randrange(1, ACCOUNTS + 1), signed, fails))
        transfer = Transfer(next(self._numbers), (legs[0], legs[1]), ends_badly and place == 2)
        self.transfers.append(transfer)
        return transfer

    def send(self, transfer: Transfer) -> Future[None]:
        """Have one of the clients do it."""
        return self._pool.submit(self._do, transfer)

    def _do(self, transfer: Transfer) -> None:
        try:
            self._move(transfer)
        except (AbandonedError, RolledBackError, requests.RequestException) as error:
            transfer.told, transfer.why = "ROLLBACK", repr(error)
        except TxcoordError as error:
            transfer.told = repr(error)
        else:
            transfer.told = "COMMIT"
        if "ConnectionError" in transfer.why:
            time.sleep(PAUSE)

    def _move(self, transfer: Transfer) -> None:
        with requests.Session() as http, self._client.global_transaction(timeout=TIMEOUT, name="transfer") as transaction:
            http.mount("http://", TransactionAdapter())
            transfer.xid = transaction.xid()
            for leg in transfer.legs:
                self._ask(http, leg, transfer.number, transfer.xid)
            if transfer.abandon:
                raise AbandonedError

    def _ask(self, http: requests.Session, leg: Leg, number: int, xid: str) -> None:
        asked = {"number": number, "xid": xid, "account": leg.account, "amount": leg.amount, "fails": leg.fails}
        params = {name: str(value) for name, value in asked.items()}
        answer = http.post(f"{self._urls[leg.office]}/{leg.how}", params=params, timeout=TIMEOUT + 2)
        if not answer.ok:
            raise requests.HTTPError(f"{answer.status_code} {answer.text}")

    def parked(self, office: str) -> str:
        """A transaction whose rollback at an office is parked, since a clerk has written over its row; gives its XID."""
        with (
            contextlib.suppress(AbandonedError),
            requests.Session() as http,
            self._client.global_transaction(timeout=TIMEOUT, name="parked") as transaction,
        ):
            http.mount("http://", TransactionAdapter())
            xid = transaction.xid()
            self._ask(http, Leg(office, "known", 1, 5), -next(self._numbers), xid)
            self._clerk(office, "UPDATE account SET balance = balance + 1 WHERE id = 1")
            raise AbandonedError
        wait_until(lambda: self.status(xid) == "PARKED", _PATIENCE, f"that {xid} is parked")
        return xid

    def put_right(self, office: str, xid: str) -> None:
        """The clerk brings in order by hand what a parked transaction, and he himself, have written."""
        self._clerk(office, "UPDATE account SET balance = balance - 6 WHERE id = 1", f"DELETE FROM ledger WHERE xid = '{xid}'")

    def _clerk(self, office: str, *statements: str) -> None:
        with self.databases[office].begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def status(self, xid: str) -> str:
        """What the coordinator's row says."""
        return str(invariants.rows(self.store, f"SELECT status FROM txc_global WHERE xid = '{xid}'")[0][0])

    def retry(self, xid: str) -> None:
        """A person has the coordinator try again."""
        words = ["retry", xid, "--address", self.coordinator.server.address, "--yes"]
        done = CliRunner().invoke(commands, words)
        assert done.exit_code == 0, done.output

    def drive(self, reached: Callable[[], bool], then: Callable[[], None]) -> None:
        """See `Driven.drive`."""
        until, sent = time.monotonic() + _PATIENCE, list[Future[None]]()
        while not reached():
            if len([each for each in sent if not each.done()]) < _WAVE:
                sent.append(self.send(self.order(abandon=len(sent) % 2 == 1)))
            time.sleep(0.005)
            assert time.monotonic() < until, "never reached"
        then()
        for each in sent:
            each.result()

    # ------------------------------------------------------------ quiet

    def check(self) -> None:
        """See `Driven.check`."""
        self.settle()
        for _ in range(3):  # once from each to another
            last = self.order(abandon=False, ways=("known",))
            self.send(last).result()
            assert last.told == "COMMIT" or "there is not enough" in last.why, (last, self.logs())
        self.settle()
        audit.check(self.store, self.databases, self.transfers)

    def settle(self) -> None:
        """Wait until all has ended, and no lock is left.

        Raises:
            TimeoutError: Something does not; what it is, is in the text.
        """
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: invariants.unfinished(self.store) == 0 and self.locks() == [], _PATIENCE)
        query = (
            "SELECT g.xid, g.status, g.decision, g.reason, b.id, b.resource, b.status, b.attempts, b.error FROM txc_global g "
            "LEFT JOIN txc_branch b ON b.xid = g.xid WHERE g.status NOT IN ('COMMITTED', 'ROLLED_BACK')"
        )
        left, held = invariants.rows(self.store, query), self.locks()
        if left or held:
            known = f"{left} {held}"
            orders = [transfer for transfer in self.transfers if transfer.xid and transfer.xid in known]
            raise TimeoutError(f"this does not end: {left}, locks {held}, {orders}, {self.logs()}")

    def locks(self) -> list[str]:
        """What is locked at the coordinator."""
        held = []
        for engine in self.databases.values():
            ((identity,),) = invariants.rows(engine, "SELECT id FROM txcoord_database")
            held += [
                str(lock) for lock in self._operator.call("Locks", LocksRequest(resource=f"db@{identity}"), LocksReply).locks
            ]
        return held

    def logs(self) -> str:
        """The ends of what all have logged."""
        return "\n".join(f"--- {mortal.name}\n{mortal.log()[-2000:]}" for mortal in self.mortals())


@contextmanager
def chain(store: str, offices: dict[str, str], directory: Path, seed: int) -> Iterator[Chain]:
    """One, for the length of a block."""
    made = Chain(store, offices, directory, seed)
    try:
        yield made
    finally:
        made.close()
