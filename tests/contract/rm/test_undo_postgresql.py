"""After an undo every row is what it was, to the bit; or nothing is, and it says which rows stand against it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from txcoord_rm.capture.port import Entry
from txcoord_rm.capture.postgresql import PostgresqlCapture
from txcoord_rm.catalogue.postgresql import query, table
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.flavour import Binds, Family, Flavour
from txcoord_rm.sql.quoting import quoted
from txcoord_rm.sql.recogniser import Recogniser
from txcoord_rm.undo.item import CorruptRecordError
from txcoord_rm.undo.log import forget, metadata, undo
from txcoord_rm.undo.restorer import Difference

from tests.servers.fixtures import FreshUrl

RECOGNISER = Recogniser(Flavour(Family.POSTGRESQL, Binds.NONE))


class Database:
    """One with an undo log, and a transaction that writes in it, branch by branch."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.branch_id = 0
        metadata.create_all(engine)

    def plain(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement.replace("%", "%%"))

    def branch(self, *statements: str) -> int:
        """Run captured statements in a local transaction of their own."""
        self.branch_id += 1
        with self.engine.begin() as connection:
            cursor, capture = connection.connection.cursor(), PostgresqlCapture(Binds.PERCENT)
            for sql in statements:
                statement = RECOGNISER.recognise(sql)
                known = capture.table(cursor, statement)
                capture.run(cursor, statement, known, None, Entry("x", self.branch_id))
        return self.branch_id

    def undo(self, *branch_ids: int) -> list[Difference]:
        with self.engine.connect() as connection:
            found = undo(connection, "x", branch_ids, lambda name: facts(connection, ".".join(map(quoted, name))))
            if not found:
                connection.commit()
            return found

    def rows(self, name: str) -> list[str]:
        with self.engine.connect() as connection:
            return list(connection.exec_driver_sql(f'SELECT t::text FROM {name} AS t ORDER BY t::text COLLATE "C"').scalars())

    def log(self) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [
                tuple(r) for r in connection.execute(text("SELECT branch_id, seq, state FROM txcoord_undo_log ORDER BY 1, 2"))
            ]


def facts(connection: Connection, name: str) -> Table | None:
    found = connection.exec_driver_sql(query(name)).scalar_one_or_none()
    return None if found is None else table(found)


