"""AT's second phases as commands: undone or forgotten, retried or parked, on synchronous and asynchronous engines."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from txcoord_proto.status import Settlement
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_rm.at.parking import DifferenceError
from txcoord_rm.at.participant import ONLY_LOCKS, UNDO_LOG, AtParticipant
from txcoord_rm.undo.log import forget, metadata
from txcoord_sdk.database import Database
from txcoord_sdk.fence.retention import purge_steps
from txcoord_sdk.participant import BranchCommand, Command, ParkError, UnavailableError
from txcoord_sdk.session.requests import Sink
from txcoord_sdk.testing import wait_until
from txcoord_sdk.transaction.effects import adrive, drive

from tests.contract.rm.branches import log, phase_one, plain, rows
from tests.servers.fixtures import FreshUrl

X = "g.1.00000001"


class Scene:
    """A database with an undo log, looked at from outside, and the participant that works in it."""

    def __init__(self, plain_url: str, driver: str) -> None:
        self.engine: Engine = create_engine(plain_url)
        url = plain_url.replace("+psycopg", f"+{driver}")
        self.loop = asyncio.new_event_loop()
        if driver == "asyncpg":
            self.database = Database(create_async_engine(url, isolation_level="SERIALIZABLE"), "")
        else:
            self.database = Database(create_engine(url, isolation_level="SERIALIZABLE"), "")
        self.database.add_tables(metadata)
        self.run(self.database.aprepare()) if self.database.is_async else self.database.prepare()
        self.participant = AtParticipant(self.database)
        plain(
            self.engine,
            "CREATE TABLE acct (id int PRIMARY KEY, bal numeric NOT NULL, email text UNIQUE, note text)",
            "INSERT INTO acct VALUES (1, 100.00, 'a@x', 'one'), (2, 200, 'b@x', NULL), (3, 300, NULL, 'three')",
        )
        self.before = self.rows()

    def run(self, working: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(working)

    def rows(self) -> list[str]:
        return rows(self.engine, "acct")

    def branch(self, branch_id: int, *statements: str, xid: str = X) -> None:
        phase_one(self.engine, xid, branch_id, *statements)

    def rollback(self, *branch_ids: int, xid: str = X, arguments: bytes = b"") -> None:
        branches = tuple(BranchCommand(branch_id, arguments) for branch_id in branch_ids)
        self._await(self.participant.rollback(Command(xid, "db@1", False, branches)))

    def commit(self, *commands: Command) -> None:
        self._await(self.participant.commit(commands))

    def _await(self, working: Any) -> None:
        if self.database.is_async:
            self.run(working)
        else:
            assert working is None

    def close(self) -> None:
        if self.database.is_async:
            self.run(self.database.aclose())
        self.database.close()
        self.loop.close()
        self.engine.dispose()


@pytest.fixture(params=["postgres+psycopg", "postgres18+psycopg", "postgres18+asyncpg"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    server, driver = request.param.split("+")
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{server}_url")
    made = Scene(fresh("psycopg"), driver)
    yield made
    made.close()


def committed(xid: str, *branch_ids: int, arguments: bytes = b"") -> Command:
    return Command(xid, "db@1", True, tuple(BranchCommand(branch_id, arguments) for branch_id in branch_ids))


def test_all_branches_of_a_command_are_undone_together(scene: Scene) -> None:
    scene.branch(1, "UPDATE acct SET bal = 1 WHERE id = 1", "DELETE FROM acct WHERE id = 2")
    scene.branch(2, "UPDATE acct SET bal = 2 WHERE id = 1", "INSERT INTO acct VALUES (2, 7)")
    scene.rollback(1, 2)
    assert scene.rows() == scene.before
    assert log(scene.engine) == [(X, 1, 1, "UNDONE"), (X, 2, 1, "UNDONE")]
    scene.rollback(2, 1)
    assert scene.rows() == scene.before, "what comes again is done"


def test_a_branch_that_is_asked_for_alone_takes_those_with_it_that_wrote_after_it(scene: Scene) -> None:
    """After a failure every branch is tried again at a time of its own."""
    scene.branch(1, "UPDATE acct SET bal = 1 WHERE id = 1")
    scene.branch(2, "UPDATE acct SET bal = 2 WHERE id = 1")
    scene.branch(3, "UPDATE acct SET bal = 3 WHERE id = 2", xid="other")
    scene.rollback(1)
    assert scene.rows() == [scene.before[0], "(2,3,b@x,)", scene.before[2]]
    scene.rollback(2)
    assert log(scene.engine) == [(X, 1, 1, "UNDONE"), (X, 2, 1, "UNDONE"), ("other", 3, 1, "IMAGE")]


def test_a_branch_that_only_holds_locks_has_nothing_to_undo(scene: Scene) -> None:
    scene.rollback(4, 5, arguments=ONLY_LOCKS)
    scene.commit(committed(X, 4, arguments=ONLY_LOCKS))
    assert log(scene.engine) == []


def test_rows_of_others_park_it_with_each_column_named(scene: Scene) -> None:
    scene.branch(
        1,
        "UPDATE acct SET bal = 1, note = 'mine' WHERE id = 1",
        "DELETE FROM acct WHERE id = 2",
        "INSERT INTO acct VALUES (9, 9)",
        "UPDATE acct SET bal = 8 WHERE id = 3",
    )
    plain(
        scene.engine,
        "UPDATE acct SET bal = 77, note = E'line\\n" + "long" * 30 + "' WHERE id = 1",
        "INSERT INTO acct VALUES (2, 5)",
        "UPDATE acct SET note = 'theirs' WHERE id = 9",
        "DELETE FROM acct WHERE id = 3",
    )
    written = scene.rows()
    with pytest.raises(DifferenceError) as parked:
        scene.rollback(1)
    said = str(parked.value)
    assert said.startswith(
        f"4 rows are not as the transaction left them, nothing was undone; all of it: `txcoord-agent undo show {X}"
    )
    assert "public.acct(id=9).note: inserted as NULL, is theirs" in said
    assert "public.acct(id=3) is gone" in said
    assert "public.acct(id=2) was deleted, and is there again" in said
    assert "public.acct(id=1).bal: was 100.00, became 1, is 77" in said
    assert "is line\\nlonglong" in said
    assert len(said) <= 500, "the coordinator keeps no more"
    assert isinstance(parked.value, ParkError)
    assert scene.rows() == written
    assert {state for *_, state in log(scene.engine)} == {"IMAGE"}


def test_as_many_rows_are_named_as_the_text_holds(scene: Scene) -> None:
    plain(scene.engine, "INSERT INTO acct SELECT n, n FROM generate_series(10, 60) AS n")
    scene.branch(1, "UPDATE acct SET bal = bal + 1 WHERE id >= 10")
    plain(scene.engine, "UPDATE acct SET bal = bal * 2 WHERE id >= 10")
    with pytest.raises(DifferenceError, match=r"^51 rows are not .*; and \d+ more$") as parked:
        scene.rollback(1)
    assert 400 < len(str(parked.value)) <= 480


def test_a_record_that_cannot_be_read_parks_it(scene: Scene) -> None:
    scene.branch(1, "UPDATE acct SET bal = 1 WHERE id = 1")
    plain(scene.engine, "UPDATE txcoord_undo_log SET format = 99")
    with pytest.raises(ParkError, match=f"has format 99.*nothing was undone, see `txcoord-agent undo show {X}`"):
        scene.rollback(1)
    plain(scene.engine, "UPDATE txcoord_undo_log SET format = 1", "DROP TABLE acct")
    with pytest.raises(ParkError, match=r"public\.acct does not exist any more"):
        scene.rollback(1)


def test_a_row_that_somebody_holds_is_waited_for_and_left_for_later(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.branch(1, "UPDATE acct SET bal = 1 WHERE id = 1")
    with scene.engine.connect() as other:
        other.execute(text("UPDATE acct SET note = 'held' WHERE id = 1"))
        started = time.monotonic()
        with pytest.raises(OperationalError if not scene.database.is_async else Exception, match="lock timeout"):
            scene.rollback(1)
        assert 3.5 < time.monotonic() - started < 8, "twice, two seconds each"
        releasing = threading.Timer(0.5, other.commit)
        releasing.start()
        scene.rollback(1)
        releasing.join()
    assert scene.rows()[0] == "(1,100.00,a@x,held)"


def test_a_connection_that_is_lost_says_nothing_of_the_rollback(scene: Scene) -> None:
    scene.branch(1, "UPDATE acct SET bal = 1 WHERE id = 1")
    with scene.engine.connect() as other, ThreadPoolExecutor(1) as pool:
        other.execute(text("UPDATE acct SET note = 'held' WHERE id = 1"))
        undoing = pool.submit(scene.rollback, 1)
        waiting = "SELECT pid FROM pg_locks WHERE NOT granted"
        wait_until(lambda: other.execute(text(waiting)).all(), what="the rollback to wait")
        other.execute(text(f"SELECT pg_terminate_backend(pid) FROM ({waiting}) AS w"))
        with pytest.raises(UnavailableError):
            undoing.result(20)
        other.commit()
    assert log(scene.engine) == [(X, 1, 1, "IMAGE")]
    scene.rollback(1)
    assert scene.rows()[0] == "(1,100.00,a@x,held)"


def test_commits_of_many_transactions_are_one_statement(scene: Scene) -> None:
    for n in range(1, 6):
        scene.branch(n, f"UPDATE acct SET bal = {n} WHERE id = 1", "UPDATE acct SET note = note || 'x'", xid=f"x{n}")
    scene.rollback(7, xid="guarded")
    scene.commit(committed("x1", 1), committed("x3", 3), committed("x9", 4), committed("guarded", 7), committed("x5", 5, 6))
    left = [(xid, branch_id, seq) for xid, branch_id, seq, _ in log(scene.engine)]
    assert left == [("guarded", 7, 1), ("x2", 2, 1), ("x2", 2, 2), ("x4", 4, 1), ("x4", 4, 2)]
    scene.commit(committed("x1", 1))


def test_commits_find_their_records_by_key_whatever_statistics_say(scene: Scene) -> None:
    """Those of a table that empties and fills again are never right."""
    filled = (
        "INSERT INTO txcoord_undo_log SELECT g, 1, 'IMAGE', 'x', 1, 0, 's', 't', '{a}', '{(1)}', '{(2)}' FROM generate_series"
    )
    plain(scene.engine, f"{filled}(1, 20000) AS g")
    with scene.engine.begin() as connection:
        assert forget(connection, [("x", n) for n in range(100, 300)]) == 200
        read = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'txcoord_undo_log'"
        assert connection.exec_driver_sql(read).scalar_one() == 0


def test_a_record_that_somebody_holds_does_not_make_a_commit_wait_for_long(scene: Scene) -> None:
    scene.branch(1, "UPDATE acct SET bal = 1 WHERE id = 1")
    with scene.engine.connect() as other:
        other.execute(text("SELECT 1 FROM txcoord_undo_log FOR UPDATE"))
        started = time.monotonic()
        with pytest.raises(Exception, match="lock timeout"):
            scene.commit(committed(X, 1))
        assert time.monotonic() - started < 2
    scene.commit(committed(X, 1))
    assert log(scene.engine) == []


def test_an_unreachable_database_is_unavailable() -> None:
    database = Database(create_engine("postgresql+psycopg://nobody@127.0.0.1:1/x?connect_timeout=1"), "away")
    participant = AtParticipant(database)
    with pytest.raises(UnavailableError, match="database 'away' cannot be reached"):
        participant.commit([committed(X, 1)])
    with pytest.raises(UnavailableError, match="database 'away' cannot be reached"):
        participant.rollback(committed(X, 1))
    database.close()


def test_what_nobody_needs_any_more_goes_with_its_transaction(scene: Scene) -> None:
    ends = {"settled": Settlement.SETTLED, "expired": Settlement.EXPIRED, "open": Settlement.UNSETTLED, "odd": Settlement.UNKNOWN}
    number = 0
    for name in ends:
        number += 3
        scene.rollback(number, xid=name)
        scene.branch(number + 1, "UPDATE acct SET bal = bal + 1", "UPDATE acct SET bal = bal + 1", xid=name)
        scene.branch(number + 2, "UPDATE acct SET bal = bal + 1 WHERE id = 2", xid=name)
        scene.rollback(number + 2, xid=name)
    scene.branch(100, "UPDATE acct SET bal = bal + 1 WHERE id = 3", xid="settled")
    plain(scene.engine, "UPDATE txcoord_undo_log SET created_at = created_at - 1000 * 3600 * 24 * 8 WHERE branch_id < 100")
    whole = log(scene.engine)
    assert len(whole) == 4 * 4 + 1
    asked: list[str] = []

    def settled(xids: list[str], sink: Sink) -> None:
        asked.extend(xids)
        sink(pb.SettledReply(settlements=[ends[xid].value for xid in xids]), None)

    week = 7 * 24 * 3600.0
    database = scene.database
    steps = purge_steps(database.arun if database.is_async else database.run, settled, week, UNDO_LOG)
    removed = scene.run(adrive(steps)) if database.is_async else drive(steps)
    left = log(scene.engine)
    assert sorted(asked) == sorted(ends)
    assert {xid for xid, *_ in left} == {"open", "odd", "settled"}
    assert [row for row in left if row[0] == "settled"] == [("settled", 100, 1, "IMAGE")], "it is young"
    assert removed == len(whole) - len(left)
