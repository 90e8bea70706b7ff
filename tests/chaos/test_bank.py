"""A bank of accounts over PostgreSQL, MariaDB and SQLite: money moves in global transactions, and everything is killed.

TXCOORD_TRANSFERS says how many transfers are run while processes die at random; TXCOORD_SEED chooses them, and who dies.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from txcoord_proto.failpoints import Mode

from tests.chaos.chain import CLIENTS, Chain, chain
from tests.chaos.child import Child
from tests.chaos.matrix import MODES, ran
from tests.chaos.world import under_traffic
from tests.servers import Server, fresh_database

TRANSFERS = int(os.environ.get("TXCOORD_TRANSFERS", "200"))
SEED = int(os.environ.get("TXCOORD_SEED", "1"))
REASON = re.compile(r"[A-Z]\w+(?:\((?:'\d+ \w+|[\"']\d+ \w+|\w+))?")
"""The error, and the one in it."""
OFFICES = ("postgres", "mariadb", "sqlite")
"""With undo records; one more takes part by XA alone, and the first one by both."""
ONCE = (Mode.BEFORE, Mode.AFTER)
"""Modes that do not depend on the database."""
XA = [
    (office, point, mode)
    for office in ("postgres", "mariadb-xa")
    for point in ("xa.prepare", "xa.commit", "xa.rollback")
    for mode in MODES
    if (point == "xa.prepare" or mode != Mode.IN) and (office == "postgres" or mode not in ONCE)
]
"""A prepared transaction is ended by one statement, in which there is no moment."""


@dataclass(slots=True)
class Stage:
    """A chain, and whether a case failed in it."""

    chain: Chain
    broken: bool = False


Open = Callable[..., Chain]


@pytest.fixture(scope="module")
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Makes chains; the argument is the fixture of a PostgreSQL."""
    with ExitStack() as stack:

        def make(postgres: str) -> Chain:
            directory = tmp_path_factory.mktemp("bank")
            urls = {"sqlite": f"sqlite:///{directory}/office.db"}
            for name, fixture in (("postgres", postgres), ("mariadb", "mariadb"), ("mariadb-xa", "mariadb")):
                server: Server = request.getfixturevalue(fixture)
                urls[name] = stack.enter_context(fresh_database(server))
            return stack.enter_context(chain(f"sqlite:///{directory}/store.db", urls, directory, SEED))

        yield make


@pytest.fixture(scope="module")
def made(opened: Open) -> Stage:
    return Stage(opened("postgres"))


@pytest.fixture
def stage(made: Stage, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """For one case."""
    if made.broken:
        pytest.skip("an earlier case has failed in this world")
    failures = request.session.testsfailed
    yield made
    made.broken = request.session.testsfailed > failures


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("point", ["local.commit", "at.commit", "at.rollback"])
@pytest.mark.parametrize("office", OFFICES)
def test_an_office_in_a_transfer(stage: Stage, office: str, point: str, mode: str) -> None:
    under_traffic(stage.chain, stage.chain.offices[office], point, mode)
    ran(point, mode, office)


@pytest.mark.parametrize(("office", "point", "mode"), XA)
def test_an_office_in_a_transfer_by_xa(stage: Stage, office: str, point: str, mode: str) -> None:
    stage.chain.favoured = "xa"
    try:
        under_traffic(stage.chain, stage.chain.offices[office], point, mode)
    finally:
        stage.chain.favoured = ""
    ran(point, mode, office)


@pytest.mark.parametrize(
    ("office", "mode"), [(office, mode) for office in OFFICES for mode in Mode if office == "postgres" or mode not in ONCE]
)
@pytest.mark.parametrize("act", ["force", "accept"])
def test_a_persons_end_of_a_parked_rollback(stage: Stage, office: str, act: str, mode: Mode, tmp_path: Path) -> None:
    bank, point, command = stage.chain, f"at.{act}", {"force": "force-restore", "accept": "accept-current"}[act]
    xid = bank.parked(office)
    if act == "accept":
        bank.put_right(office, xid)
    words = (command, xid, bank.databases[office].url.render_as_string(hide_password=False), bank.coordinator.server.address)
    person = Child(f"{office}-{act}-{mode}", ("tests.chaos.undoer", *words), tmp_path)
    person.failpoints.set(f"{point}={mode}:{'error' if mode is Mode.UNKNOWN else 'kill'}")
    codes = []
    for _ in range(2):
        person.launch()
        codes.append(person.process.wait(30))
        person.end()
        person.failpoints.set("")
    assert f"failpoint {point}, {mode}" in person.log(), person.log()
    done = mode in (Mode.UNKNOWN, Mode.AFTER)  # then there is nothing to do for the second one
    assert codes == [1 if mode is Mode.UNKNOWN else -9, 1 if done else 0], person.log()
    assert bank.status(xid) == "PARKED", "nobody has told the coordinator yet"
    bank.retry(xid)
    bank.check()
    ran(point, mode, office)


def test_no_money_is_lost_whoever_dies(opened: Open) -> None:
    bank = opened("postgres18")
    orders = [bank.order() for _ in range(TRANSFERS)]
    began, kills = time.monotonic(), Counter[str]()
    sent = [bank.send(order) for order in orders]
    while not all(each.done() for each in sent):
        time.sleep(bank.chance.uniform(0.5, 1.5))
        victim = bank.chance.choice(bank.mortals())
        victim.end()
        kills[victim.name] += 1
        time.sleep(bank.chance.uniform(0.0, 0.3))
        victim.start()
    for each in sent:
        each.result()
    seconds = time.monotonic() - began
    bank.check()
    bank.coordinator.restart()
    bank.check()  # and what the coordinator reads from its store says the same
    told = Counter(order.told if order.told in ("COMMIT", "ROLLBACK") else "not known" for order in orders)
    why = Counter(REASON.findall(order.why)[0] for order in orders if order.why)
    print(f"seed {SEED}, {CLIENTS} clients: {dict(told)} in {seconds:.1f} s, killed {dict(kills)}; {why.most_common(12)}")
    assert kills
    assert told["COMMIT"] > TRANSFERS / 10
    assert told["ROLLBACK"] > TRANSFERS / 10