@pytest.fixture(params=["postgres", "postgres18"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
    engine = create_engine(fresh("psycopg"))
    database = Database(engine)
    database.plain(
        "CREATE TABLE acct (id int PRIMARY KEY, bal numeric NOT NULL, email text UNIQUE, note text)",
        "INSERT INTO acct VALUES (1, 100.00, 'a@x', 'one'), (2, 200, 'b@x', NULL), (3, 300, NULL, E'th\"r\\\\ee, ()')",
    )
    yield database
    engine.dispose()


def test_every_kind_of_change(database: Database) -> None:
    before = database.rows("acct")
    branch = database.branch(
        "UPDATE acct SET bal = bal + 1, note = 'x'",
        "DELETE FROM acct WHERE id = 3",
        "INSERT INTO acct VALUES (4, 1, 'c@x', '')",
        "UPDATE acct SET id = id + 100, email = 'z' || email",
        "INSERT INTO acct VALUES (3, 7, 'a@x', NULL)",
    )
    assert database.rows("acct") != before
    assert database.undo(branch) == []
    assert database.rows("acct") == before
    assert database.log() == [(branch, 1, "UNDONE")]
    assert database.undo(branch) == [], "asked for again, it is done"
    assert database.rows("acct") == before


def test_rows_that_stand_in_each_others_way_go_back_one_by_one(database: Database) -> None:
    database.plain(
        "CREATE TABLE r (id int PRIMARY KEY, rank int UNIQUE)", "INSERT INTO r SELECT n, n FROM generate_series(1, 30) AS n"
    )
    before = database.rows("r")
    database.plain("ALTER TABLE r DROP CONSTRAINT r_rank_key", "ALTER TABLE r ADD UNIQUE (rank) DEFERRABLE INITIALLY DEFERRED")
    branch = database.branch("UPDATE r SET rank = rank - 1")
    database.plain("ALTER TABLE r DROP CONSTRAINT r_rank_key", "ALTER TABLE r ADD UNIQUE (rank)")
    swap = database.branch(
        "UPDATE r SET rank = -1 WHERE id = 1", "UPDATE r SET rank = 0 WHERE id = 2", "UPDATE r SET rank = 1 WHERE id = 1"
    )
    assert database.undo(branch, swap) == []
    assert database.rows("r") == before


def test_branches_are_undone_whatever_their_records_say_of_their_order(database: Database) -> None:
    before = database.rows("acct")
    first = database.branch("UPDATE acct SET bal = 1 WHERE id = 1")
    second = database.branch("UPDATE acct SET bal = 2 WHERE id = 1")
    database.plain(f"UPDATE txcoord_undo_log SET created_at = 0 WHERE branch_id = {second}")
    assert database.undo(first, second) == []
    assert database.rows("acct") == before


def test_what_somebody_else_wrote_is_never_overwritten(database: Database) -> None:
    branch = database.branch("UPDATE acct SET bal = 1 WHERE id < 3", "INSERT INTO acct VALUES (9, 9)")
    database.plain("UPDATE acct SET bal = 77 WHERE id = 1", "UPDATE acct SET note = 'mine' WHERE id = 9")
    written = database.rows("acct")
    differences = database.undo(branch)
    assert sorted((d.change.before, d.change.after, d.current) for d in differences if d.change.before) == [
        (("1", "100.00"), ("1", "1"), ("1", "77")),
    ]
    assert [(d.change.after, d.current) for d in differences if not d.change.before] == [
        (("9", "9", None, None), ("9", "9", None, "mine")),
    ]
    assert database.rows("acct") == written
    assert database.log() == [(branch, 1, "IMAGE"), (branch, 2, "IMAGE")]


def test_another_column_of_the_row_is_somebody_elses_business(database: Database) -> None:
    branch = database.branch("UPDATE acct SET bal = 1 WHERE id = 1")
    database.plain("UPDATE acct SET note = 'mine' WHERE id = 1")
    assert database.undo(branch) == []
    assert database.rows("acct")[0] == "(1,100.00,a@x,mine)"


def test_what_is_back_already_is_left(database: Database) -> None:
    before = database.rows("acct")
    branch = database.branch(
        "UPDATE acct SET bal = 1 WHERE id = 1", "INSERT INTO acct VALUES (9, 9)", "DELETE FROM acct WHERE id = 2"
    )
    database.plain(
        "UPDATE acct SET bal = 100.00 WHERE id = 1", "DELETE FROM acct WHERE id = 9", "INSERT INTO acct VALUES (2, 200, 'b@x')"
    )
    assert database.undo(branch) == []
    assert database.rows("acct") == before


def test_a_row_that_others_refer_to_does_not_take_theirs_with_it(database: Database) -> None:
    database.plain("CREATE TABLE child (id int PRIMARY KEY, acct int REFERENCES acct ON DELETE CASCADE)")
    branch = database.branch("INSERT INTO acct VALUES (9, 9)", "INSERT INTO child VALUES (1, 9)")
    assert database.undo(branch) == []
    branch = database.branch("INSERT INTO acct VALUES (9, 9)")
    database.plain("INSERT INTO child VALUES (2, 9)")
    assert len(database.undo(branch)) == 1
    assert database.rows("child") == ["(2,9)"]


def test_a_row_that_refers_to_itself_goes_and_one_that_another_refers_to_stays(database: Database) -> None:
    database.plain("CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON DELETE CASCADE)")
    assert database.undo(database.branch("INSERT INTO tree VALUES (1, 1)")) == []
    assert database.rows("tree") == []
    branch = database.branch("INSERT INTO tree VALUES (1, 1)")
    database.plain("INSERT INTO tree VALUES (2, 1)")
    assert len(database.undo(branch)) == 1
    assert database.rows("tree") == ["(1,1)", "(2,1)"]


def test_a_row_that_others_come_to_refer_to_meanwhile(database: Database) -> None:
    database.plain("CREATE TABLE child (id int PRIMARY KEY, acct int REFERENCES acct ON DELETE CASCADE)")
    branch = database.branch("INSERT INTO acct VALUES (9, 9)")
    with database.engine.connect() as other, ThreadPoolExecutor(1) as pool:
        other.exec_driver_sql("INSERT INTO child VALUES (1, 9)")
        undone = pool.submit(database.undo, branch)
        waits = "SELECT 1 FROM pg_locks WHERE NOT granted"
        while not other.exec_driver_sql(waits).all():
            pass
        other.commit()
        assert len(undone.result()) == 1
    assert database.rows("child") == ["(1,9)"]


def test_a_row_that_is_between_two_changes_is_not_taken_for_one_that_is_back(database: Database) -> None:
    before = database.rows("acct")
    first = database.branch("UPDATE acct SET bal = 1 WHERE id = 1", "INSERT INTO acct VALUES (9, 9)")
    second = database.branch("UPDATE acct SET bal = 100.00 WHERE id = 1", "DELETE FROM acct WHERE id = 9")
    database.plain(f"UPDATE txcoord_undo_log SET created_at = 0 WHERE branch_id = {second}")
    assert database.undo(first, second) == []
    assert database.rows("acct") == before


def test_keys_that_moved_are_not_taken_for_others_that_moved_there(database: Database) -> None:
    database.plain("CREATE TABLE m (id int PRIMARY KEY, v text)", "INSERT INTO m VALUES (11, 'b'), (1, 'a')")
    branch = database.branch("UPDATE m SET id = id + 10")
    database.plain("DELETE FROM m WHERE id = 11")
    assert len(database.undo(branch)) == 1
    assert database.rows("m") == ["(21,b)"]
    database.plain("INSERT INTO m VALUES (11, 'foreign')")
    assert len(database.undo(branch)) == 2
    assert database.rows("m") == ["(11,foreign)", "(21,b)"]


def test_what_the_database_makes_of_a_row_is_compared(database: Database) -> None:
    database.plain("CREATE TABLE n (id int PRIMARY KEY, v varchar(5))", "INSERT INTO n VALUES (1, 'abcde'), (2, 'abcde')")
    branch = database.branch("UPDATE n SET v = 'x' WHERE id = 1", "DELETE FROM n WHERE id = 2")
    database.plain("ALTER TABLE n ALTER v TYPE varchar(3)")
    differences = database.undo(branch)
    assert sorted(d.reason for d in differences) == ["the database made (2,abc) of a row", "the database made (abc) of a row"]
    assert database.rows("n") == ["(1,x)"]


def test_rows_that_a_policy_hides_are_not_taken_for_gone(database: Database) -> None:
    branch = database.branch("INSERT INTO acct VALUES (9, 9)")
    database.plain(
        "CREATE ROLE txcoord_blind NOSUPERUSER",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO txcoord_blind",
        "ALTER TABLE acct ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY nothing ON acct USING (false)",
    )
    try:
        with database.engine.connect() as connection:
            connection.exec_driver_sql("SET ROLE txcoord_blind")
            with pytest.raises(Exception, match="row-level security"):
                undo(connection, "x", [branch], lambda name: facts(connection, ".".join(name)))
    finally:
        database.plain("DROP OWNED BY txcoord_blind", "DROP ROLE txcoord_blind")


def test_constraints_that_wait_for_the_commit_are_asked_before(database: Database) -> None:
    database.plain(
        "CREATE TABLE d (id int PRIMARY KEY, v int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO d VALUES (1, 1)",
    )
    branch = database.branch("UPDATE d SET v = 2")
    database.plain("INSERT INTO d VALUES (2, 1)")
    (difference,) = database.undo(branch)
    assert "duplicate key" in difference.reason
    assert database.rows("d") == ["(1,2)", "(2,1)"]


def test_records_that_are_not_complete_are_refused(database: Database) -> None:
    branch = database.branch("UPDATE acct SET bal = 1 WHERE id = 1", "UPDATE acct SET bal = 2 WHERE id = 1")
    database.plain("DELETE FROM txcoord_undo_log WHERE seq = 1")
    with pytest.raises(CorruptRecordError, match="not complete"):
        database.undo(branch)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP TABLE acct", "public.acct does not exist any more"),
        ("ALTER TABLE acct DROP COLUMN bal", "no column bal any more"),
        ("ALTER TABLE acct DROP CONSTRAINT acct_pkey", "it has no primary key"),
        ("ALTER TABLE acct DROP CONSTRAINT acct_pkey, ADD PRIMARY KEY (email)", "the primary key of public.acct has changed"),
        ("ALTER TABLE acct ALTER bal TYPE date USING '2026-01-01'", "does not fit the tables as they are now"),
        ("ALTER TABLE acct ALTER id TYPE date USING '2026-01-01'::date + id", "does not fit the tables as they are now"),
        ("ALTER TABLE acct RENAME TO other; CREATE VIEW acct AS SELECT * FROM other", "it is a view"),
    ],
)
def test_a_table_that_is_another_by_now_is_left_alone(database: Database, change: str, said: str) -> None:
    database.plain("DELETE FROM acct WHERE email IS NULL")
    branch = database.branch("UPDATE acct SET bal = 1 WHERE id = 1")
    database.plain(*change.split("; "))
    with pytest.raises(CorruptRecordError, match=said):
        database.undo(branch)
    assert database.log() == [(branch, 1, "IMAGE")]


