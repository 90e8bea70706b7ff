"""What a captured statement does: the same as the plain one, and an undo record of exactly the rows that it changed."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_rm.capture.port import Entry
from txcoord_rm.capture.postgresql import PostgresqlCapture
from txcoord_rm.sql.flavour import Binds, Family, Flavour
from txcoord_rm.sql.recogniser import Recogniser

from tests.contract.rm.conftest import UNDO_LOG, Connection

RECOGNISERS = {binds: Recogniser(Flavour(Family.POSTGRESQL, binds)) for binds in (Binds.PERCENT, Binds.NONE)}


@dataclass
class Ran:
    """What came of a statement."""

    keys: set[str]
    rows: list[tuple[Any, ...]]
    names: list[str]
    rowcount: int
    images: list[tuple[str, list[str], list[str | None], list[str | None]]]


def run(connection: Connection, sql: str, parameters: Any = None, capture: PostgresqlCapture | None = None) -> Ran:
    statement = RECOGNISERS[Binds.NONE if parameters is None else Binds.PERCENT].recognise(sql)
    capture = capture or PostgresqlCapture(Binds.PERCENT)
    connection.execute("DELETE FROM txcoord_undo_log")
    with connection.cursor() as cursor:
        result = capture.run(cursor, statement, capture.table(cursor, statement), parameters, Entry("x", 7))
    with connection.cursor(row_factory=dict_row) as reader:
        log = reader.execute("SELECT * FROM txcoord_undo_log").fetchall()
    assert all((r["branch_id"], r["seq"], r["state"], r["xid"], r["format"]) == (7, 1, "IMAGE", "x", 1) for r in log)
    assert len(log) <= 1
    images = [(r["table_name"], r["columns"], r["befores"], r["afters"]) for r in log]
    names = [column.name for column in result.description or ()]
    return Ran(set(result.keys), list(result.rows), names, result.rowcount, images)


@pytest.fixture(autouse=True)
def acct(connection: Connection) -> None:
    connection.execute(UNDO_LOG)
    connection.execute("CREATE TABLE acct (id int PRIMARY KEY, bal numeric NOT NULL, email text UNIQUE, note text)")
    connection.execute("INSERT INTO acct VALUES (1, 100, 'a@x', 'one'), (2, 200, 'b@x', NULL), (3, 300, NULL, 'three')")


def rows(connection: Connection, query: str = "SELECT * FROM acct ORDER BY id") -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def test_an_update_by_key(connection: Connection) -> None:
    ran = run(connection, "UPDATE acct SET bal = bal - %(x)s WHERE id = %(id)s", {"x": 5, "id": 1})
    assert (ran.rows, ran.rowcount) == ([], 1)
    assert ran.keys == {"public.acct(id)=(1)"}
    assert ran.images == [("acct", ["id", "bal"], ["(1,100)"], ["(1,95)"])]
    assert [str(r[1]) for r in rows(connection)] == ["95", "200", "300"]


def test_positional_parameters_keep_their_order(connection: Connection) -> None:
    ran = run(
        connection,
        "WITH q AS (SELECT %s::int AS k) UPDATE acct AS a SET note = %s FROM q "
        "WHERE a.id = q.k AND a.bal < %s RETURNING a.id, %s::text",
        (2, "n", 1000, "r"),
    )
    assert ran.rows == [(2, "r")]
    assert ran.images == [("acct", ["id", "note"], ["(2,)"], ["(2,n)"])]


def test_what_changes_nothing_leaves_nothing(connection: Connection) -> None:
    assert run(connection, "UPDATE acct SET bal = 0 WHERE id = 99").images == []
    ran = run(connection, "UPDATE acct SET bal = bal, note = note")
    assert ran.rowcount == 3, "the rows count as changed, as they do without capture"
    assert ran.images == []


def test_only_rows_that_changed_have_images(connection: Connection) -> None:
    ran = run(connection, "UPDATE acct SET note = 'one'")
    assert ran.images == [("acct", ["id", "note"], ["(2,)", "(3,three)"], ["(2,one)", "(3,one)"])]


def test_returning_is_what_it_is_without_capture(connection: Connection) -> None:
    ran = run(connection, "UPDATE acct AS a SET bal = a.bal * 2 WHERE a.id < 3 RETURNING *, a.id AS id, bal - 1")
    assert ran.names == ["id", "bal", "email", "note", "id", "?column?"]
    assert [(r[0], int(r[1]), r[4], int(r[5])) for r in ran.rows] == [(1, 200, 1, 199), (2, 400, 2, 399)]


def test_a_star_of_joined_tables_is_refused_where_it_would_show_more(connection: Connection) -> None:
    joined = "UPDATE acct SET bal = v.n FROM (VALUES (1, 7)) AS v (k, n) WHERE acct.id = v.k RETURNING"
    if connection.info.server_version < 180_000:
        with pytest.raises(UnsupportedSqlError, match="name its columns"):
            run(connection, f"{joined} *")
    else:
        assert run(connection, f"{joined} *").names == ["id", "bal", "email", "note", "k", "n"]
    assert run(connection, f"{joined} v.*, acct.id").names == ["k", "n", "id"]


def test_the_application_may_ask_for_old_and_new(connection: Connection) -> None:
    if connection.info.server_version < 180_000:
        pytest.skip("from PostgreSQL 18 on")
    ran = run(connection, "UPDATE acct SET bal = 1 WHERE id = 1 RETURNING old.bal, new.bal AS n")
    assert [tuple(map(int, row)) for row in ran.rows] == [(100, 1)]
    assert ran.images == [("acct", ["id", "bal"], ["(1,100)"], ["(1,1)"])]


def test_a_key_that_moves_takes_both(connection: Connection) -> None:
    ran = run(connection, "UPDATE acct SET id = id + 10 WHERE id = 1")
    assert ran.keys == {"public.acct(id)=(1)", "public.acct(id)=(11)"}
    assert ran.images == [("acct", ["id", "bal", "email", "note"], ["(1,100,a@x,one)"], ["(11,100,a@x,one)"])]


def test_unique_values_are_locked_before_and_after(connection: Connection) -> None:
    assert run(connection, "UPDATE acct SET email = 'c@x' WHERE id = 1").keys == {
        "public.acct(id)=(1)", "public.acct(email)=(a@x)", "public.acct(email)=(c@x)",
    }  # fmt: skip
    assert run(connection, "UPDATE acct SET email = 'd@x' WHERE id = 3").keys == {
        "public.acct(id)=(3)",
        "public.acct(email)=(d@x)",
    }
    assert run(connection, "DELETE FROM acct WHERE id = 2").keys == {"public.acct(id)=(2)", "public.acct(email)=(b@x)"}
    assert run(connection, "INSERT INTO acct VALUES (9, 1, 'a,\"', NULL)").keys == {
        "public.acct(id)=(9)", 'public.acct(email)=("a,""")',
    }  # fmt: skip


