"""How many commands a process gets, and of which resources."""

from __future__ import annotations

import random

import pytest
from txcoord_proto.status import BranchType, CommandResult
from txcoord_server.domain.session import Transaction
from txcoord_server.engine.connection import Connection, Principal
from txcoord_server.engine.counters import Counters
from txcoord_server.engine.dispatcher import DispatchConfig, Dispatcher

from tests.unit.server.books import BALANCE, STOCK, Books

WINDOW = 3


class Service:
    """A process that serves two resources and answers when it is told to."""

    def __init__(self) -> None:
        self.books = Books()
        config = DispatchConfig(window=WINDOW)
        self.dispatcher = Dispatcher(self.books.t.settler, config, random.Random(0), lambda: self.books.now, Counters())
        self.connection = self.connect()

    def connect(self, name: str = "service-1") -> Connection:
        connection = Connection(Principal("service", "service"), name)
        self.dispatcher.serve(connection, [STOCK, BALANCE])
        return connection

    def decided(self, *resources: str, commit: bool = True, kind: BranchType = BranchType.TCC) -> Transaction:
        transaction = self.books.prepared(*resources, kind=kind)
        (self.books.commit if commit else self.books.rollback)(transaction.xid)
        self.books.commit_group()
        self.dispatcher.dispatch(transaction)
        return transaction

    def sent(self, resource: str) -> int:
        return len(self.dispatcher.resources[resource].sent[self.connection])

    def named(self, resource: str) -> list[list[int]]:
        """Branches of each command that is under way."""
        return [[branch.id for branch in work.branches] for work in self.dispatcher.resources[resource].sent[self.connection]]

    def later(self, transaction: Transaction) -> None:
        """The time of the first of its next tries has come."""
        self.books.now = min(branch.next_try_at for branch in transaction.branches if branch.next_try_at)
        self.dispatcher.tick()


@pytest.fixture
def service() -> Service:
    return Service()


def test_a_resource_that_does_not_answer_holds_up_no_other_of_the_same_process(service: Service) -> None:
    for _ in range(2 * WINDOW):
        service.decided(STOCK)
    assert service.sent(STOCK) == WINDOW, "the rest waits here, and not in the process"
    paid = service.decided(BALANCE)
    assert service.sent(BALANCE) == 1
    service.dispatcher.done(paid.branches[0])
    assert (service.sent(STOCK), service.sent(BALANCE)) == (WINDOW, 0)


def test_each_answer_makes_room_for_the_next(service: Service) -> None:
    transactions = [service.decided(STOCK) for _ in range(2 * WINDOW)]
    for transaction in transactions:
        service.dispatcher.done(transaction.branches[0])
    assert service.sent(STOCK) == 0
    assert service.dispatcher.resources[STOCK].waiting == 0
    assert not service.books.t.ledger.by_xid


def test_what_a_lost_process_had_goes_to_the_next_in_its_order(service: Service) -> None:
    transactions = [service.decided(STOCK) for _ in range(2 * WINDOW)]
    service.dispatcher.detach(service.connection)
    assert service.dispatcher.resources[STOCK].waiting == 2 * WINDOW
    service.connection = service.connect()
    first = [work.transaction for work in service.dispatcher.resources[STOCK].sent[service.connection]]
    assert first == transactions[:WINDOW]


def test_a_command_that_nobody_answers_goes_out_again_later(service: Service) -> None:
    (branch,) = service.decided(STOCK).branches
    service.books.now += DispatchConfig().answer_timeout
    service.dispatcher.tick()
    assert (service.sent(STOCK), branch.error_code, branch.attempts) == (0, "NO_ANSWER", 1)
    service.books.now = branch.next_try_at
    service.dispatcher.tick()
    assert (service.sent(STOCK), branch.attempts) == (1, 2)


