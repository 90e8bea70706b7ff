"""SIGKILL at every durable boundary, in every mode, then restart, then invariants by SQL; and of the initiator at every step."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from txcoord_proto.failpoints import BOUNDARIES, Mode
from txcoord_rm.at import alone, participant
from txcoord_rm.commands import undo
from txcoord_sdk.tcc import cleaning, first_phase, second_phase
from txcoord_sdk.testing import wait_until

from tests.chaos import clerk, invariants
from tests.chaos.child import Child, Coordinator
from tests.chaos.matrix import MODES, SURVIVED, ran
from tests.chaos.world import Mortal, World, create_bank, engine_of, under_traffic, world
from tests.servers import Server, free_port, fresh_database

SERVICE = (first_phase, second_phase, cleaning, alone, participant, undo)
"""Where a service's, and the agent's, boundaries are, besides those of what is imported for other reasons."""
POINTS = frozenset(BOUNDARIES)
"""Every boundary of the coordinator, of a service and of the agent."""


@dataclass(slots=True)
class Stage:
    """A world on one kind of database.

    Attributes:
        database: Which.
        world: It.
        fresh: Makes further databases; gives their URLs.
        victims: The one bank and the other, in turn.
        directory: For files.
        broken: A case failed in it.
    """

    database: str
    world: World
    fresh: Callable[[], str]
    victims: Iterator[Child]
    directory: Path
    broken: bool = False


@pytest.fixture(scope="module", params=["sqlite", "postgres", "mariadb"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("chaos")
    numbers = itertools.count()
    with ExitStack() as stack:

        def fresh() -> str:
            if request.param == "sqlite":
                return f"sqlite:///{directory}/{next(numbers)}.db"
            server: Server = request.getfixturevalue(request.param)
            return stack.enter_context(fresh_database(server))

        scene = stack.enter_context(world(fresh(), [fresh(), fresh()], directory))
        yield Stage(request.param, scene, fresh, itertools.cycle(scene.banks.values()), directory)


@pytest.fixture
def stage(made: Stage, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """For one case."""
    if made.broken:
        pytest.skip("an earlier case has failed in this world")
    failures = request.session.testsfailed
    yield made
    made.broken = request.session.testsfailed > failures


def survives(stage: Stage, victim: Mortal, point: str, mode: str, nth: int = 1) -> None:
    under_traffic(stage.world, victim, point, mode, nth)
    ran(point, mode, stage.database)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nth", [1, 3])
def test_the_coordinator_commits_a_group(stage: Stage, mode: str, nth: int) -> None:
    survives(stage, stage.world.coordinator, "store.commit", mode, nth)


@pytest.mark.parametrize("mode", list(Mode))
def test_the_coordinator_takes_over(stage: Stage, mode: str) -> None:
    sent = [stage.world.send(abandon) for abandon in (False, True, False)]
    stage.world.coordinator.dies_at_start(f"store.take_over={mode}:kill")
    stage.world.coordinator.restart()
    stage.world.told(*sent)
    stage.world.check()
    ran("store.take_over", mode, stage.database)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("point", ["store.migrate", "store.group"])
def test_the_coordinator_makes_its_store(stage: Stage, point: str, mode: str) -> None:
    coordinator = Coordinator(stage.fresh(), stage.directory)
    try:
        coordinator.dies_at_start(f"{point}={mode}:kill")
        coordinator.restart()
        engine = engine_of(coordinator.server.store)
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM txc_version")) == 1
            assert connection.execute(text("SELECT name, count(*) FROM txc_group GROUP BY name")).all() == [("default", 1)]
        engine.dispose()
    finally:
        coordinator.server.close()
    ran(point, mode, stage.database)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("point", ["store.add_token", "store.drop_token", "store.forget"])
def test_a_persons_command_is_done_or_not_at_all(stage: Stage, point: str, mode: str) -> None:
    url, act = stage.fresh(), point.removeprefix("store.").removesuffix("_token")
    asyncio.run(clerk.work(url, "start" if act == "add" else "add", "shop"))
    person = Child(f"{point}-{mode}", ("tests.chaos.clerk", url, act, "shop"), stage.directory)
    person.failpoints.set(f"{point}={mode}:{'error' if mode == Mode.UNKNOWN else 'kill'}")
    person.launch()
    code = person.process.wait(20)
    assert (code, f"failpoint {point}, {mode}" in person.log()) == (1 if mode == Mode.UNKNOWN else -9, True), person.log()
    person.close()
    done = mode in (Mode.UNKNOWN, Mode.AFTER)
    engine = engine_of(url)
    with engine.connect() as connection:
        table = "txc_group" if act == "forget" else "txc_token"
        assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == (1 if done is (act == "add") else 0)
    engine.dispose()
    ran(point, mode, stage.database)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("point", ["tcc.try", "tcc.intent", "local.commit", "tcc.confirm", "tcc.cancel"])
def test_a_participant_in_a_transfer(stage: Stage, point: str, mode: str) -> None:
    survives(stage, next(stage.victims), point, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_participant_purges_its_fence(stage: Stage, mode: str) -> None:
    bank, point = stage.world.banks["east"], "fence.purge"
    said = bank.log().count(f"failpoint {point}")
    bank.failpoints.set(f"{point}={'unknown:error' if mode == SURVIVED else f'{mode}:kill'}")
    answers = [stage.world.purge("east")]
    if mode == Mode.UNKNOWN:
        stage.world.drive(lambda: bank.dead, bank.restart)
    elif mode != SURVIVED:
        wait_until(lambda: bank.dead, what="its death")
        bank.restart()
    assert answers == [False]
    assert bank.log().count(f"failpoint {point}") > said
    stage.world.check()
    assert stage.world.purge("east")
    with stage.world.databases["east"].connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM txcoord_fence")) == 0
    stage.world.check()
    ran(point, mode, stage.database)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_participant_prepares_its_database(stage: Stage, mode: str) -> None:
    engine, port = create_bank(stage.fresh()), free_port()
    url = engine.url.render_as_string(hide_password=False)
    arguments = ("tests.chaos.bank", "north", url, stage.world.coordinator.server.address, str(port))
    bank = Child(f"north-{mode}", arguments, stage.directory, port)
    bank.failpoints.set(f"database.prepare={mode}:kill")
    bank.launch()
    wait_until(lambda: bank.dead, 20, "its death")
    bank.restart()
    try:
        with httpx.Client() as http, stage.world.client().global_transaction(timeout=10) as transaction:
            answer = http.post(f"http://127.0.0.1:{port}/withdraw?amount=1&pause=0", headers={"txcoord-xid": transaction.xid()})
            assert answer.is_success, answer.text
    finally:
        bank.close()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT state FROM txcoord_fence")).all() == [("CONFIRMED",)]
        assert connection.scalar(text("SELECT count(*) FROM txcoord_database")) == 1
    engine.dispose()
    ran("database.prepare", mode, stage.database)


TELLER = {
    "teller.begin": {Mode.BEFORE: "before begin", Mode.AFTER: "begun"},
    "teller.branch": {Mode.AFTER: "between tries"},
    "teller.commit": {Mode.BEFORE: "before the end", Mode.IN: "asked", Mode.AFTER: "told"},
    "teller.rollback": {Mode.BEFORE: "before the end", Mode.IN: "asked", Mode.AFTER: "told"},
}
"""Where the initiator, which has no database, is killed: before it asks, with its question decided but not answered, after it."""


@pytest.mark.parametrize(("point", "mode"), [(point, mode) for point, modes in TELLER.items() for mode in modes])
def test_the_initiator(stage: Stage, point: str, mode: Mode) -> None:
    abandon = point == "teller.rollback"
    order = stage.world.teller_dies(TELLER[point][mode], abandon)
    stage.world.check()
    decision = invariants.decision(stage.world.store, order.xid)
    if point == "teller.begin":
        assert decision != "COMMIT", "without a branch there may be no row at all"
    else:
        assert decision == ("COMMIT" if point == "teller.commit" and mode is not Mode.BEFORE else "ROLLBACK")
    ran(point, mode, stage.database)


def test_every_boundary_has_its_cases() -> None:
    expected = {
        "store.commit", "store.take_over", "store.migrate", "store.group", "store.add_token", "store.drop_token", "store.forget",
        "tcc.try", "tcc.intent", "local.commit", "tcc.confirm", "tcc.cancel", "fence.purge", "database.prepare",
        "at.commit", "at.rollback", "at.force", "at.accept", "xa.prepare", "xa.commit", "xa.rollback",  # test_bank.py
    }  # fmt: skip
    assert expected == POINTS, "a new boundary needs its cases above"