def test_an_insert(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED)"
    )
    ran = run(connection, "INSERT INTO item (a) VALUES (%(p)s), (%(q)s) RETURNING id, b", {"p": 1, "q": 2})
    assert ran.rows == [(1, 2), (2, 4)]
    assert ran.images == [("item", ["id", "a"], [None, None], ["(1,1)", "(2,2)"])]
    assert run(connection, "INSERT INTO item DEFAULT VALUES").images == [("item", ["id", "a"], [None], ["(3,)"])]
    ran = run(connection, "INSERT INTO item (a) SELECT i.a + 1 FROM item i WHERE i.a IS NOT NULL")
    assert ran.images == [("item", ["id", "a"], [None, None], ["(4,2)", "(5,3)"])]


def test_a_delete(connection: Connection) -> None:
    ran = run(connection, "DELETE FROM acct USING (VALUES (1), (3)) AS v (k) WHERE acct.id = v.k RETURNING acct.note")
    assert sorted(ran.rows) == [("one",), ("three",)]
    assert ran.images == [("acct", ["id", "bal", "email", "note"], ["(1,100,a@x,one)", "(3,300,,three)"], [None, None])]
    assert [r[0] for r in rows(connection)] == [2]


def test_an_upsert(connection: Connection) -> None:
    upsert = "INSERT INTO acct (id, bal) VALUES (1, 5), (7, 6) ON CONFLICT (id) DO UPDATE SET bal = acct.bal + excluded.bal"
    if connection.info.server_version < 180_000:
        with pytest.raises(UnsupportedSqlError, match="before version 18"):
            run(connection, upsert)
        return
    ran = run(connection, upsert + " RETURNING id")
    assert ran.rows == [(1,), (7,)]
    assert ran.images == [
        ("acct", ["id", "bal", "email", "note"], ["(1,100,a@x,one)", None], ["(1,105,a@x,one)", "(7,6,,)"]),
    ]


def test_an_insert_that_does_nothing_on_conflict(connection: Connection) -> None:
    ran = run(connection, "INSERT INTO acct (id, bal) VALUES (1, 5), (7, 6) ON CONFLICT DO NOTHING RETURNING id")
    assert ran.rows == [(7,)]
    assert ran.images == [("acct", ["id", "bal", "email", "note"], [None], ["(7,6,,)"])]