def test_images_that_say_nothing_are_refused(database: Database) -> None:
    for spoilt in ("befores = NULL, afters = NULL", "befores = afters", "columns = NULL", "afters = ARRAY['(1,2']", "format = 2"):
        branch = database.branch("UPDATE acct SET bal = bal + 1 WHERE id = 1")
        database.plain(f"UPDATE txcoord_undo_log SET {spoilt} WHERE branch_id = {branch}")
        with pytest.raises(CorruptRecordError):
            database.undo(branch)


def test_a_trigger_that_forbids_a_row_is_named(database: Database) -> None:
    branch = database.branch("DELETE FROM acct WHERE id = 1")
    database.plain(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'closed'; END $$",
        "CREATE TRIGGER no BEFORE INSERT ON acct FOR EACH ROW EXECUTE FUNCTION no()",
    )
    (difference,) = database.undo(branch)
    assert (difference.current, difference.reason) == (None, "closed")


def test_records_of_committed_transactions_are_forgotten_and_guards_are_not(database: Database) -> None:
    first = database.branch("UPDATE acct SET bal = 1 WHERE id = 1", "UPDATE acct SET bal = 2 WHERE id = 1")
    second, third = database.branch("UPDATE acct SET bal = 3"), database.branch("UPDATE acct SET bal = 4")
    assert database.undo(77) == []
    with database.engine.begin() as connection:
        assert forget(connection, [("x", first), ("x", second), ("y", third), ("x", 77), ("x", 99)]) == 3
        assert forget(connection, []) == 0
    assert database.log() == [(third, 1, "IMAGE"), (77, 1, "GUARD")]


