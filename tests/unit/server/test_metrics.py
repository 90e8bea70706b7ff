"""The collector: what it shows of a node that leads, that does not, and that changes while it looks."""

from __future__ import annotations

import asyncio
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from txcoord_proto.errors import ConfigurationError
from txcoord_proto.status import BranchType, CommandResult, PhaseOne
from txcoord_server.config import Endpoint
from txcoord_server.domain.requests import NewBranch, NewTransaction
from txcoord_server.engine.connection import Connection, Principal
from txcoord_server.engine.node import Node
from txcoord_server.metrics import METRICS, NAMED_RESOURCES, MetricsServer, NodeCollector

from tests.unit.server.books import BALANCE, STOCK
from tests.unit.server.leader import Driver, make_node

Samples = dict[str, float]


def scrape(node: Node) -> Samples:
    """Samples as Prometheus would read them, `name{label=value,...}` each."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(node))
    return samples(generate_latest(registry).decode())


def samples(text: str) -> Samples:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


async def test_what_was_done_is_what_is_shown(node: Node) -> None:
    assert node.engine is not None
    driver = Driver(node.engine)
    connection = Connection(Principal("stock", "stock"), "stock-1")
    node.engine.attach(connection)
    node.engine.dispatcher.serve(connection, [STOCK])
    active = await driver.prepared(STOCK)
    committed = await driver.prepared(STOCK, BALANCE)
    rolled_back = await driver.prepared(BALANCE)
    await driver.commit(committed)
    await driver.rollback(rolled_back)
    await asyncio.sleep(0.1)  # begun transactions are counted by the tick
    seen = scrape(node)
    assert seen["txcoord_leader"] == seen["txcoord_serving"] == seen["txcoord_takeovers_total"] == 1
    assert seen["txcoord_epoch"] == node.engine.lease.epoch
    assert seen["txcoord_commit_seq"] == node.engine.commit_seq
    assert seen["txcoord_transactions_begun_total"] == 3
    assert seen["txcoord_transactions_unfinished{status=ACTIVE}"] == 1
    assert seen["txcoord_transactions_unfinished{status=COMMITTING}"] == 1
    assert seen["txcoord_transactions_unfinished{status=ROLLING_BACK}"] == 1
    assert seen["txcoord_transactions_unfinished{status=PARKED}"] == 0
    assert "txcoord_transactions_unfinished{status=COMMITTED}" not in seen
    assert seen["txcoord_decisions_total{decision=COMMIT,reason=REQUESTED}"] == 1
    assert seen["txcoord_decisions_total{decision=ROLLBACK,reason=REQUESTED}"] == 1
    assert seen["txcoord_branches_registered_total"] == seen["txcoord_locks_held"] == 4
    assert seen[f"txcoord_second_phases_in_flight{{resource={STOCK}}}"] == 1
    assert seen[f"txcoord_second_phases_waiting{{resource={STOCK}}}"] == 0
    assert seen[f"txcoord_second_phases_waiting{{resource={BALANCE}}}"] == 2
    assert seen[f"txcoord_resource_processes{{resource={STOCK}}}"] == 1
    assert seen[f"txcoord_resource_processes{{resource={BALANCE}}}"] == 0
    assert seen["txcoord_sessions"] == 1
    assert 0 < seen["txcoord_oldest_unfinished_seconds"] < 30
    assert seen["txcoord_group_commits_total"] == seen["txcoord_group_commit_seconds_count"]
    assert seen["txcoord_group_commit_rows_sum"] >= 9  # 3 transactions, 4 branches, 2 decisions
    node.engine.done(connection, committed, 2)
    assert scrape(node)[f"txcoord_second_phases_in_flight{{resource={STOCK}}}"] == 0
    node.engine.detach(connection)
    await driver.commit(active)
    assert scrape(node)[f"txcoord_second_phases_waiting{{resource={STOCK}}}"] == 1


async def test_failing_second_phases_become_overdue_and_parked(node: Node) -> None:
    assert node.engine is not None
    driver, engine = Driver(node.engine), node.engine
    connection = Connection(Principal("stock", "stock"), "stock-1")
    engine.attach(connection)
    engine.dispatcher.serve(connection, [STOCK])
    xid = await driver.prepared(STOCK)
    await driver.commit(xid)
    for _ in range(10):
        assert scrape(node)["txcoord_branches_overdue"] == 0
        engine.failed(connection, xid, 1, CommandResult.RETRY, "DISK_FULL", "no space")
        engine.time += 120_000
        engine.dispatcher.tick()
    seen = scrape(node)
    assert seen["txcoord_branches_overdue"] == 1
    assert seen["txcoord_second_phase_retries_total"] == 10
    engine.failed(connection, xid, 1, CommandResult.PARK, "NOT_TRIED", "no row")
    seen = scrape(node)
    assert seen["txcoord_branches_overdue"] == 0
    assert seen["txcoord_transactions_unfinished{status=PARKED}"] == 1


async def test_waiters_for_a_lock(node: Node) -> None:
    assert node.engine is not None
    driver, t = Driver(node.engine), node.engine.transactions
    xids = [t.begin("order", NewTransaction("place_order"), node.engine.now()).xid for _ in range(3)]
    for branch, xid in enumerate(xids, 1):
        t.register(driver.ticket(), xid, NewBranch(branch, BranchType.AT, "db@1", ("row",), lock_wait=9000), node.engine.now())
    seen = scrape(node)
    assert (seen["txcoord_locks_held"], seen["txcoord_lock_waiters"]) == (1, 2)
    t.report(driver.ticket(), xids[0], 1, PhaseOne.DONE, "", node.engine.now())
    await driver.commit(xids[0])
    seen = scrape(node)
    assert (seen["txcoord_locks_held"], seen["txcoord_lock_waiters"]) == (1, 1)


async def test_names_of_resources_are_bounded(node: Node) -> None:
    assert node.engine is not None
    driver = Driver(node.engine)
    many = [f"stock:reserve@{number}" for number in range(NAMED_RESOURCES + 20)]
    await driver.commit(await driver.prepared(*many))
    for name in ("in_flight", "waiting"):
        series = {k: v for k, v in scrape(node).items() if k.startswith(f"txcoord_second_phases_{name}{{")}
        assert len(series) == NAMED_RESOURCES + 1
        assert sum(series.values()) == (len(many) if name == "waiting" else 0)
    assert scrape(node)["txcoord_second_phases_waiting{resource=other}"] == 20


def test_a_node_that_has_not_started(tmp_path: Path) -> None:
    seen = scrape(make_node(tmp_path))
    assert seen["txcoord_leader"] == seen["txcoord_serving"] == seen["txcoord_epoch"] == 0
    assert seen["txcoord_locks_held"] == seen["txcoord_sessions"] == seen["txcoord_oldest_unfinished_seconds"] == 0
    assert "txcoord_commit_seq" not in seen
    assert not [name for name in seen if "unfinished{" in name or "resource=" in name]


async def test_scrapes_beside_a_busy_engine(node: Node) -> None:
    """Hundreds of transactions come and go while two threads scrape: none fails, and no count is ever negative."""
    assert node.engine is not None
    driver, failures, scrapes = Driver(node.engine), [], [0] * 2
    ended = threading.Event()

    def look(which: int) -> None:
        while not ended.is_set():
            try:
                seen = scrape(node)
                assert min(seen.values()) >= 0, seen
                scrapes[which] += 1
            except Exception as error:  # whatever it is
                failures.append(error)
                return

    threads = [threading.Thread(target=look, args=(which,)) for which in range(2)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # the loop is interrupted wherever it can be
    for thread in threads:
        thread.start()
    for number in range(100):
        xids = [await driver.prepared(f"stock:reserve@{number % 50}") for _ in range(2)]
        await driver.commit(xids[0])
        await driver.rollback(xids[1])
    sys.setswitchinterval(usual)
    ended.set()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert failures == []
    assert min(scrapes) > 2
    assert scrape(node)["txcoord_transactions_unfinished{status=COMMITTING}"] == 100


def test_the_endpoint_and_its_address(tmp_path: Path) -> None:
    server = MetricsServer(make_node(tmp_path), Endpoint("127.0.0.1", 0))
    with urllib.request.urlopen(server.url) as answer:
        seen = samples(answer.read().decode())
    assert seen["txcoord_leader"] == 0
    assert seen["process_resident_memory_bytes"] > 1_000_000
    taken = Endpoint.parse("--metrics", server.url.split("/")[2])
    with pytest.raises(ConfigurationError, match=f"--metrics {taken}: it cannot listen there"):
        MetricsServer(make_node(tmp_path), taken)
    server.close()


def test_names_follow_the_conventions() -> None:
    names = [shown.full_name for shown in METRICS]
    assert len(set(names)) == len(names)
    for shown in METRICS:
        assert shown.name.startswith("txcoord_")
        assert not shown.name.endswith("_total")
        assert shown.text.endswith(".")
        assert shown.full_name.endswith("_total") == (shown.kind == "counter")