def test_branches_whose_rollback_failed_are_tried_again_in_one_command(service: Service) -> None:
    transaction = service.decided(STOCK, STOCK, STOCK, BALANCE, commit=False)
    first, second, third, _ = transaction.branches
    assert service.named(STOCK) == [[third.id, second.id, first.id]]
    service.dispatcher.failed(third, CommandResult.RETRY, "DEADLOCK", "")
    service.dispatcher.done(second)
    service.dispatcher.failed(first, CommandResult.RETRY, "DEADLOCK", "")
    assert (service.named(STOCK), service.sent(BALANCE)) == ([], 1)
    service.later(transaction)
    assert service.named(STOCK) == [[third.id, first.id]]
    assert (third.attempts, first.attempts) == (2, 2)
    service.dispatcher.done(third)
    service.dispatcher.done(first)
    assert service.dispatcher.resources[STOCK].in_flight == 0
    service.books.now += 60_000
    service.dispatcher.tick()
    assert (service.sent(STOCK), service.dispatcher.resources[STOCK].waiting) == (0, 0)


def test_a_rollback_that_nobody_answers_goes_out_again_in_one_command(service: Service) -> None:
    transaction = service.decided(STOCK, STOCK, commit=False)
    service.books.now += DispatchConfig().answer_timeout
    service.dispatcher.tick()
    assert service.dispatcher.resources[STOCK].in_flight == 0
    service.later(transaction)
    assert service.named(STOCK) == [[branch.id for branch in reversed(transaction.branches)]]


def test_what_a_lost_process_had_of_a_rollback_goes_out_with_what_failed(service: Service) -> None:
    transaction = service.decided(STOCK, STOCK, commit=False)
    service.dispatcher.failed(transaction.branches[1], CommandResult.RETRY, "DEADLOCK", "")
    service.dispatcher.detach(service.connection)
    service.connection = service.connect()
    assert service.named(STOCK) == [[branch.id for branch in reversed(transaction.branches)]]


def test_a_commit_that_fails_holds_up_no_other_branch(service: Service) -> None:
    transaction = service.decided(STOCK, STOCK)
    for branch in transaction.branches:
        service.dispatcher.failed(branch, CommandResult.RETRY, "DEADLOCK", "")
    for _ in transaction.branches:
        service.later(transaction)
    assert sorted(service.named(STOCK)) == [[branch.id] for branch in transaction.branches]


@pytest.mark.parametrize("commit", [True, False])
def test_an_xa_branch_is_first_sent_to_the_process_that_prepared_it(service: Service, commit: bool) -> None:
    connections = [service.connection, service.connect("service-2"), service.connect("service-3")]
    for connection in 3 * connections:
        service.books.caller.name = connection.name
        (branch,) = service.decided(STOCK, commit=commit, kind=BranchType.XA).branches
        assert branch.executor == connection.name
        service.dispatcher.failed(branch, CommandResult.RETRY, "STILL_PREPARED", "")
        service.books.now = branch.next_try_at
        service.dispatcher.tick()
        assert branch.attempts == 2
        service.dispatcher.done(branch)


def test_a_command_with_xa_branches_of_two_processes_goes_to_both(service: Service) -> None:
    service.connect("service-2")
    transaction = service.books.begin()
    for name in ("service-1", "service-2"):
        service.books.caller.name = name
        _, branch_id = service.books.register(transaction.xid, STOCK, BranchType.XA)
        service.books.report(transaction.xid, branch_id)
    service.books.rollback(transaction.xid)
    service.books.commit_group()
    service.dispatcher.dispatch(transaction)
    asked = []
    for _ in range(2):
        asked.append({branch.executor for branch in transaction.branches})
        for branch in transaction.branches:
            service.dispatcher.failed(branch, CommandResult.RETRY, "STILL_PREPARED", "")
        service.later(transaction)
    assert asked == [{"service-2"}, {"service-1"}]


def test_of_xa_branches_whose_process_is_gone_any_other_does_the_second_phase(service: Service) -> None:
    service.books.caller.name = "service-2"
    (branch,) = service.decided(STOCK, kind=BranchType.XA).branches
    assert branch.executor == "service-1"