def test_names_are_taken_as_they_are_written(connection: Connection) -> None:
    connection.execute('CREATE SCHEMA "My %s"')
    connection.execute('CREATE TABLE "My %s"."T ""x"" %" ("Id" int PRIMARY KEY, "a\'b %" text)')
    name = '"My %s"."T ""x"" %"'
    connection.execute(f"INSERT INTO {name} VALUES (1, 'x')")
    ran = run(connection, f'UPDATE {name} SET "a\'b %" = {name}."a\'b %" || \'%\' WHERE {name}."Id" = 1 RETURNING *')
    assert ran.rows == [(1, "x%")]
    assert ran.images == [('T "x" %', ["Id", "a'b %"], ["(1,x)"], ["(1,x%)"])]


def test_a_statement_with_queries_of_its_own(connection: Connection) -> None:
    ran = run(
        connection,
        "WITH RECURSIVE n (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < 2) "
        "UPDATE acct SET note = 'k' || n.k FROM n WHERE n.k = acct.id",
    )
    assert ran.images == [("acct", ["id", "note"], ["(1,one)", "(2,)"], ["(1,k1)", "(2,k2)"])]
    ran = run(
        connection,
        "UPDATE acct SET note = 'q' WHERE id = (SELECT id FROM acct WHERE bal > 150 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)",
    )
    assert ran.images == [("acct", ["id", "note"], ["(2,k2)"], ["(2,q)"])]


def test_volatile_functions_are_called_once_a_row(connection: Connection) -> None:
    connection.execute("CREATE SEQUENCE s")
    run(connection, "UPDATE acct SET bal = nextval('s') WHERE nextval('s') > 0")
    assert rows(connection, "SELECT last_value FROM s") == [(6,)]


def test_equal_values_have_equal_keys_however_they_are_written(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE odd (n numeric, f float8, c char(5), z timestamptz, i interval, PRIMARY KEY (n, f, c, z), UNIQUE (i))"
    )
    connection.execute("SET LOCAL timezone = 'Asia/Tokyo'")
    first = run(connection, "INSERT INTO odd VALUES (1.0, -0.0, 'a', '2026-01-01 00:00+00', '1 mon')").keys
    connection.execute("DELETE FROM odd")
    connection.execute("SET LOCAL timezone = 'America/New_York'")
    second = run(connection, "INSERT INTO odd VALUES (1.00, 0, 'a  ', '2026-01-01 02:00+02', '30 days')").keys
    assert first == second == {'public.odd(n,f,c,z)=(1,0,a,"2026-01-01 00:00:00")', "public.odd(i)=*"}


def test_partial_and_expression_indexes(connection: Connection) -> None:
    connection.execute("CREATE TABLE p (id int PRIMARY KEY, name text, gone bool)")
    connection.execute("CREATE UNIQUE INDEX living ON p (name) WHERE NOT gone")
    run(connection, "INSERT INTO p VALUES (1, 'a', true)")
    assert run(connection, "UPDATE p SET gone = false").keys == {"public.p(id)=(1)", "public.p(name)=(a)"}
    connection.execute("CREATE UNIQUE INDEX folded ON p (lower(name), (id + 1))")
    assert run(connection, "UPDATE p SET gone = true").keys == {"public.p(id)=(1)", "public.p(name)=(a)"}
    assert run(connection, "UPDATE p SET name = name || 'B' RETURNING name").keys == {
        "public.p(id)=(1)", "public.p(name)=(a)", "public.p(name)=(aB)", "public.p(folded)=(a,2)", "public.p(folded)=(ab,2)",
    }  # fmt: skip
    connection.execute("CREATE UNIQUE INDEX inverse ON p ((1 / id)) WHERE id <> 0")
    assert "public.p(inverse)=*" in run(connection, "INSERT INTO p VALUES (0, NULL)").keys, "it cannot be asked of every row"
    assert "public.p(inverse)=*" not in run(connection, "UPDATE p SET name = 'x' WHERE id = 0").keys
    assert run(connection, "DELETE FROM p WHERE id = 0").keys == {
        "public.p(id)=(0)", "public.p(name)=(x)", "public.p(folded)=(x,1)", "public.p(inverse)=*",
    }  # fmt: skip


def test_an_index_whose_equality_is_not_the_columns(connection: Connection) -> None:
    connection.execute("CREATE TABLE p (id int PRIMARY KEY, a text, b text)")
    connection.execute("CREATE UNIQUE INDEX padded ON p (a bpchar_ops)")
    connection.execute("CREATE UNIQUE INDEX prefixes ON p (b text_pattern_ops)")
    assert run(connection, "INSERT INTO p VALUES (1, 'x ', 'y ')").keys == {
        "public.p(id)=(1)", "public.p(padded)=*", 'public.p(b)=("y ")'
    }  # fmt: skip


