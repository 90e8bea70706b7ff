"""Prepared transactions that nobody ends are found, and end as the coordinator says; nothing else is touched."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text
from txcoord_proto.status import BranchType, Decision, PhaseOne
from txcoord_proto.xid import Xid
from txcoord_rm.at.participant import resource_of
from txcoord_rm.commands.recover import recover_command
from txcoord_rm.xa import scan as scanning
from txcoord_rm.xa.branch import ARGUMENTS
from txcoord_rm.xa.hook import xa_of_engine
from txcoord_rm.xa.identifier import Identifier
from txcoord_rm.xa.scan import ORPHAN_SECONDS, Scan, tell
from txcoord_rm.xa.second_phase import XaSecondPhase
from txcoord_sdk import Client, connect
from txcoord_sdk.fence import fence
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.testing import CoordinatorProcess, wait_until
from txcoord_sdk.transaction.effects import drive

from tests.integration.agent import agent
from tests.integration.at.world import World
from tests.integration.deciding import decide
from tests.integration.xa.book import balances, prepared
from tests.integration.xa.conftest import PLAIN, make_world


class Scene:
    """A database that nobody serves, so that only the scan ends anything in it."""

    def __init__(self, world: World, client: Client, address: str) -> None:
        self.world = world
        self.address = address
        self.client = client
        self.now = 1000.0
        found = xa_of_engine(world.engine)
        assert found is not None
        self.preparing = found.preparing
        self.database_id = world.resource.database.id
        self.scan = self.scan_with(client)

    def scan_with(self, client: Client) -> Scan:
        second_phase = XaSecondPhase(self.world.resource.database, self.preparing, resource_of(self.database_id))
        return Scan(second_phase, client.status, lambda: self.now)

    def prepare(self, xid: str, branch_id: int, account: int = 1) -> None:
        """What a participant that died has left behind."""
        identifier = Identifier(self.database_id, xid, branch_id)
        with self.world.outside.connect() as connection:
            cursor = connection.connection.cursor()
            self.preparing.start(cursor, identifier)
            connection.execute(text("UPDATE account SET balance = balance + 1 WHERE id = :id"), {"id": account})
            fence.tried(connection, xid, branch_id, resource_of(self.database_id))
            self.preparing.prepare(cursor, identifier)
            connection.invalidate()

    def look(self) -> int:
        """Returns how many it has ended."""
        findings = drive(self.scan.steps())
        tell(findings)
        return sum(finding.ended for finding in findings)

    def recover(self, *options: str, **more: Any) -> Result:
        """Run `txcoord-agent recover`."""
        url = self.world.outside.url.render_as_string(hide_password=False)
        given = {"address": self.address, **more}
        return CliRunner().invoke(recover_command, [url, "--address", given["address"], *options])

    def left(self, account: int = 1) -> Left:
        return Left(self, account)


class Left:
    """A branch on a resource that nobody serves."""

    def __init__(self, scene: Scene, account: int) -> None:
        self._client = scene.client
        self.transaction = scene.client.new_transaction("left", 60.0, "", 0)
        self.branch_id = self.transaction.register(Registration(BranchType.XA, resource_of("nobody"), arguments=ARGUMENTS))
        self.xid = self.transaction.known_xid
        scene.prepare(self.xid, self.branch_id, account)

    def report(self, result: PhaseOne) -> None:
        self.transaction.report(self.branch_id, result)

    def commit(self) -> None:
        decide(self._client, self.transaction, True)
        assert self._client.status(self.xid).decision == Decision.COMMIT

    def roll_back(self) -> None:
        decide(self._client, self.transaction, False)
        assert self._client.status(self.xid).decision == Decision.ROLLBACK


@pytest.fixture(params=["postgres", "mariadb"])
def scene(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[Scene]:
    worlds = make_world(request, f"{request.param}+{PLAIN[request.param]}", connected, coordinator, starts=False)
    yield Scene(next(worlds), connected(), coordinator.address)
    next(worlds, None)


def unknown_xid(client: Client, epochs: int = 0) -> str:
    """An XID that the coordinator never gave away, of its epoch or another one."""
    mine = Xid.parse(client.new_transaction("mine", 60.0, "", 0).xid())
    return str(Xid(mine.group, mine.epoch + epochs, mine.sequence + 10_000))


def test_nothing_is_there(scene: Scene) -> None:
    assert scene.look() == 0


def test_what_is_decided_ends_so(scene: Scene) -> None:
    first, second, third = scene.left(1), scene.left(2), scene.left(3)
    assert scene.look() == 0
    first.report(PhaseOne.DONE)
    first.commit()
    second.roll_back()
    assert scene.look() == 2
    assert balances(scene.world) == [101, 100, 100]
    assert len(prepared(scene.world)) == 1
    third.roll_back()
    assert scene.look() == 1
    assert prepared(scene.world) == []


def test_a_branch_that_took_no_part_is_rolled_back(scene: Scene) -> None:
    failed = scene.left(1)
    done = failed.transaction.register(Registration(BranchType.XA, resource_of("nobody"), arguments=ARGUMENTS))
    scene.prepare(failed.xid, done, 2)
    failed.report(PhaseOne.FAILED)
    failed.transaction.report(done, PhaseOne.DONE)
    failed.commit()
    assert scene.look() == 2
    assert balances(scene.world) == [100, 101, 100]


def test_an_orphan_is_rolled_back_when_it_is_old(scene: Scene) -> None:
    scene.prepare(unknown_xid(scene.client), 7)
    assert scene.look() == 0
    scene.now += ORPHAN_SECONDS - 1
    assert scene.look() == 0
    assert len(prepared(scene.world)) == 1
    scene.now += 1
    assert scene.look() == 1
    assert prepared(scene.world) == []
    assert balances(scene.world) == [100, 100, 100]


def test_an_orphan_of_an_epoch_that_is_not_known_is_left_alone(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.prepare(unknown_xid(scene.client, epochs=-5), 7)
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            assert scene.look() == 0
        scene.now += 10 * ORPHAN_SECONDS
    assert "stays prepared for now" in caplog.text
    assert len(prepared(scene.world)) == 1


def test_a_branch_that_its_transaction_does_not_know_is_left_alone(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    left = scene.left(1)
    left.report(PhaseOne.DONE)
    scene.prepare(left.xid, left.branch_id + 1_000_000, 2)
    left.commit()
    scene.now += 10 * ORPHAN_SECONDS
    with caplog.at_level(logging.ERROR):
        assert scene.look() == 1
    assert "is COMMIT without it" in caplog.text
    assert len(prepared(scene.world)) == 1
    assert balances(scene.world) == [101, 100, 100]


def test_one_that_cannot_be_ended_holds_no_other_up(scene: Scene) -> None:
    scene.prepare(unknown_xid(scene.client, epochs=-5), 1, 3)
    left = scene.left(1)
    left.roll_back()
    scene.prepare(unknown_xid(scene.client), 9, 2)
    scene.look()
    scene.now += ORPHAN_SECONDS
    scene.look()
    assert len(prepared(scene.world)) == 1


def test_without_a_coordinator_nothing_is_decided(scene: Scene) -> None:
    with CoordinatorProcess() as other, connect(other.address, service="lonely", failover_wait=1.0) as lonely:
        left, undecided = scene.left(1), scene.left(2)
        left.roll_back()
        blind = scene.scan_with(lonely)
        lonely.wait_connected()
        other.kill()
        first, second = drive(blind.steps())
        assert [first.ended, second.ended] == [False, False]
        assert first.decision == second.decision == ""
        assert "coordinator" in first.reason
    assert len(prepared(scene.world)) == 2
    assert scene.look() == 1
    undecided.roll_back()
    assert scene.look() == 1


def test_a_process_looks_when_it_starts_and_then_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "PERIOD_SECONDS", 0.5)
    left = scene.left(1)
    left.roll_back()
    scene.world.client.start()
    wait_until(lambda: prepared(scene.world) == [], 10, "the first look")
    later = scene.left(2)
    time.sleep(1.2)
    assert len(prepared(scene.world)) == 1
    later.report(PhaseOne.DONE)
    later.commit()
    wait_until(lambda: prepared(scene.world) == [], 10, "a later look")
    assert balances(scene.world) == [100, 101, 100]


def test_an_agent_looks_when_it_starts(scene: Scene) -> None:
    """Nobody serves the resource of these branches, so that no command comes for them."""
    first, second = scene.left(1), scene.left(2)
    first.report(PhaseOne.DONE)
    first.commit()
    second.roll_back()
    with agent(scene.address, scene.world.outside.url.render_as_string(hide_password=False)):
        wait_until(lambda: prepared(scene.world) == [], 10, "its look")
    assert balances(scene.world) == [101, 100, 100]


# ---------------------------------------------------------------- txcoord-agent recover


def told(result: Result) -> dict[str, tuple[str, str | None, bool]]:
    """Decision, end, and whether it has ended, by XID."""
    return {b["xid"]: (b["decision"], b["end"], b["ended"]) for b in json.loads(result.stdout)["branches"]}


def test_recover_finds_nothing(scene: Scene) -> None:
    found = scene.recover()
    assert found.exit_code == 0, found.output
    assert found.stdout == f"nothing of txcoord is prepared in database {scene.database_id}\n"
    assert json.loads(scene.recover("--json").stdout) == {"database": scene.database_id, "dry_run": False, "branches": []}


def test_recover_ends_what_is_decided_and_says_so(scene: Scene) -> None:
    committed, rolled_back, undecided = scene.left(1), scene.left(2), scene.left(3)
    committed.report(PhaseOne.DONE)
    committed.commit()
    rolled_back.roll_back()
    tried = scene.recover("--dry-run", "--json")
    assert tried.exit_code == 1, "it is still in doubt"
    assert told(tried) == {
        committed.xid: ("COMMIT", "COMMIT", False),
        rolled_back.xid: ("ROLLBACK", "ROLLBACK", False),
        undecided.xid: ("UNDECIDED", None, False),
    }
    assert len(prepared(scene.world)) == 3, "nothing was done"
    done = scene.recover()
    assert done.exit_code == 1, "one stays"
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["XID", "BRANCH", "DECISION", "DONE"],
        [committed.xid, str(committed.branch_id), "COMMIT", "committed"],
        [rolled_back.xid, str(rolled_back.branch_id), "ROLLBACK", "rolled", "back"],
        [undecided.xid, str(undecided.branch_id), "UNDECIDED", "left", "alone"],
        ["its", "transaction", "is", "not", "decided", "yet"],
    ]
    assert len(prepared(scene.world)) == 1
    undecided.roll_back()
    last = scene.recover("--json")
    assert last.exit_code == 0, last.output
    assert told(last) == {undecided.xid: ("ROLLBACK", "ROLLBACK", True)}
    assert balances(scene.world) == [101, 100, 100]


def test_recover_ends_an_orphan_when_it_is_old(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "ORPHAN_SECONDS", 1.5)
    orphan = unknown_xid(scene.client)
    scene.prepare(orphan, 7)
    assert told(scene.recover("--dry-run", "--json")) == {orphan: ("UNKNOWN", None, False)}
    began = time.monotonic()
    done = scene.recover("--json")
    assert time.monotonic() - began >= 1.5, "it might just be registering"
    assert done.exit_code == 0, done.output
    assert told(done) == {orphan: ("UNKNOWN", "ROLLBACK", True)}
    assert prepared(scene.world) == []
    assert balances(scene.world) == [100, 100, 100]


def test_recover_leaves_alone_what_it_cannot_judge(scene: Scene) -> None:
    left = scene.left(1)
    left.report(PhaseOne.DONE)
    scene.prepare(left.xid, left.branch_id + 1_000_000, 2)
    scene.prepare(unknown_xid(scene.client, epochs=-5), 7, 3)
    left.commit()
    done = scene.recover()
    assert done.exit_code == 1
    assert "is COMMIT without it: it is left alone, check the data and end it by hand" in done.stdout
    assert len(prepared(scene.world)) == 2
    assert balances(scene.world) == [101, 100, 100]


@pytest.mark.parametrize("scene", ["postgres"], indirect=True)
def test_recover_without_a_coordinator_is_not_content(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("txcoord_rm.commands.coordinator.ANSWER_SECONDS", 0.5)
    left = scene.left(1)
    left.roll_back()
    done = scene.recover("--json", address="127.0.0.1:1")
    assert done.exit_code == 1
    assert told(done) == {left.xid: ("", None, False)}
    assert len(prepared(scene.world)) == 1
    left = scene.left(2)
    assert scene.recover("--json").exit_code == 1, "that one is not decided"
    left.roll_back()
    assert scene.recover().exit_code == 0


def test_recover_that_cannot_look_does_not_say_that_there_is_nothing(scene: Scene) -> None:
    foreign = scene.world.outside.url.set(database="nowhere").render_as_string(hide_password=False)
    refused = CliRunner().invoke(recover_command, [foreign, "--address", scene.address, "--json"])
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["error"]["code"] == "RESOURCE_UNAVAILABLE"
    scene.world.script("DROP TABLE txcoord_fence")
    refused = scene.recover()
    assert refused.exit_code == 1
    assert "txcoord_fence: it is not there" in refused.output


def test_recover_on_a_database_that_prepares_nothing(tmp_path: Path) -> None:
    refused = CliRunner().invoke(recover_command, [f"sqlite:///{tmp_path}/x.db"])
    assert refused.exit_code == 1
    assert "SQLite commits in one step and cannot prepare a transaction" in " ".join(refused.output.split())
