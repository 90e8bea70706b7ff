"""A coordinator for the tests of a module, a client of it for each test, and a participant that writes down what it does."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from txcoord_proto.status import BranchType, PhaseOne
from txcoord_sdk import Client, ClientConfig, GlobalTransaction
from txcoord_sdk.participant import BranchCommand, Command
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.testing import CoordinatorProcess


@dataclass(eq=False)
class Ledger:
    """Does second phases by writing them down; synchronous.

    Attributes:
        resource: Its name.
        settled: How often which branch was done, and how: (XID, branch id, commit).
        failures: Raised, one a call, before anything is done.
        gate: While it is closed, second phases wait.
    """

    resource: str = "stock:reserve@1"
    database: None = None
    settled: Counter[tuple[str, int, bool]] = field(default_factory=Counter)
    failures: list[Exception] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def is_async(self, command: Command) -> bool:
        """See `Participant.is_async`."""
        return False

    def settle(self, command: Command, branch: BranchCommand) -> None:
        """See `Participant.settle`."""
        self.threads.add(threading.current_thread().name)
        assert self.gate.wait(20)
        if self.failures:
            raise self.failures.pop(0)
        self.settled[command.xid, branch.branch_id, command.commit] += 1

    def ends(self, xid: str) -> list[bool]:
        """How the branches of a transaction ended, once each."""
        return [commit for (known, _, commit) in sorted(self.settled) if known == xid]


def registration(ledger: Ledger, *locks: str, lock_wait: float = 0.0) -> Registration:
    """A branch at `ledger`."""
    return Registration(BranchType.TCC, ledger.resource, locks, b"{}", lock_wait)


def take_part(transaction: GlobalTransaction, ledger: Ledger, result: PhaseOne = PhaseOne.DONE) -> int:
    """A branch whose phase one is done."""
    branch_id = transaction.register(registration(ledger))
    transaction.report(branch_id, result)
    return branch_id


async def atake_part(transaction: GlobalTransaction, ledger: Ledger, result: PhaseOne = PhaseOne.DONE) -> int:
    """A branch whose phase one is done."""
    branch_id = await transaction.aregister(registration(ledger))
    transaction.report(branch_id, result)
    return branch_id


@pytest.fixture(scope="module")
def coordinator() -> Iterator[CoordinatorProcess]:
    """A coordinator for all tests of a module."""
    with CoordinatorProcess() as process:
        yield process


@pytest.fixture
def client(coordinator: CoordinatorProcess) -> Iterator[Client]:
    """A client of that coordinator."""
    made = Client(ClientConfig("order", (coordinator.address,)))
    yield made
    made.close()


@pytest.fixture
def ledger(client: Client) -> Ledger:
    """A participant that the client serves."""
    made = Ledger()
    client.serve(made.resource, made)
    return made
