"""What is finished goes at once, without waiting for the collector, which does not look at what a takeover loaded."""

from __future__ import annotations

import gc

from txcoord_server.domain.session import Branch, Transaction
from txcoord_server.engine.connection import Connection, Principal
from txcoord_server.engine.node import Node

from tests.unit.server.books import BALANCE, STOCK
from tests.unit.server.leader import Driver


def kept() -> int:
    return sum(type(thing) in (Transaction, Branch) for thing in gc.get_objects())


async def test_finished_transactions_leave_nothing_behind(node: Node) -> None:
    assert node.engine is not None
    driver, connection = Driver(node.engine), Connection(Principal("all", "all"), "all-1")
    node.engine.attach(connection)
    node.engine.dispatcher.serve(connection, [STOCK, BALANCE])
    gc.collect()
    before = kept()
    gc.disable()
    try:
        for n in range(20):
            xid = await driver.prepared(STOCK, BALANCE)
            await (driver.commit(xid) if n % 2 else driver.rollback(xid))
            for branch in (driver.branch - 1, driver.branch):
                node.engine.done(connection, xid, branch)
        assert connection.take(0) is not None, "commands"
        await node.engine.fence()
        await node.engine.fence()
        assert kept() - before <= 3, "the last one may still be in somebody's hands"
    finally:
        gc.enable()
