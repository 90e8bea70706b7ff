"""Prepared transactions that nobody ends are found, and end as the coordinator says; nothing else is touched."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text
from txcoord_proto.status import BranchType, Decision, PhaseOne, Wait
from txcoord_proto.xid import Xid
from txcoord_rm.at.participant import resource_of
from txcoord_rm.xa import scan as scanning
from txcoord_rm.xa.branch import ARGUMENTS
from txcoord_rm.xa.hook import xa_of_engine
from txcoord_rm.xa.identifier import Identifier
from txcoord_rm.xa.scan import ORPHAN_SECONDS, Scan
from txcoord_rm.xa.second_phase import XaSecondPhase
from txcoord_sdk import Client, connect
from txcoord_sdk.fence import fence
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.testing import CoordinatorProcess, wait_until
from txcoord_sdk.transaction.effects import Ask, drive, perform

from tests.integration.at.world import World
from tests.integration.xa.book import balances, prepared
from tests.integration.xa.conftest import PLAIN, make_world


class Scene:
    """A database that nobody serves, so that only the scan ends anything in it."""

    def __init__(self, world: World, client: Client) -> None:
        self.world = world
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
        return drive(self.scan.steps())

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
        drive(self.transaction.commit_steps(Wait.DECIDED))
        assert self._client.status(self.xid).decision == Decision.COMMIT

    def roll_back(self) -> None:
        perform(Ask(lambda sink: self._client.rollback(self.xid, Wait.DECIDED, "", sink)))
        assert self._client.status(self.xid).decision == Decision.ROLLBACK


@pytest.fixture(params=["postgres", "mariadb"])
def scene(request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess) -> Iterator[Scene]:
    worlds = make_world(request, f"{request.param}+{PLAIN[request.param]}", connected, coordinator, starts=False)
    yield Scene(next(worlds), connected())
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
        left = scene.left(1)
        left.roll_back()
        blind = scene.scan_with(lonely)
        lonely.wait_connected()
        other.kill()
        assert drive(blind.steps()) == 0
    assert len(prepared(scene.world)) == 1
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