def test_the_guard_stops_a_phase_one_that_comes_late(database: Database) -> None:
    assert database.undo(1) == []
    assert database.log() == [(1, 1, "GUARD")]
    with pytest.raises(Exception, match="txcoord_undo_log_pkey"):
        database.branch("UPDATE acct SET bal = 1")
    assert database.undo(1) == []


ZOO = {
    "int2": "-32768", "int8": "9223372036854775807", "numeric": "1.00", "float4": "1.1234567", "float8": "5e-324",
    "bool": "t", "text": "a\"b\\c,(d) \n", "varchar(3)": "ab ", "char(5)": "a", "bytea": "\\x00ff5c22", "date": "0044-03-15 BC",
    "time": "24:00:00", "timetz": "01:02:03.5+05:30", "timestamp": "infinity", "timestamptz": "2026-11-26 12:00:00.000001+00",
    "interval": "1 mon -3 days 04:00", "uuid": "0f8fad5b-d9cb-469f-a165-70867728950e",
    "json": '{"a": 1,  "a":2}', "jsonb": "null",
    "int[]": "[-1:1]={1,NULL,3}", "text[]": '{"a,b",NULL,"NULL",""}', "inet": "10.1.2.3/8", "macaddr": "08:00:2b:01:02:03",
    "bit(3)": "101", "point": "(1,2)", "int4range": "[1,5)", "tsvector": "'a':1A 'b'",
}  # fmt: skip


