"""The Prometheus endpoint of real coordinators: a leader, its standby, and what the standby shows once it has taken over."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess, wait_until
from txcoord_server.metrics import METRICS

from tests.integration.server.stub import BALANCE, STOCK, Stub

Samples = dict[tuple[str, ...], float]
ENDPOINT = ("--metrics", "127.0.0.1:0")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def first(url: str) -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess(url, options=("--node", "first", *ENDPOINT)) as coordinator:
        yield coordinator


@pytest.fixture
def second(first: CoordinatorProcess, url: str) -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess(url, options=("--node", "second", *ENDPOINT)) as coordinator:
        yield coordinator


def scrape(coordinator: CoordinatorProcess) -> Samples:
    """Samples by name and values of their labels."""
    found = re.findall(r"metrics on (\S+)", coordinator.log())
    with urllib.request.urlopen(found[-1], timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        families = list(text_string_to_metric_families(answer.read().decode()))
    for shown in METRICS:
        assert shown.name in {f.name for f in families}
        assert shown.text in {f.documentation for f in families}
    return {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}


def test_the_leader_shows_what_was_done(first: CoordinatorProcess) -> None:
    before = scrape(first)
    with Stub(first.address) as stub:
        for _ in range(3):
            stub.commit(stub.prepared())
        for _ in range(2):
            stub.rollback(stub.prepared(STOCK))
        active = stub.begin()
        stub.register(active, "db@1", pb.AT, lock_keys=["row-1", "row-2"])
    wait_until(lambda: scrape(first)["txcoord_transactions_begun_total",] == 6, 5, "the count of begun transactions")
    seen = scrape(first)
    assert seen["txcoord_leader",] == seen["txcoord_serving",] == 1
    assert seen["txcoord_node_info", "default", "first", "0.1.0"] == 1
    assert seen["txcoord_transactions_unfinished", "ACTIVE"] == 1
    assert seen["txcoord_transactions_unfinished", "COMMITTING"] == 3
    assert seen["txcoord_transactions_unfinished", "ROLLING_BACK"] == 2
    assert seen["txcoord_decisions_total", "COMMIT", "REQUESTED"] == 3
    assert seen["txcoord_decisions_total", "ROLLBACK", "REQUESTED"] == 2
    assert seen["txcoord_branches_registered_total",] == 3 * 2 + 2 + 1
    assert seen["txcoord_locks_held",] == 2
    assert seen["txcoord_second_phases_waiting", STOCK] == 5
    assert seen["txcoord_second_phases_waiting", BALANCE] == 3
    assert seen["txcoord_group_commits_total",] >= before["txcoord_group_commits_total",] + 3 * 5 + 2 * 3 + 1
    assert seen["txcoord_group_commit_seconds_count",] == seen["txcoord_group_commit_seconds_bucket", "+Inf"]
    assert 0 < seen["txcoord_oldest_unfinished_seconds",] < 60
    assert seen["txcoord_store_failures_total",] == seen["txcoord_fenced_total",] == 0
    assert seen["process_open_fds",] > 3


def test_a_standby_and_its_takeover(first: CoordinatorProcess, second: CoordinatorProcess) -> None:
    with Stub(first.address) as stub:
        for _ in range(4):
            stub.commit(stub.prepared())
    led, stood_by = scrape(first), scrape(second)
    assert (stood_by["txcoord_leader",], stood_by["txcoord_serving",], stood_by["txcoord_takeovers_total",]) == (0, 0, 0)
    assert stood_by["txcoord_epoch",] == led["txcoord_epoch",]
    assert stood_by["txcoord_sessions",] == stood_by["txcoord_locks_held",] == 0
    assert ("txcoord_commit_seq",) not in stood_by
    first.kill()
    wait_until(lambda: scrape(second)["txcoord_leader",] == 1, 10, "the takeover")
    leads = scrape(second)
    assert leads["txcoord_takeovers_total",] == leads["txcoord_serving",] == 1
    assert leads["txcoord_epoch",] > led["txcoord_epoch",]
    assert leads["txcoord_commit_seq",] >= led["txcoord_commit_seq",]
    assert leads["txcoord_transactions_unfinished", "COMMITTING"] == 4
    assert leads["txcoord_second_phases_waiting", STOCK] == 4
    assert leads["txcoord_transactions_begun_total",] == 0, "it began none itself"
    with Stub(second.address) as stub:
        stub.rollback(stub.prepared())
    assert scrape(second)["txcoord_decisions_total", "ROLLBACK", "REQUESTED"] == 1


def test_an_address_that_is_taken_is_refused_at_start(first: CoordinatorProcess) -> None:
    taken = CoordinatorProcess(options=("--metrics", first.address))
    with pytest.raises(RuntimeError, match="--metrics"):
        taken.start()
    taken.close()
