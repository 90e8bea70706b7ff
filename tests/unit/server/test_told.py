"""What the engine writes into the log: the exceptional, once, with its XID; nothing of a transaction that goes well."""

from __future__ import annotations

import asyncio
import logging

import pytest
from txcoord_proto.status import BranchType, CommandResult
from txcoord_server.domain.operator import Act, Order
from txcoord_server.domain.requests import NewBranch, NewTransaction
from txcoord_server.engine.connection import Connection, Principal
from txcoord_server.engine.engine import Engine
from txcoord_server.engine.node import Node

from tests.unit.server.books import STOCK
from tests.unit.server.leader import Driver

Lines = list[tuple[str, str, str]]


def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """Level, XID and text of what was logged since the last look."""
    found = [(r.levelname, str(getattr(r, "xid", "")), r.getMessage()) for r in caplog.records]
    caplog.clear()
    return found


@pytest.fixture
def engine(node: Node, caplog: pytest.LogCaptureFixture) -> Engine:
    """An engine whose start is not among the lines."""
    caplog.set_level(logging.INFO)
    caplog.clear()
    assert node.engine is not None
    return node.engine


def stock(engine: Engine) -> Connection:
    connection = Connection(Principal("stock", "stock"), "stock-1")
    engine.attach(connection)
    engine.dispatcher.serve(connection, [STOCK])
    return connection


async def until_decided(engine: Engine, count: int) -> None:
    while sum(engine.counters.decisions.values()) < count:
        await asyncio.sleep(0.01)


async def test_nothing_of_what_goes_well(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    driver, connection = Driver(engine), stock(engine)
    for number in (1, 2, 3):
        xid = await driver.prepared(STOCK)
        await driver.commit(xid)
        engine.done(connection, xid, number)
    await driver.rollback(await driver.prepared())
    assert engine.ledger.by_xid == {}
    assert lines(caplog) == []


async def test_a_decision_that_nobody_asked_for(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    timeout = NewTransaction("place_order", timeout=100)
    xid = engine.transactions.begin("order", timeout, engine.now()).xid
    engine.transactions.register(Driver(engine).ticket(), xid, NewBranch(1, BranchType.TCC, STOCK), engine.now())
    await until_decided(engine, 1)
    ((level, about, text),) = lines(caplog)
    assert (level, about) == ("WARNING", xid)
    assert "ROLLBACK, reason TIMEOUT: place_order of service order" in text


async def test_many_at_once_do_not_flood_the_log(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    driver, until = Driver(engine), engine.now()
    for number in range(1, 101):
        xid = engine.transactions.begin("order", NewTransaction("place_order", timeout=100), until).xid
        engine.transactions.register(driver.ticket(), xid, NewBranch(number, BranchType.TCC, STOCK), until)
    await until_decided(engine, 100)
    found = lines(caplog)
    assert len(found) == 21
    assert found[-1][2].startswith("80 more transactions")


async def test_failures_of_one_branch(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    driver, connection = Driver(engine), stock(engine)
    xid = await driver.prepared(STOCK)
    await driver.commit(xid)
    for _ in range(15):
        engine.failed(connection, xid, 1, CommandResult.RETRY, "DISK_FULL", "no space")
        engine.time += 120_000
        engine.dispatcher.tick()
    found = lines(caplog)
    assert {(level, about) for level, about, _ in found} == {("WARNING", xid)}
    assert [text.split(" failed ")[1] for _, _, text in found] == [
        "1 times, last with DISK_FULL: no space",
        "10 times, last with DISK_FULL: no space",
    ]
    engine.failed(connection, xid, 1, CommandResult.PARK, "NOT_TRIED", "no row")
    ((level, about, text),) = lines(caplog)
    assert (level, about) == ("ERROR", xid)
    assert "parked" in text


async def test_an_operators_act(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver(engine)
    xid = await driver.prepared(STOCK)
    await driver.commit(xid)
    seen = engine.ledger.by_xid[xid].revision
    engine.operator.carry_out(
        driver.ticket(), Order(Act.FORCE_COMMIT, xid, seen, "anna", "stock is counted by hand"), engine.now()
    )
    await engine.fence()
    assert lines(caplog) == [("WARNING", xid, f"FORCE_COMMIT of version {seen} by anna: stock is counted by hand")]


async def test_an_unavailable_resource_is_told_once(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    driver, connection = Driver(engine), stock(engine)
    xids = [await driver.prepared(STOCK) for _ in range(5)]
    for xid in xids:
        await driver.commit(xid)
    for number, xid in enumerate(xids, 1):
        engine.failed(connection, xid, number, CommandResult.UNAVAILABLE, "NO_DATABASE", "refused")
    ((level, about, text),) = lines(caplog)
    assert (level, about) == ("WARNING", xids[0])
    assert text == f"{STOCK} is unavailable and is probed: NO_DATABASE: refused"
    engine.time += 120_000
    engine.dispatcher.tick()
    (probe,) = engine.dispatcher.resources[STOCK].sent[connection]
    engine.done(connection, probe.transaction.xid, probe.branches[0].id)
    ((level, _, text),) = lines(caplog)
    assert (level, text) == ("INFO", f"{STOCK} is available again, 4 second phases wait for it")
