"""Two connections at one branch at the same moment: exactly one of the two orders is what happened, and nothing runs twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from txcoord_sdk.database import Database
from txcoord_sdk.fence import fence
from txcoord_sdk.fence.fence import HangingTryError
from txcoord_sdk.tcc.retries import again_after_transient_errors
from txcoord_sdk.transaction.effects import Invoke, Steps, drive

RESOURCE = "stock:reserve@1"
ROUNDS = 25


def xid(number: int) -> str:
    return f"default.0mgx5xz2o.{number:08d}"


class Race:
    """Steps of branches, each with an effect of its own, run by threads over an engine with room for all."""

    def __init__(self, database: Database, engine: Engine, isolation: str) -> None:
        options = {} if engine.dialect.name == "sqlite" else {"isolation_level": isolation}
        self.engine = create_engine(engine.url, pool_size=16, **options)
        self.database = database
        self.failures: list[BaseException] = []
        self.told: dict[str, list[str]] = {}

    def step(self, kind: str, number: int) -> None:
        """One try, confirm or cancel with its effect, again after a deadlock as the SDK does it."""

        def once() -> Steps[str]:
            with self.engine.begin() as connection:
                ended: str = yield Invoke(lambda: self._enter(connection, kind, number))
                return ended

        try:
            ended = drive(again_after_transient_errors(self.database, once))
        except HangingTryError:
            ended = "refused"
        except BaseException as error:
            self.failures.append(error)
            raise
        self.told.setdefault(f"{kind}", []).append(ended)

    def _enter(self, connection: Connection, kind: str, number: int) -> str:
        if kind == "try":
            fence.tried(connection, xid(number), 1, RESOURCE)
            runs = True
        elif kind == "confirm":
            runs = fence.confirmed(connection, xid(number), 1)
        else:
            runs = fence.cancelled(connection, xid(number), 1, RESOURCE)
        time.sleep(random.random() * 0.004)
        if runs:
            amount = {"try": 1, "confirm": 1000, "cancel": -1}[kind]
            connection.execute(text(f"UPDATE counter SET n = n + {amount} WHERE id = {number}"))
        return "ran" if runs else "nothing"

    def together(self, *steps: Callable[[], None]) -> None:
        """Run steps at the same moment, each in a thread."""
        meet = threading.Barrier(len(steps))

        def run(step: Callable[[], None]) -> None:
            meet.wait()
            step()

        threads = [threading.Thread(target=run, args=(step,)) for step in steps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "it hangs"
        assert self.failures == []

    def counters(self) -> list[int]:
        with self.engine.connect() as connection:
            return list(connection.scalars(text("SELECT n FROM counter ORDER BY id")))


@pytest.fixture(params=["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def race(request: pytest.FixtureRequest, database: Database, engine: Engine) -> Iterator[Race]:
    if engine.dialect.name == "sqlite" and request.param != "READ COMMITTED":
        pytest.skip("SQLite has one isolation level")
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM counter"))
        for number in range(ROUNDS):
            connection.execute(text(f"INSERT INTO counter VALUES ({number}, 0)"))
    made = Race(database, engine, request.param)
    yield made
    made.engine.dispose()


def test_try_against_cancel(race: Race) -> None:
    """Either the try is cancelled, or it is refused by the guard; the reservation never stays."""
    for n in range(ROUNDS):
        race.together(partial(race.step, "try", n), partial(race.step, "cancel", n))
    assert race.counters() == [0] * ROUNDS
    assert race.told["try"].count("ran") == race.told["cancel"].count("ran")
    assert len(race.told["try"]) == ROUNDS


def test_confirm_against_confirm(race: Race) -> None:
    for n in range(ROUNDS):
        race.step("try", n)
        race.together(*[partial(race.step, "confirm", n)] * 3)
    assert race.counters() == [1001] * ROUNDS
    assert race.told["confirm"].count("ran") == ROUNDS


def test_cancel_against_cancel(race: Race) -> None:
    """Half of the branches never had a try: the gap where their row would stand is everybody's on MariaDB."""
    for n in range(ROUNDS):
        if n % 2:
            race.step("try", n)
        race.together(*[partial(race.step, "cancel", n)] * 3)
    assert race.counters() == [0] * ROUNDS
    assert race.told["cancel"].count("ran") == ROUNDS // 2


def test_cancels_and_tries_of_neighbours_do_not_stop_one_another(race: Race) -> None:
    """Gap locks of MariaDB under REPEATABLE READ: many branches with keys side by side, all orders at once."""

    def life(n: int) -> None:
        kinds = ["try", "cancel", "cancel"]
        random.Random(n).shuffle(kinds)
        for kind in kinds:
            race.step(kind, n)

    race.together(*[partial(life, n) for n in range(12)])
    assert race.counters() == [0] * ROUNDS


def test_a_cancel_waits_for_the_try_that_is_under_way(race: Race) -> None:
    """It must not take an uncommitted try for none."""
    if race.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer: the cancel is told that the database is locked, and tries again")
    ended: list[str] = []
    with race.engine.connect() as trying:
        race._enter(trying, "try", 1)

        def cancel() -> None:
            race.step("cancel", 1)
            ended.append("cancel")

        thread = threading.Thread(target=cancel)
        thread.start()
        time.sleep(0.3)
        assert ended == []
        trying.commit()
    thread.join(30)
    assert race.told["cancel"] == ["ran"]
    assert race.counters()[1] == 0


def test_waiting_for_a_lock_has_an_end_on_our_own_pool(race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    """A try that hangs in its local transaction does not hold our two connections for ever."""
    monkeypatch.setattr("txcoord_sdk.database.LOCK_WAIT_SECONDS", 1)
    own = Database(race.engine, "own")
    with race.engine.connect() as trying:
        race._enter(trying, "try", 1)
        started = time.monotonic()
        with pytest.raises(DBAPIError) as caught:
            own.run(lambda c: fence.cancelled(c, xid(1), 1, RESOURCE))
        assert time.monotonic() - started < 4
        assert caught.value.orig is not None
        assert own.dialect.transient(caught.value.orig)
    own.close()
