"""Whoever dies and whenever: a branch ends as its transaction was decided, by any process that serves the database."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy.orm import Session
from txcoord_proto.errors import CoordinatorUnreachableError, NotActiveError, RolledBackError
from txcoord_proto.status import BranchStatus, BranchType, PhaseOne
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_rm.commands.init import init_command
from txcoord_sdk import Client, GlobalTransaction, connect, current_headers, joined
from txcoord_sdk.context import entered
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.chaos.child import Child
from tests.contract.rm.branches import phase_one
from tests.integration.agent import agent
from tests.integration.at.world import World
from tests.integration.deciding import decide
from tests.integration.xa.book import balances, fences, pay, prepared
from tests.integration.xa.conftest import PLAIN, make_world

_numbers = itertools.count()


class Scene:
    """An initiator without a database, a clerk in a process of its own, and a colleague of it who comes when it is dead."""

    def __init__(self, world: World, client: Client, address: str, directory: Path) -> None:
        self.world = world
        self.client = client
        self.address = address
        self.url = url = world.outside.url.render_as_string(hide_password=False)
        arguments = ("tests.integration.xa.clerk", address, f"clerk{next(_numbers)}", url)
        self.clerk = Child(f"clerk{next(_numbers)}", arguments, directory)

    def pay(self, failpoints: str = "", timeout: float = 30.0) -> GlobalTransaction:
        """Have the clerk pay in a new transaction, which it may not survive."""
        transaction = self.client.new_transaction("pay", timeout, "", 0)
        self.clerk.failpoints.set(failpoints)
        if self.clerk._process is None:
            launch(self.clerk)
        self.clerk.say(transaction.xid())
        assert self.clerk.process.stdout is not None
        if failpoints.startswith("xa.prepare=unknown"):
            assert self.clerk.process.stdout.readline() == "failed\n", self.clerk.log()
        elif failpoints:
            wait_until(lambda: self.clerk.dead, 20, "its death")
        else:
            assert self.clerk.process.stdout.readline() == "paid\n", self.clerk.log()
        return transaction

    def prepared(self) -> GlobalTransaction:
        """A transaction in which the clerk has paid, said so, and been killed."""
        transaction = self.pay()
        wait_until(lambda: self.status(transaction).branches[0].status == BranchStatus.DONE, 10, "its report")
        self.clerk.end()
        assert len(prepared(self.world)) == 1
        return transaction

    def decide(self, transaction: GlobalTransaction, commit: bool) -> None:
        """Decide it, and wait for no second phase."""
        decide(self.client, transaction, commit)

    def status(self, transaction: GlobalTransaction) -> pb.Transaction:
        return self.client.status(transaction.xid())


def launch(clerk: Child) -> None:
    clerk._process = clerk._open()
    assert clerk._process.stdout is not None
    assert clerk._process.stdout.readline() == "ready\n", clerk.log()


@pytest.fixture(params=["postgres", "mariadb"])
def scene(
    request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess, tmp_path: Path
) -> Iterator[Scene]:
    worlds = make_world(request, f"{request.param}+{PLAIN[request.param]}", connected, coordinator, starts=False)
    world = next(worlds)
    scene = Scene(world, connected(), coordinator.address, tmp_path)
    yield scene
    scene.clerk.close()
    next(worlds, None)


def in_session(world: World, work: Callable[[Session], None]) -> None:
    with Session(world.engine) as session:
        work(session)
        session.commit()


def settled(scene: Scene, transaction: GlobalTransaction) -> None:
    wait_until(lambda: scene.status(transaction).settled_at, 20, "its settlement")


@pytest.mark.parametrize("moment", ["before", "in", "unknown", "after"])
def test_killed_around_prepare(scene: Scene, moment: str) -> None:
    transaction = scene.pay(f"xa.prepare={moment}:kill", timeout=3.0)
    was_prepared = moment in ("unknown", "after")
    assert len(prepared(scene.world)) == was_prepared
    scene.world.client.start()
    settled(scene, transaction)
    assert scene.status(transaction).reason == ("BRANCH_UNKNOWN" if moment == "unknown" else "TIMEOUT")
    assert prepared(scene.world) == []
    assert balances(scene.world) == [100, 100, 100]


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize("moment", ["before", "unknown", "after"])
def test_killed_around_the_second_phase(scene: Scene, moment: str, commit: bool) -> None:
    transaction = scene.pay()
    assert len(prepared(scene.world)) == 1
    scene.clerk.failpoints.set(f"{'xa.commit' if commit else 'xa.rollback'}={moment}:kill")
    scene.decide(transaction, commit)
    if moment != "unknown":  # it dies at the next operation that it begins
        wait_until(lambda: scene.clerk.dead, 20, "its death")
    scene.world.client.start()
    scene.clerk.end()
    settled(scene, transaction)
    assert prepared(scene.world) == []
    assert balances(scene.world) == [110 if commit else 100, 100, 100]


@pytest.mark.parametrize(("commit", "is_there_first"), [(True, True), (False, True), (True, False)])
def test_the_agent_ends_what_a_service_has_left(scene: Scene, commit: bool, is_there_first: bool) -> None:
    """The service was killed after PREPARE, and nobody but the agent runs."""
    transaction = scene.prepared()
    if not is_there_first:
        scene.decide(transaction, commit)
    with agent(scene.address, scene.url):
        if is_there_first:
            scene.decide(transaction, commit)
        settled(scene, transaction)
    assert scene.status(transaction).status == (pb.COMMITTED if commit else pb.ROLLED_BACK)
    assert prepared(scene.world) == []
    assert balances(scene.world) == [110 if commit else 100, 100, 100]


@pytest.mark.parametrize("scene", ["postgres"], indirect=True)
def test_the_agent_rolls_back_at_and_xa_branches_of_one_transaction(scene: Scene) -> None:
    assert CliRunner().invoke(init_command, [scene.url]).exit_code == 0
    transaction = scene.pay()
    with agent(scene.address, scene.url) as resource:
        branch_id = transaction.register(Registration(BranchType.AT, resource))
        phase_one(scene.world.outside, transaction.xid(), branch_id, "UPDATE account SET balance = 0 WHERE id = 2")
        transaction.report(branch_id, PhaseOne.DONE)
        wait_until(lambda: all(b.status == BranchStatus.DONE for b in scene.status(transaction).branches), 10, "its reports")
        scene.clerk.end()
        assert balances(scene.world) == [100, 0, 100]
        scene.decide(transaction, False)
        settled(scene, transaction)
    assert prepared(scene.world) == []
    assert balances(scene.world) == [100, 100, 100]


def test_two_clerks_end_what_one_has_prepared(scene: Scene) -> None:
    scene.world.client.start()
    for n in range(6):
        transaction = scene.pay()
        transaction.commit() if n % 2 else transaction.rollback()
        settled(scene, transaction)
    assert balances(scene.world) == [130, 100, 100]
    assert prepared(scene.world) == []


def test_the_coordinator_is_gone_when_a_branch_registers(
    request: pytest.FixtureRequest, connected: Callable[..., Client]
) -> None:
    for server in ("postgres", "mariadb"):
        with CoordinatorProcess() as coordinator:

            def short(server: str = server, coordinator: CoordinatorProcess = coordinator) -> Client:
                return connect(coordinator.address, service=f"short{server}", failover_wait=0.5)

            worlds = make_world(request, f"{server}+{PLAIN[server]}", short, coordinator)
            world = next(worlds)

            def work(session: Session, coordinator: CoordinatorProcess = coordinator) -> None:
                coordinator.kill()
                pay(1, 10)(session)

            transaction = world.client.new_transaction("gone", 20.0, "", 0)
            with entered(transaction):
                in_session(world, pay(2, 5))
                with pytest.raises(CoordinatorUnreachableError) as caught:
                    in_session(world, work)
            assert caught.value.retryable
            assert balances(world) == [100, 100, 100]
            coordinator.start()
            transaction.rollback("it could not go on")
            world.globally(pay(3, 1))
            wait_until(lambda world=world: prepared(world) == [], 60, "the end of what was prepared")
            assert balances(world) == [100, 100, 101]
            next(worlds, None)


@pytest.mark.parametrize("undo", [False, True])
def test_two_services_in_one_transaction(
    request: pytest.FixtureRequest, connected: Callable[..., Client], coordinator: CoordinatorProcess, undo: bool
) -> None:
    servers = ("postgres18+psycopg", "mariadb+pymysql")
    iterators = [make_world(request, where, connected, coordinator) for where in servers]
    first, second = map(next, iterators)

    def call(_: object) -> None:
        headers = current_headers()
        with entered(None), joined(headers, client=second.client):
            in_session(second, pay(2, 10))

    first.globally(pay(1, -10), call, undo=undo)
    assert balances(first) == [100 if undo else 90, 100, 100]
    assert balances(second) == [100, 100 if undo else 110, 100]
    assert prepared(first) == prepared(second) == []
    for iterator in iterators:
        next(iterator, None)


def test_a_rollback_before_prepare(sync_world: World) -> None:
    """The coordinator rolls back while the local transaction is open: it cannot be prepared any more."""
    transaction = sync_world.client.new_transaction("late", 30.0, "", 0)
    other = sync_world.client.joined_transaction(transaction.xid())
    with entered(other), Session(sync_world.engine) as session:
        pay(1, 10)(session)
        transaction.rollback()
        assert fences(sync_world) == ["SUSPENDED"]
        with pytest.raises(Exception, match="was cancelled before its try arrived"):
            session.commit()
    assert balances(sync_world) == [100, 100, 100]
    assert prepared(sync_world) == []
    with entered(other), Session(sync_world.engine) as session, pytest.raises(NotActiveError):
        pay(1, 10)(session)


def test_a_transaction_whose_branch_is_not_prepared_in_time_is_rolled_back(sync_world: World) -> None:
    transaction = sync_world.client.new_transaction("late", 1.5, "", 0)
    with entered(transaction):
        in_session(sync_world, pay(1, 10))
    wait_until(lambda: sync_world.client.status(transaction.xid()).decision, 10, "the deadline")
    with pytest.raises(RolledBackError):
        transaction.commit()
    assert balances(sync_world) == [100, 100, 100]
    assert prepared(sync_world) == []