def test_values_of_every_type(database: Database) -> None:
    columns = [f"c{n} {kind}" for n, kind in enumerate(ZOO)]
    values = ", ".join("'" + value.replace("'", "''") + "'" for value in ZOO.values())
    database.plain(f"CREATE TABLE zoo (id int PRIMARY KEY, {', '.join(columns)})")
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO zoo VALUES (1, {values}), (2, {', '.join(['NULL'] * len(ZOO))})".replace("%", "%%")
        )
    before = database.rows("zoo")
    nulls = ", ".join(f"c{n} = NULL" for n in range(len(ZOO)))
    branch = database.branch(f"UPDATE zoo SET {nulls}", "DELETE FROM zoo", "INSERT INTO zoo (id) VALUES (1)")
    assert database.undo(branch) == []
    assert database.rows("zoo") == before


@pytest.mark.parametrize("seed", range(12))
def test_random_statements(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    database.plain(
        "CREATE TABLE t (a int, b int, c numeric(6, 2), d text DEFAULT 'd', e int GENERATED ALWAYS AS (a + 1) STORED, "
        "PRIMARY KEY (b, a))",
        "CREATE UNIQUE INDEX t_c ON t (c) WHERE d = 'x'",
        "INSERT INTO t (a, b, c, d) SELECT n, n % 3, n, CASE WHEN n % 2 = 0 THEN 'x' END FROM generate_series(1, 12) AS n",
    )
    before = database.rows("t")
    branches = []
    for _ in range(4):
        branches.append(_branch(database, chance))
    assert database.undo(*filter(None, branches)) == []
    assert database.rows("t") == before


def _branch(database: Database, chance: random.Random) -> int:
    """A branch of random statements; 0: one of them failed, as it would without capture."""
    n, m = chance.randrange(14), chance.randrange(14)
    statements = [
        f"UPDATE t SET c = c + {n} WHERE a > {m}",
        f"UPDATE t SET d = 'x' WHERE a = {n}",
        f"UPDATE t SET a = a + {n}, b = b - 1 WHERE b = {m % 3}",
        f"UPDATE t SET d = u.d FROM t AS u WHERE u.a = t.a + 1 AND t.b = {m % 3}",
        f"DELETE FROM t WHERE a IN ({n}, {m})",
        f"DELETE FROM t USING t AS u WHERE t.a = u.a + {n}",
        f"INSERT INTO t (a, b, c) SELECT a + {20 + n}, b, c FROM t WHERE a < {m}",
        f"INSERT INTO t (a, b) VALUES ({50 + n}, 1), ({70 + m}, NULLIF({n}, 7)) ON CONFLICT DO NOTHING",
    ]
    try:
        return database.branch(*chance.choices(statements, k=3))
    except psycopg.IntegrityError:
        return 0


def test_arrays_with_nulls_come_back_whatever_the_session_makes_of_them(database: Database) -> None:
    database.plain(
        "CREATE TABLE arrays (id int PRIMARY KEY, texts text[], numbers int[])",
        "INSERT INTO arrays VALUES (1, ARRAY['a', NULL, 'NULL'], ARRAY[1, NULL]), (2, ARRAY[NULL], NULL)",
        f'ALTER DATABASE "{database.engine.url.database}" SET array_nulls = off',
    )
    database.engine.dispose()
    before = database.rows("arrays")
    branch = database.branch("UPDATE arrays SET texts = ARRAY['x', NULL], numbers = ARRAY[NULL, 2]", "DELETE FROM arrays")
    assert database.undo(branch) == []
    assert database.rows("arrays") == before
    counted = "SELECT FROM arrays WHERE array_position(texts, NULL) IS NOT NULL"
    with database.engine.connect() as connection:
        assert len(connection.exec_driver_sql(counted).all()) == 2, "no text that says NULL"
