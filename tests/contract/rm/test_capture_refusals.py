"""What is refused because it could not be captured, or not be undone: nothing of it has run."""

from __future__ import annotations

import pytest
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_rm.capture.postgresql import PostgresqlCapture
from txcoord_rm.sql.flavour import Binds

from tests.contract.rm.captured import RECOGNISERS, run
from tests.contract.rm.conftest import Connection

pytestmark = pytest.mark.usefixtures("acct")
READER = "CREATE FUNCTION reads(int) RETURNS int STABLE LANGUAGE sql AS 'SELECT $1'"
WRITER = "CREATE FUNCTION writes(int) RETURNS int LANGUAGE sql AS 'SELECT $1'"


@pytest.mark.parametrize(
    ("set_up", "sql", "reason"),
    [
        ("CREATE VIEW v AS SELECT * FROM acct", "UPDATE v SET bal = 1", "it is a view"),
        ("CREATE TABLE n (a int)", "INSERT INTO n VALUES (1)", "no primary key"),
        ("CREATE TABLE c (a int REFERENCES acct ON DELETE CASCADE)", "DELETE FROM acct", "rows of public.c change with it"),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
            "CREATE TRIGGER other AFTER UPDATE ON acct FOR EACH ROW EXECUTE FUNCTION f()",
            "UPDATE acct SET bal = 1",
            "the trigger other may change other rows",
        ),
        (WRITER, "UPDATE acct SET bal = writes(3)", "declare it STABLE"),
        (WRITER, "INSERT INTO acct (id, bal) SELECT * FROM public.writes(9) AS w (k), (VALUES (1)) AS v", "declare it STABLE"),
        (
            f"{WRITER}; CREATE TABLE d (a int PRIMARY KEY DEFAULT writes(1))",
            "INSERT INTO d DEFAULT VALUES",
            "the default of public.d.a calls writes()",
        ),
        ("SELECT", "UPDATE acct SET note = query_to_xml('DELETE FROM acct', true, true, '')::text", "cannot be taken back"),
        ("SELECT", "UPDATE acct SET bal = pg_advisory_lock(1)::text::int", "the function pg_advisory_lock() is volatile"),
    ],
)
def test_what_cannot_be_captured_is_refused(connection: Connection, set_up: str, sql: str, reason: str) -> None:
    connection.execute(set_up)
    with pytest.raises(UnsupportedSqlError) as refused:
        run(connection, sql)
    assert reason in refused.value.message


def test_functions_that_are_known_not_to_write_pass(connection: Connection) -> None:
    connection.execute(READER)
    ran = run(connection, "UPDATE acct SET bal = reads(length(note)), note = gen_random_uuid() WHERE id = 1 AND random() < 2")
    assert ran.rowcount == 1


@pytest.mark.parametrize(
    ("sql", "passes"),
    [
        ("SELECT writes(1)", False),
        ("SELECT * FROM writes(1) AS w", False),
        ('SELECT WRITES(1), "writes"(2)', False),
        ("WITH q AS (SELECT public.writes(1)) SELECT count(*) FROM q", False),
        ("SELECT lo_unlink(1)", False),
        ("SELECT reads(1), count(*), now(), nextval('s'), coalesce(1, 2)", True),
        ("SELECT a FROM (VALUES (1)) AS writes_not (a) WHERE a IN (1) AND EXISTS (SELECT 1)", True),
    ],
)
def test_a_read_that_calls_what_may_write_is_refused(connection: Connection, sql: str, passes: bool) -> None:
    connection.execute(READER)
    connection.execute(WRITER)
    capture = PostgresqlCapture(Binds.PERCENT)
    with connection.cursor() as cursor:
        if passes:
            capture.admit(cursor, RECOGNISERS[Binds.NONE].recognise(sql))
        else:
            with pytest.raises(UnsupportedSqlError):
                capture.admit(cursor, RECOGNISERS[Binds.NONE].recognise(sql))


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ("(SELECT id FROM acct ORDER BY id LIMIT 1) AS q", "LIMIT may choose other rows"),
        ("(SELECT id FROM acct WHERE random() < 2) AS q", "random() may say something else"),
        ("acct AS q TABLESAMPLE system (100)", "system() may say something else"),
    ],
)
def test_what_would_be_evaluated_twice_is_refused(connection: Connection, others: str, reason: str) -> None:
    sql = f"UPDATE acct SET note = 'q' FROM {others} WHERE acct.id = q.id"
    if connection.info.server_version >= 180_000:
        assert run(connection, sql).rowcount > 0
    else:
        with pytest.raises(UnsupportedSqlError) as refused:
            run(connection, sql)
        assert reason in refused.value.message
    assert run(
        connection, "WITH q AS (SELECT id FROM acct LIMIT 1) UPDATE acct SET note = 'r' FROM q WHERE q.id = acct.id"
    ).rowcount


def test_what_was_refused_is_looked_at_again(connection: Connection) -> None:
    capture = PostgresqlCapture(Binds.PERCENT)
    connection.execute("CREATE TABLE n (a int)")
    with pytest.raises(UnsupportedSqlError, match="no primary key"):
        run(connection, "INSERT INTO n VALUES (1)", capture=capture)
    connection.execute("ALTER TABLE n ADD PRIMARY KEY (a)")
    assert run(connection, "INSERT INTO n VALUES (1)", capture=capture).keys == {"public.n(a)=(1)"}
