"""How many commands a process gets, and of which resources."""

from __future__ import annotations

import random

import pytest
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

    def connect(self) -> Connection:
        connection = Connection(Principal("service", "service"), "service-1")
        self.dispatcher.serve(connection, [STOCK, BALANCE])
        return connection

    def decided(self, resource: str) -> Transaction:
        transaction = self.books.prepared(resource)
        self.books.commit(transaction.xid)
        self.books.commit_group()
        self.dispatcher.dispatch(transaction)
        return transaction

    def sent(self, resource: str) -> int:
        return len(self.dispatcher.resources[resource].sent[self.connection])


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
