"""XA's second phase on the databases: ended as decided, repeated, guarded, parked; an error is taken for no answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from txcoord_rm.at.participant import AtParticipant
from txcoord_rm.xa.branch import ARGUMENTS
from txcoord_rm.xa.identifier import Identifier
from txcoord_rm.xa.outcome import StillPreparedError
from txcoord_rm.xa.participant import DatabaseParticipant
from txcoord_rm.xa.resource import preparing_for
from txcoord_rm.xa.second_phase import XaSecondPhase
from txcoord_sdk.database import Database
from txcoord_sdk.fence import fence
from txcoord_sdk.fence.fence import HangingTryError
from txcoord_sdk.participant import BranchCommand, Command, ParkError
from txcoord_sdk.transaction.effects import adrive, drive

from tests.servers.fixtures import FreshUrl

XID = "g.1.00000001"
PLAIN = {"postgres": "psycopg", "postgres18": "psycopg", "mariadb": "pymysql"}


class Scene:
    """A database, and what ends prepared transactions in it."""

    def __init__(self, plain_url: str, driver: str) -> None:
        self.outside = create_engine(plain_url)
        url = plain_url.replace(plain_url.partition("+")[2].partition(":")[0], driver, 1)
        self.loop = asyncio.new_event_loop()
        is_async = driver in ("asyncpg", "aiomysql")
        self.engine: Any = create_async_engine(url) if is_async else create_engine(url)
        self.database = Database(self.engine, "")
        if is_async:
            self.loop.run_until_complete(self.database.aprepare())
        else:
            self.database.prepare()
        self.preparing = preparing_for(self.outside.dialect)
        own = preparing_for(self.database.sync_engine.dialect)
        self.second_phase = XaSecondPhase(self.database, own, f"db@{self.database.id}")
        with self.outside.begin() as connection:
            connection.execute(text("CREATE TABLE t (id integer PRIMARY KEY, v integer)"))
            connection.execute(text("INSERT INTO t VALUES (1, 0), (2, 0)"))

    def branch(self, branch_id: int) -> Identifier:
        return Identifier(self.database.id, XID, branch_id)

    def prepare(self, branch_id: int, row: int = 1, keeps_session: bool = False) -> Any:
        """Phase one of a branch that changes a row; returns its session."""
        identifier = self.branch(branch_id)
        connection = self.outside.connect()
        try:
            cursor = connection.connection.cursor()
            self.preparing.start(cursor, identifier)
            connection.execute(text("UPDATE t SET v = v + 1 WHERE id = :id"), {"id": row})
            fence.tried(connection, XID, branch_id, f"db@{self.database.id}")
            self.preparing.prepare(cursor, identifier)
            cursor.close()
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        if not keeps_session:
            connection.invalidate()
            connection.close()
        return connection

    def settle(self, branch_id: int, commit: bool) -> None:
        steps = self.second_phase.settle_steps(self.branch(branch_id), commit)
        if self.database.is_async:
            self.loop.run_until_complete(adrive(steps))
        else:
            drive(steps)

    def listed(self) -> set[Identifier]:
        steps = self.second_phase.listed_steps()
        return self.loop.run_until_complete(adrive(steps)) if self.database.is_async else drive(steps)

    def values(self) -> list[int]:
        with self.outside.connect() as connection:
            return list(connection.execute(text("SELECT v FROM t ORDER BY id")).scalars())

    def fences(self) -> list[tuple[int, str]]:
        with self.outside.connect() as connection:
            rows = connection.execute(text("SELECT branch_id, state FROM txcoord_fence ORDER BY branch_id"))
            return [(branch_id, state) for branch_id, state in rows]

    def do(self, statement: str) -> None:
        with self.outside.begin() as connection:
            connection.execute(text(statement))

    def close(self) -> None:
        if self.database.is_async:
            self.loop.run_until_complete(self.database.aclose())
            self.loop.run_until_complete(self.engine.dispose())
        else:
            self.database.close()
            self.engine.dispose()
        self.outside.dispose()
        self.loop.close()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("txcoord_sdk.database.LOCK_WAIT_SECONDS", 2)


@pytest.fixture(params=["postgres+psycopg", "postgres18+asyncpg", "mariadb+pymysql", "mariadb+aiomysql"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    server, driver = request.param.split("+")
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{server}_url")
    made = Scene(fresh(PLAIN[server]), driver)
    yield made
    made.close()


def test_a_branch_is_committed_once_whoever_asks_how_often(scene: Scene) -> None:
    scene.prepare(1)
    assert scene.listed() == {scene.branch(1)}
    assert (scene.values(), scene.fences()) == ([0, 0], [])
    scene.settle(1, True)
    scene.settle(1, True)
    assert (scene.values(), scene.fences()) == ([1, 0], [(1, "TRIED")])
    assert scene.listed() == set()


def test_a_branch_is_rolled_back_once_whoever_asks_how_often(scene: Scene) -> None:
    scene.prepare(1)
    scene.settle(1, False)
    scene.settle(1, False)
    assert scene.values() == [0, 0]
    assert scene.fences() == [(1, "SUSPENDED")]
    assert scene.listed() == set()


def test_a_late_prepare_after_the_guard_fails(scene: Scene) -> None:
    scene.settle(1, False)
    assert scene.fences() == [(1, "SUSPENDED")]
    with pytest.raises(HangingTryError):
        scene.prepare(1)
    assert scene.listed() == set()
    assert scene.values() == [0, 0]
    scene.settle(1, False)


def test_a_guard_waits_for_one_that_is_about_to_be_prepared(scene: Scene) -> None:
    identifier = scene.branch(1)
    with scene.outside.connect() as connection:
        cursor = connection.connection.cursor()
        scene.preparing.start(cursor, identifier)
        fence.tried(connection, XID, 1, "db@x")
        ended: list[BaseException | None] = []

        def roll_back() -> None:
            try:
                scene.settle(1, False)
            except Exception as error:
                ended.append(error)
            else:
                ended.append(None)

        thread = threading.Thread(target=roll_back)
        thread.start()
        thread.join(0.5)
        assert ended == [], "it must not be taken as rolled back while its row may still be committed"
        scene.preparing.prepare(cursor, identifier)
        connection.invalidate()
    thread.join(30)
    assert isinstance(ended[0], DBAPIError), "the prepared transaction holds the row, so this try fails"
    scene.settle(1, False)
    assert scene.listed() == set()
    assert scene.values() == [0, 0]


def test_a_commit_that_finds_nothing_is_parked(scene: Scene) -> None:
    with pytest.raises(ParkError, match="neither lists it as prepared nor has its fence row"):
        scene.settle(1, True)
    assert scene.fences() == []


def test_a_commit_of_what_was_rolled_back_is_parked(scene: Scene) -> None:
    scene.prepare(1)
    scene.settle(1, False)
    scene.settle(1, False)
    with pytest.raises(ParkError, match="has been rolled back"):
        scene.settle(1, True)
    assert scene.fences() == [(1, "SUSPENDED")]


def test_a_rollback_of_what_was_committed_is_parked(scene: Scene) -> None:
    scene.prepare(1)
    scene.settle(1, True)
    with pytest.raises(ParkError, match="has been committed"):
        scene.settle(1, False)
    assert (scene.values(), scene.fences()) == ([1, 0], [(1, "TRIED")])


def test_the_row_of_another_action_is_parked(scene: Scene) -> None:
    scene.do(f"INSERT INTO txcoord_fence VALUES ('{XID}', 1, 'stock:take', 'CONFIRMED', NULL, 0, 0)")
    for commit in (True, False):
        with pytest.raises(ParkError, match="no branch of XA"):
            scene.settle(1, commit)


def test_what_is_not_ours_is_not_touched(scene: Scene) -> None:
    foreign = Identifier("00000000-0000-0000-0000-000000000000", XID, 5)
    with scene.outside.connect() as connection:
        cursor = connection.connection.cursor()
        scene.preparing.start(cursor, foreign)
        connection.execute(text("UPDATE t SET v = 7 WHERE id = 2"))
        scene.preparing.prepare(cursor, foreign)
        connection.invalidate()
    assert scene.listed() == set()
    if scene.outside.dialect.name == "postgresql":
        with scene.outside.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"ROLLBACK PREPARED '{foreign}'")


def test_a_list_that_cannot_be_read_is_not_an_empty_one(fresh_postgres_url: FreshUrl) -> None:
    scene = Scene(fresh_postgres_url("psycopg"), "psycopg")
    scene.prepare(1)
    role = f"r{scene.database.id[:8]}"
    scene.do(f"CREATE ROLE {role} LOGIN")
    scene.do(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    scene.do("REVOKE EXECUTE ON FUNCTION pg_prepared_xact() FROM PUBLIC")
    engine = create_engine(scene.outside.url.set(username=role))
    database = Database(engine, "")
    database.prepare()
    blind = XaSecondPhase(database, scene.preparing, "db@x")
    with pytest.raises(DBAPIError, match="permission denied"):
        drive(blind.listed_steps())
    for commit in (True, False):
        with pytest.raises(DBAPIError, match="permission denied"):
            drive(blind.settle_steps(scene.branch(2), commit))
    database.close()
    engine.dispose()
    scene.settle(1, True)
    scene.do(f"DROP OWNED BY {role}")
    scene.do(f"DROP ROLE {role}")
    scene.close()


def test_a_fence_that_cannot_be_read_is_not_an_empty_one(scene: Scene) -> None:
    scene.prepare(1)
    scene.settle(1, True)
    scene.do("ALTER TABLE txcoord_fence RENAME TO hidden")
    for commit in (True, False):
        with pytest.raises(DBAPIError):
            scene.settle(1, commit)
    scene.do("ALTER TABLE hidden RENAME TO txcoord_fence")
    scene.settle(1, True)


def test_many_at_once(scene: Scene) -> None:
    for branch_id in range(1, 11):
        scene.do(f"INSERT INTO t VALUES ({branch_id + 10}, 0)")
        scene.prepare(branch_id, branch_id + 10)
    assert scene.listed() == {scene.branch(branch_id) for branch_id in range(1, 11)}
    for branch_id in range(1, 11):
        scene.settle(branch_id, branch_id % 2 == 0)
    assert scene.values() == [0, 0, *(branch_id % 2 ^ 1 for branch_id in range(1, 11))]


@pytest.fixture
def maria(fresh_mariadb_url: FreshUrl) -> Iterator[Scene]:
    made = Scene(fresh_mariadb_url("pymysql"), "pymysql")
    yield made
    made.close()


@pytest.mark.parametrize("commit", [True, False])
def test_nobody_ends_what_a_living_session_of_mariadb_has_prepared(maria: Scene, commit: bool) -> None:
    connection = maria.prepare(1, keeps_session=True)
    with pytest.raises(StillPreparedError, match="its session lives"):
        maria.settle(1, commit)
    assert maria.listed() == {maria.branch(1)}
    connection.invalidate()
    connection.close()
    maria.settle(1, commit)
    assert maria.values() == [int(commit), 0]


@pytest.mark.parametrize("commit", [True, False])
def test_a_branch_that_cannot_be_ended_holds_no_other_of_its_command_up(maria: Scene, commit: bool) -> None:
    connection = maria.prepare(1, keeps_session=True)
    maria.prepare(2, row=2)
    participant = DatabaseParticipant(AtParticipant(maria.database), maria.second_phase)
    branches = tuple(BranchCommand(branch_id, ARGUMENTS) for branch_id in (1, 2))
    command = Command(XID, f"db@{maria.database.id}", commit, branches)
    with pytest.raises(StillPreparedError, match="branch 1 "):
        participant.commit([command]) if commit else participant.rollback(command)
    assert maria.listed() == {maria.branch(1)}
    assert maria.values() == [0, int(commit)]
    connection.invalidate()
    connection.close()


def test_a_session_of_mariadb_that_goes_at_this_moment_loses_nothing(maria: Scene) -> None:
    for branch_id in range(1, 21):
        connection = maria.prepare(branch_id, keeps_session=True)
        threading.Thread(target=connection.invalidate).start()
        for _ in range(100):
            try:
                maria.settle(branch_id, True)
                break
            except StillPreparedError:
                continue
        connection.close()
    assert maria.values() == [20, 0]


def test_two_who_end_one_branch_at_once(fresh_postgres_url: FreshUrl) -> None:
    """Whoever comes second hears that it is busy, or not there: either it has ended meanwhile, or it is tried again."""
    scene = Scene(fresh_postgres_url("psycopg"), "psycopg")
    both, errors = threading.Barrier(2), list[Exception]()

    def end(branch_id: int) -> None:
        both.wait()
        try:
            scene.settle(branch_id, True)
        except StillPreparedError:
            pass
        except Exception as error:
            errors.append(error)

    for branch_id in range(1, 41):
        scene.prepare(branch_id)
        threads = [threading.Thread(target=end, args=(branch_id,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert scene.listed() == set()
    assert scene.values() == [40, 0]
    scene.close()