def test_keys_under_an_index_of_one_partition_or_of_all_are_the_same_through_both(connection: Connection) -> None:
    connection.execute("CREATE TABLE whole (id int PRIMARY KEY, v text, w int) PARTITION BY RANGE (id)")
    connection.execute("CREATE TABLE low PARTITION OF whole FOR VALUES FROM (0) TO (10)")
    connection.execute("CREATE UNIQUE INDEX folded ON whole (id, lower(v))")
    connection.execute("CREATE UNIQUE INDEX of_low ON low (w)")
    keys = {"public.whole(id)=(1)", "public.whole(folded)=(1,a)", "public.whole(w)=(7)"}
    assert run(connection, "INSERT INTO whole VALUES (1, 'A', 7)").keys == keys
    assert run(connection, "DELETE FROM low").keys == keys


def test_keys_of_an_upsert(connection: Connection) -> None:
    if connection.info.server_version < 180_000:
        pytest.skip("from PostgreSQL 18 on")
    connection.execute("CREATE TABLE doc (id int PRIMARY KEY, code text UNIQUE)")
    upsert = "INSERT INTO doc VALUES (1, 'b'), (2, 'c') ON CONFLICT (id) DO UPDATE SET"
    for assigned, keys in (
        ("code = excluded.code", {"(id)=(1)", "(id)=(2)", "(code)=(a)", "(code)=(b)", "(code)=(c)"}),
        ("id = 9", {"(id)=(1)", "(id)=(2)", "(id)=(9)", "(code)=(a)", "(code)=(c)"}),
    ):
        connection.execute("DELETE FROM doc")
        connection.execute("INSERT INTO doc VALUES (1, 'a')")
        assert run(connection, f"{upsert} {assigned}").keys == {f"public.doc{key}" for key in keys}


def test_a_row_that_moves_to_another_partition(connection: Connection) -> None:
    connection.execute("CREATE TABLE whole (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)")
    connection.execute("CREATE TABLE low PARTITION OF whole FOR VALUES FROM (0) TO (10)")
    connection.execute("CREATE TABLE high PARTITION OF whole FOR VALUES FROM (10) TO (20)")
    run(connection, "INSERT INTO whole VALUES (1, 'a')")
    ran = run(connection, "UPDATE whole SET id = 11 WHERE id = 1")
    assert ran.keys == {"public.whole(id)=(1)", "public.whole(id)=(11)"}
    assert ran.images == [("whole", ["id", "v"], ["(1,a)"], ["(11,a)"])]
    assert run(connection, "UPDATE high SET v = 'b'").keys == {"public.whole(id)=(11)"}


def test_what_triggers_set_before_is_in_the_images(connection: Connection) -> None:
    connection.execute("CREATE TABLE doc (id int PRIMARY KEY, body text, words tsvector)")
    connection.execute(
        "CREATE TRIGGER words BEFORE INSERT OR UPDATE ON doc FOR EACH ROW "
        "EXECUTE FUNCTION tsvector_update_trigger(words, 'pg_catalog.simple', body)"
    )
    run(connection, "INSERT INTO doc VALUES (1, 'a b')")
    ran = run(connection, "UPDATE doc SET body = 'c'")
    assert ran.images == [("doc", ["id", "body", "words"], ["(1,\"a b\",\"'a':1 'b':2\")"], ["(1,c,'c':1)"])]


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
    ],
)
def test_what_cannot_be_captured_is_refused(connection: Connection, set_up: str, sql: str, reason: str) -> None:
    connection.execute(set_up)
    with pytest.raises(UnsupportedSqlError) as refused:
        run(connection, sql)
    assert reason in refused.value.message


def test_the_image_is_of_the_row_that_was_changed_not_of_one_that_was_waited_for(connection: Connection, keywords: str) -> None:
    connection.commit()
    with psycopg.connect(keywords) as other:
        other.execute("UPDATE acct SET bal = 99 WHERE id = 1")
        waiting = threading.Event()
        caught: list[Ran] = []

        def change() -> None:
            waiting.set()
            caught.append(run(connection, "UPDATE acct SET bal = bal + 1 WHERE id = 1 AND bal < 1000"))

        thread = threading.Thread(target=change)
        thread.start()
        waiting.wait()
        while not other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():
            pass
        other.commit()
        thread.join()
    assert caught[0].images == [("acct", ["id", "bal"], ["(1,99)"], ["(1,100)"])]
