"""How a leader ends: told to, or because of a defect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from txcoord_proto.errors import ProtocolError, TxcoordError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_server.domain.answers import OK, Refused
from txcoord_server.engine.connection import Connection, Principal
from txcoord_server.engine.engine import Engine
from txcoord_server.engine.node import Moved, Node
from txcoord_server.engine.ports import SystemClock
from txcoord_server.rpc.auth import Authenticator
from txcoord_server.rpc.service import _tell
from txcoord_server.rpc.session import Session
from txcoord_server.store.sql_store import SqlStore

from tests.unit.server.books import STOCK
from tests.unit.server.leader import Driver, make_node


def opened(node: Node) -> Session:
    """A stream that is open."""

    def never(engine: Engine, connection: Connection, request_id: int, question: object) -> None:
        raise AssertionError("nothing here reads the store")

    authenticator = Authenticator(always=False)
    authenticator.load([])
    session = Session(node, authenticator, 0, never)
    hello = pb.Hello(protocol_min=1, protocol_max=1, service="order", resources=[STOCK])
    session.open(pb.ClientBatch(requests=[pb.Request(id=1, hello=hello)]))
    return session


async def defect_of(node: Node) -> None:
    """Wait until a defect has cost the node an epoch."""
    async with asyncio.timeout(20):
        while not node.counters.defects:
            await asyncio.sleep(0.01)


async def test_it_stops_while_requests_keep_coming(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as writer:
        node = make_node(tmp_path, writer)
        assert isinstance(node._store, SqlStore)
        # A slow disk, so that commits are written in the writer's thread, while others gather.
        node._store._writer._disk.wait = float("inf")
        running = asyncio.ensure_future(node.run())
        await node.placed.wait()
        engine = node.engine
        assert engine is not None
        before = engine.commit_seq

        driver = Driver(engine)

        async def keep_asking() -> None:
            while True:
                for _ in range(100):  # more than are always written in the engine's thread
                    engine.ledger.answer(driver.ticket(), OK)
                engine.flush()
                await asyncio.sleep(0)

        asking = asyncio.ensure_future(keep_asking())
        while engine.commit_seq < before + 5:
            await asyncio.sleep(0)
        node.stop()
        await asyncio.wait_for(running, 20)
        asking.cancel()
        assert driver.caller.told


async def test_it_does_not_begin_to_lead_when_it_is_told_to_stop_while_it_loads(tmp_path: Path) -> None:
    @contextmanager
    def stopped_meanwhile() -> Iterator[None]:
        yield
        node.stop()

    node = make_node(tmp_path, around_load=stopped_meanwhile)
    await asyncio.wait_for(node.run(), 20)
    assert not node.placed.is_set()


@pytest.mark.parametrize("step", ["report", "done"])
async def test_a_defect_in_a_step_that_comes_by_column_ends_the_engine(
    step: str, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = node.engine
    assert engine is not None
    xid = await Driver(engine).prepared(STOCK)
    session = opened(node)

    def broken(*args: object) -> NoReturn:
        raise KeyError("a defect")

    owner: object = engine.transactions if step == "report" else engine
    monkeypatch.setattr(owner, step, broken)
    reported = pb.ClientBatch(reported_xids=[xid], reported_branches=[1])
    done = pb.ClientBatch(done_xids=[xid], done_branches=[1])
    with pytest.raises(KeyError):
        session.receive(reported if step == "report" else done)
    await defect_of(node)


async def test_columns_of_different_lengths_change_nothing(node: Node) -> None:
    engine, session = node.engine, opened(node)
    assert engine is not None
    with pytest.raises(ProtocolError, match="different lengths"):
        session.receive(pb.ClientBatch(done_xids=["x"]))
    await engine.fence()
    assert node.counters.defects == 0


async def test_streams_are_told_of_a_defect_before_the_pause_after_it(node: Node) -> None:
    engine = node.engine
    assert engine is not None
    node._pause, node._failed_at = 1.0, SystemClock().monotonic()  # so that the pause is two seconds
    connection = Connection(Principal("all", "all"), "all-1")
    engine.attach(connection)
    began = time.monotonic()
    engine.fail(RuntimeError("a defect"))
    await connection.sendable.wait()
    assert time.monotonic() - began < 1.5
    taken = connection.take(0)
    assert taken is not None
    assert [type(event) for _, event in taken.events] == [Moved]
    with pytest.raises(TxcoordError, match="stopped leading"):
        engine.call()


async def test_a_question_that_meets_a_defect_is_answered(node: Node) -> None:
    engine = node.engine
    assert engine is not None
    connection = Connection(Principal("all", "all"), "all-1")

    async def broken() -> NoReturn:
        raise KeyError("a defect")

    await _tell(engine, connection, 7, broken())
    taken = connection.take(0)
    assert taken is not None
    ((request_id, answer),) = taken.events
    assert request_id == 7
    assert isinstance(answer, Refused)
    assert "defect of txcoord" in answer.error.message
    await defect_of(node)
