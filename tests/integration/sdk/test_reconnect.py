"""The stream breaks at any point, the coordinator dies and comes back, or is succeeded: all that callers notice is the time."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from txcoord_proto.status import PhaseOne
from txcoord_sdk import Client, ClientConfig, tcc
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.sdk.conftest import Ledger, registration, take_part
from tests.servers import Direction, TcpProxy

MOVE = "UPDATE stock SET free = free - :free, reserved = reserved + :reserved, sold = sold + :sold"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database with 100,000 goods."""
    engine = create_engine(f"sqlite:///{tmp_path}/stock.db", connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _fast(raw: object, record: object) -> None:
        raw.execute("PRAGMA synchronous = OFF")  # type: ignore[attr-defined]  # sqlite3's connection

    with engine.begin() as c:
        c.execute(text("PRAGMA journal_mode = WAL"))
        c.execute(text("CREATE TABLE stock (free int, reserved int, sold int)"))
        c.execute(text("INSERT INTO stock VALUES (100000, 0, 0)"))
    yield engine
    engine.dispose()


def order_of(client: Client, engine: Engine) -> Callable[[], None]:
    """A business operation with two branches in one database, behind the fence."""
    client.bind(engine)

    @tcc("reserve", client=client)
    def reserve(conn: Connection, quantity: int) -> None:
        conn.execute(text(MOVE), {"free": quantity, "reserved": quantity, "sold": 0})

    @reserve.confirm
    def _confirm(conn: Connection, quantity: int) -> None:
        conn.execute(text(MOVE), {"free": 0, "reserved": -quantity, "sold": quantity})

    @reserve.cancel
    def _cancel(conn: Connection, quantity: int) -> None:
        conn.execute(text(MOVE), {"free": -quantity, "reserved": -quantity, "sold": 0})

    @client.global_transaction(timeout=60)
    def order() -> None:
        reserve(1)
        reserve(2)

    return order


def check(engine: Engine, orders: int) -> None:
    """All orders were sold, once each, and nothing else happened."""

    def row() -> tuple[int, ...]:
        with engine.connect() as c:
            return tuple(c.execute(text("SELECT free, reserved, sold FROM stock")).one())

    wait_until(lambda: row()[1] == 0, 30, "the last confirm")
    assert row() == (100_000 - 3 * orders, 0, 3 * orders)
    with engine.connect() as c:
        states = dict(tuple(r) for r in c.execute(text("SELECT state, count(*) FROM txcoord_fence GROUP BY state")))
    assert states == {"CONFIRMED": 2 * orders}


@pytest.mark.parametrize("direction", list(Direction), ids=["to server", "to client"])
def test_the_stream_is_cut_at_many_points_of_one_order(
    coordinator: CoordinatorProcess, engine: Engine, direction: Direction
) -> None:
    points = range(0, 900, 30)
    with TcpProxy(coordinator.address) as proxy, Client(ClientConfig("stock", (proxy.url,))) as client:
        order = order_of(client, engine)
        order()
        for point in points:
            proxy.cut_after(point, direction)
            order()
        cuts = sum(link.was_cut for link in proxy.traffic())
        check(engine, 1 + len(points))
    assert cuts > len(points) // 3


def test_the_stream_is_cut_again_and_again_under_load(coordinator: CoordinatorProcess, engine: Engine) -> None:
    chance, orders, workers = random.Random(7), 30, 4
    failures: list[BaseException] = []
    with TcpProxy(coordinator.address) as proxy, Client(ClientConfig("stock", (proxy.url,))) as client:
        order = order_of(client, engine)

        def work() -> None:
            try:
                for _ in range(orders):
                    order()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(workers)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            proxy.cut_after(chance.randrange(4000), chance.choice(list(Direction)))
            threads[0].join(0.1)
        for thread in threads:
            thread.join()
        assert failures == []
        assert sum(link.was_cut for link in proxy.traffic()) >= 5
        check(engine, workers * orders)


@pytest.mark.parametrize("moment", ["before begin", "registered", "reported", "both reported"])
def test_the_coordinator_is_killed_and_comes_back(moment: str) -> None:
    with CoordinatorProcess() as coordinator, Client(ClientConfig("order", (coordinator.address,))) as client:
        ledger = Ledger()
        client.serve(ledger.resource, ledger)
        assert client.wait_connected()

        def restart_at(reached: str) -> None:
            if reached == moment:
                coordinator.kill()
                coordinator.start()

        with client.global_transaction() as transaction:
            restart_at("before begin")
            branch_id = transaction.register(registration(ledger))
            restart_at("registered")
            transaction.report(branch_id, PhaseOne.DONE)
            restart_at("reported")
            take_part(transaction, ledger)
            restart_at("both reported")
        assert ledger.ends(transaction.known_xid) == [True, True]


def test_a_standby_takes_over_under_load(engine: Engine) -> None:
    orders, done = 60, threading.Event()
    with ExitStack() as stack:
        first = stack.enter_context(CoordinatorProcess())
        second = stack.enter_context(CoordinatorProcess(first.store))
        client = stack.enter_context(Client(ClientConfig("stock", (first.address, second.address))))
        order = order_of(client, engine)

        def kill() -> None:
            done.wait(0.7)
            first.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        for _ in range(orders):
            order()
        done.set()
        killer.join()
        for _ in range(5):
            order()
        check(engine, orders + 5)


def test_second_phases_wait_for_a_process_and_find_a_new_one(coordinator: CoordinatorProcess) -> None:
    ledger, successor = Ledger("stock:waiting@1"), Ledger("stock:waiting@1")
    with Client(ClientConfig("order", (coordinator.address,))) as client:
        with client.global_transaction() as transaction:
            take_part(transaction, ledger)
        assert not transaction.settled
        assert client.status(transaction.known_xid).status == 2  # COMMITTING
    with Client(ClientConfig("stock", (coordinator.address,))) as client:
        client.serve(successor.resource, successor)
        wait_until(lambda: successor.ends(transaction.known_xid) == [True], what="the commit by another process")
