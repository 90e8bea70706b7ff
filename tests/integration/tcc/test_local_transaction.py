"""How a local transaction ended, told on every driver: committed, rolled back or unknown, and each once."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from txcoord_proto.errors import ConfigurationError, DeadlinePassedError
from txcoord_sdk.local_transaction import WatchedDialect, enlist, watch

from tests.integration.tcc.drivers import ASYNC, SYNC, Driver, fresh_url

DRIVERS = SYNC + ASYNC


class Recorder:
    """Remembers what it was told, and looks for a row of its own where that is in doubt, as a branch does."""

    def __init__(self, connection: Connection, row: int = 0, refuse: bool = False) -> None:
        self.told: list[str] = []
        self._connection = connection
        self._row = row
        self._refuse = refuse
        enlist(connection, self)

    def before_commit(self, in_doubt: bool) -> None:
        self.told.append("asked in doubt" if in_doubt else "asked")
        if self._refuse:
            raise DeadlinePassedError("too late")
        if in_doubt and self._connection.scalar(text(f"SELECT count(*) FROM t WHERE id = {self._row}")) != 1:
            raise DeadlinePassedError("my row is gone")

    def committed(self) -> None:
        self.told.append("committed")

    def rolled_back(self) -> None:
        self.told.append("rolled back")

    def unknown(self, error: BaseException) -> None:
        self.told.append("unknown")


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Driver:
    driver = Driver(request.param, fresh_url(request, request.param, tmp_path))

    def create(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)"))
        connection.commit()

    driver.run(watch, create)
    return driver


def write(connection: Connection, row: int) -> None:
    connection.execute(text(f"INSERT INTO t VALUES ({row}, 0)"))


def rows(connection: Connection) -> list[int]:
    assert isinstance(connection.dialect, WatchedDialect)
    assert not connection.dialect._txcoord_open, "nothing is remembered of transactions that have ended"
    return sorted(connection.scalars(text("SELECT id FROM t")))


def told(driver: Driver, work: object, **options: object) -> tuple[list[str], list[int]]:
    """What a recorder was told during `work`, and the rows that are there afterwards."""
    recorders: list[Recorder] = []

    def first(connection: Connection) -> None:
        recorders.append(work(connection))  # type: ignore[operator]

    def then(connection: Connection) -> None:
        found.extend(rows(connection))

    found: list[int] = []
    driver.run(watch, first, then, **options)
    return recorders[0].told, found


def test_a_commit_is_told_after_it_returned(driver: Driver) -> None:
    def work(connection: Connection) -> Recorder:
        write(connection, 1)
        recorder = Recorder(connection)
        assert recorder.told == []
        connection.commit()
        write(connection, 2)  # the next transaction of the connection is nobody's
        connection.commit()
        return recorder

    assert told(driver, work) == (["asked", "committed"], [1, 2])


def test_a_rollback_a_close_and_a_detached_close_are_told(driver: Driver) -> None:
    def rolls_back(connection: Connection) -> Recorder:
        write(connection, 1)
        recorder = Recorder(connection)
        connection.rollback()
        assert recorder.told == ["rolled back"]
        return recorder

    def closes(connection: Connection) -> Recorder:
        write(connection, 1)
        return Recorder(connection)

    def detaches(connection: Connection) -> Recorder:
        write(connection, 1)
        connection.detach()
        return Recorder(connection)

    # SQLAlchemy itself leaves a detached asynchronous connection open
    for work in (rolls_back, closes) if driver.is_async else (rolls_back, closes, detaches):
        assert told(driver, work) == (["rolled back"], []), work.__name__


def test_an_invalidated_connection_is_rolled_back(driver: Driver) -> None:
    def work(connection: Connection) -> Recorder:
        write(connection, 1)
        recorder = Recorder(connection)
        connection.invalidate()
        return recorder

    assert told(driver, work) == (["rolled back"], [])


def test_savepoints_end_what_enlisted_in_them(driver: Driver) -> None:
    def work(connection: Connection) -> Recorder:
        write(connection, 1)
        outer = Recorder(connection)
        with connection.begin_nested():
            write(connection, 2)
            kept = Recorder(connection)
        lost = connection.begin_nested()
        write(connection, 3)
        gone = Recorder(connection)
        with connection.begin_nested():
            write(connection, 4)
            deeper = Recorder(connection)
        lost.rollback()
        assert (gone.told, deeper.told) == (["rolled back"], ["rolled back"])
        connection.commit()
        assert kept.told == ["asked", "committed"]
        assert gone.told == ["rolled back"]
        return outer

    assert told(driver, work) == (["asked", "committed"], [1, 2])


def test_what_is_refused_before_commit_is_rolled_back(driver: Driver) -> None:
    def work(connection: Connection) -> Recorder:
        write(connection, 1)
        recorder = Recorder(connection, refuse=True)
        with pytest.raises(DeadlinePassedError, match="too late"):
            connection.commit()
        assert recorder.told == ["asked", "rolled back"]
        connection.rollback()
        return recorder

    assert told(driver, work) == (["asked", "rolled back"], [])


def test_a_failed_statement_puts_the_transaction_in_doubt(driver: Driver) -> None:
    """PostgreSQL answers such a COMMIT with a silent ROLLBACK; the others go on."""

    def work(connection: Connection) -> Recorder:
        write(connection, 1)
        recorder = Recorder(connection, row=1)
        with pytest.raises(DBAPIError):
            write(connection, 1)
        if driver.backend == "postgresql":
            with pytest.raises(DBAPIError):
                connection.commit()
        else:
            connection.commit()
        return recorder

    failed = driver.backend == "postgresql"
    ended, left = ("rolled back", []) if failed else ("committed", [1])
    assert told(driver, work) == (["asked in doubt", ended], left)


def test_a_failed_statement_in_a_savepoint_does_no_harm(driver: Driver) -> None:
    def work(connection: Connection) -> Recorder:
        write(connection, 1)
        recorder = Recorder(connection, row=1)
        with pytest.raises(DBAPIError), connection.begin_nested():
            write(connection, 1)
        connection.commit()
        return recorder

    assert told(driver, work) == (["asked in doubt", "committed"], [1])


def test_a_connection_lost_before_commit(driver: Driver) -> None:
    """Noticed at a statement it is rolled back; noticed at COMMIT nobody knows."""
    if driver.backend == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    me, kill = {
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({}, 5000)"),
        "mysql": ("SELECT connection_id()", "KILL {}"),
    }[driver.backend]

    def work_of(at_commit: bool) -> object:
        def work(connection: Connection) -> Recorder:
            write(connection, 1)
            recorder = Recorder(connection)
            number = connection.scalar(text(me))
            Driver("postgresql+psycopg" if driver.backend == "postgresql" else "mysql+pymysql", sync_url(driver)).run(
                lambda engine: None, lambda other: other.execute(text(kill.format(number)))
            )
            if at_commit:
                with pytest.raises(DBAPIError):
                    connection.commit()
            else:
                with pytest.raises(DBAPIError):
                    write(connection, 2)
            return recorder

        return work

    assert told(driver, work_of(at_commit=False)) == (["rolled back"], [])
    assert told(driver, work_of(at_commit=True)) == (["asked", "unknown"], [])


def sync_url(driver: Driver) -> str:
    scheme = "postgresql+psycopg" if driver.backend == "postgresql" else "mysql+pymysql"
    return scheme + ":" + driver._url.partition(":")[2]


def test_a_commit_that_the_database_refuses_is_rolled_back(driver: Driver) -> None:
    if driver.backend == "mysql":
        pytest.skip("MariaDB has no deferred constraints")
    key = "id INTEGER PRIMARY KEY, p INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED"

    def create(connection: Connection) -> None:
        connection.execute(text(f"CREATE TABLE child ({key})"))
        connection.commit()

    driver.run(watch, create)

    def work(connection: Connection) -> Recorder:
        if driver.backend == "sqlite":
            connection.commit()
            connection.execute(text("PRAGMA foreign_keys = ON"))
            connection.commit()
        write(connection, 1)
        connection.execute(text("INSERT INTO child VALUES (1, 77)"))
        recorder = Recorder(connection, row=1)
        with pytest.raises(DBAPIError):
            connection.commit()
        return recorder

    assert told(driver, work) == (["asked", "rolled back"], [])


@pytest.mark.parametrize("name", ["postgresql+psycopg", "mysql+pymysql"])
def test_a_deadlock_that_rolls_back_unseen_is_no_commit(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """MariaDB rolls back and begins anew when it chooses a victim; what comes after would be committed alone."""
    import threading

    driver = Driver(name, fresh_url(request, name, tmp_path))

    def create(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)"))
        for row in (1, 2):
            write(connection, row)
        connection.commit()

    driver.run(watch, create)
    meet = threading.Barrier(2)
    outcomes: list[tuple[str, list[str]]] = []

    def one(mine: int, other: int, weight: int) -> None:
        def work(connection: Connection) -> None:
            for extra in range(weight):  # the lighter transaction is the victim
                write(connection, 100 * mine + extra)
            write(connection, 10 + mine)
            recorder = Recorder(connection, row=10 + mine)
            connection.execute(text(f"UPDATE t SET v = v + 1 WHERE id = {mine}"))
            meet.wait()
            try:
                connection.execute(text(f"UPDATE t SET v = v + 1 WHERE id = {other}"))
                ended = "fine"
            except DBAPIError:
                ended = "victim"
                if driver.backend == "mysql":  # goes on as if nothing had been
                    write(connection, 50 + mine)
            try:
                connection.commit()
            except (DBAPIError, DeadlinePassedError):
                connection.rollback()
            outcomes.append((ended, recorder.told))

        driver.run(watch, work)

    threads = [threading.Thread(target=one, args=args) for args in ((1, 2, 5), (2, 1, 0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == [("fine", ["asked", "committed"]), ("victim", ["asked in doubt", "rolled back"])]
    left = driver.run(watch, rows)[0]
    assert not {51, 52} & set(left), "what came after the deadlock does not stand alone"


def test_a_connection_that_cannot_tell_is_refused(driver: Driver) -> None:
    def unwatched(connection: Connection) -> None:
        with pytest.raises(ConfigurationError, match=r"call client.bind\(engine\) first"):
            Recorder(connection)

    def autocommit(connection: Connection) -> None:
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            Recorder(connection.execution_options(isolation_level="AUTOCOMMIT"))

    def nothing(engine: Engine) -> None:
        """Leave it as it is."""

    driver.run(nothing, unwatched)
    driver.run(watch, autocommit)
    driver.run(watch, lambda c: _refused(c), isolation_level="AUTOCOMMIT")


def _refused(connection: Connection) -> None:
    with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
        Recorder(connection)
