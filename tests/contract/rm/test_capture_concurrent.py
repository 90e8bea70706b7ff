"""What captured statements do when others change rows or tables meanwhile; each waits for a lock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from txcoord_proto.errors import LockConflictError
from txcoord_rm.capture.port import Entry, Result
from txcoord_rm.capture.postgresql import PostgresqlCapture
from txcoord_rm.sql.flavour import Binds

from tests.contract.rm.captured import RECOGNISERS
from tests.contract.rm.conftest import Connection

pytestmark = pytest.mark.usefixtures("acct")


class Writer:
    """Captured statements of one session."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.capture = PostgresqlCapture(Binds.PERCENT)

    def run(self, sql: str) -> Result:
        statement = RECOGNISERS[Binds.NONE].recognise(sql)
        with self.connection.cursor() as cursor:
            return self.capture.run(cursor, statement, self.capture.table(cursor, statement), None, Entry("x", 7))

    def waits(self, sql: str, other: Connection, then: Callable[[], object]) -> Result | Exception:
        """What comes of a statement that waits for a lock of another connection, which does something then."""
        found: list[Result | Exception] = []

        def change() -> None:
            try:
                found.append(self.run(sql))
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=change)
        thread.start()
        pid = self.connection.info.backend_pid
        while not other.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND pid = %s", (pid,)).fetchall():
            assert thread.is_alive(), found
        then()
        thread.join()
        return found[0]


@pytest.fixture
def writer(connection: Connection) -> Writer:
    connection.commit()
    return Writer(connection)


def test_the_image_is_of_the_row_that_was_changed_not_of_one_that_was_waited_for(writer: Writer, keywords: str) -> None:
    with psycopg.connect(keywords) as other:
        other.execute("UPDATE acct SET bal = 99 WHERE id = 1")
        ran = writer.waits("UPDATE acct SET bal = bal + 1 WHERE id = 1 AND bal < 1000", other, other.commit)
    assert isinstance(ran, Result)
    images = writer.connection.execute("SELECT befores, afters FROM txcoord_undo_log").fetchall()
    assert images == [(["(1,99)"], ["(1,100)"])]


@pytest.mark.parametrize("others", ["", "FROM (VALUES ('n'), ('n')) AS v (n)"])
def test_a_row_that_got_another_key_while_it_was_waited_for(writer: Writer, keywords: str, others: str) -> None:
    with psycopg.connect(keywords) as other:
        other.execute("UPDATE acct SET id = 50 WHERE id = 2")
        ran = writer.waits(f"UPDATE acct SET note = 'n' {others} WHERE bal >= 200", other, other.commit)
    if writer.connection.info.server_version >= 180_000:
        assert isinstance(ran, Result)
        assert ran.keys == {"public.acct(id)=(50)", "public.acct(id)=(3)"}
    else:
        assert isinstance(ran, LockConflictError)
        assert "another primary key" in ran.message


def test_a_trigger_that_leaves_rows_as_they_are_is_no_conflict(writer: Writer) -> None:
    writer.connection.execute(
        "CREATE TRIGGER same BEFORE UPDATE ON acct FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    )
    assert writer.run("UPDATE acct SET note = 'one'").rowcount == 2
    assert writer.run("UPDATE acct SET note = v.n FROM (VALUES ('one'), ('one')) AS v (n) WHERE id < 3").rowcount == 0


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE acct ADD more int DEFAULT 7",
        "CREATE TRIGGER same BEFORE UPDATE ON acct FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE UNIQUE INDEX of_note ON acct (note)",
        "CREATE TABLE child (a int REFERENCES acct ON DELETE CASCADE)",
        "ALTER TABLE acct RENAME TO old_acct; CREATE TABLE acct AS TABLE old_acct",
    ],
)
def test_a_table_that_was_altered_while_it_was_waited_for(writer: Writer, keywords: str, change: str, prepared: bool) -> None:
    sql, runs = "UPDATE acct SET bal = bal + 1 WHERE id = 1", 8 if prepared else 1
    for _ in range(runs):
        writer.run(sql)
        writer.connection.commit()
    assert (writer.connection.execute("SELECT FROM pg_prepared_statements").rowcount > 0) is prepared
    writer.connection.commit()
    with psycopg.connect(keywords) as other:
        other.execute(change)
        ran = writer.waits(sql, other, other.commit)
        assert isinstance(ran, LockConflictError)
        writer.connection.rollback()
        assert other.execute("SELECT bal::int FROM acct WHERE id = 1").fetchone() == (100 + runs,)
    if "RENAME" not in change:
        assert writer.run(sql).rowcount == 1


class Counting(psycopg.Cursor[tuple[object, ...]]):
    """Counts statements that it sends."""

    sent = 0

    def execute(self, *arguments: Any, **options: Any) -> Counting:
        self.sent += 1
        super().execute(*arguments, **options)
        return self


def test_a_warm_statement_is_one_round_trip(writer: Writer) -> None:
    statement = RECOGNISERS[Binds.PERCENT].recognise("UPDATE acct SET bal = abs(%s) WHERE id = %s")
    for sent in (4, 1, 1):
        cursor = Counting(writer.connection)
        table = writer.capture.table(cursor, statement)
        assert writer.capture.foreseen(cursor, statement, table, (5, 1)) == {"public.acct(id)=(1)"}
        writer.capture.run(cursor, statement, table, (5, 1), Entry("x", 7, first=True, limit_ms=5000))
        assert cursor.sent == sent
