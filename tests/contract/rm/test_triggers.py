"""Tables that capture their changes themselves: what no rewritten statement sees is undone to the bit, or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from psycopg.errors import RaiseException, UniqueViolation
from sqlalchemy import Engine, create_engine
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_rm.alembic import install_capture, remove_capture
from txcoord_rm.capture.port import Entry, Result, UnrecordedError
from txcoord_rm.capture.postgresql import PostgresqlCapture
from txcoord_rm.catalogue.facts import facts_on
from txcoord_rm.commands.capture import capture_command
from txcoord_rm.commands.check import check_command
from txcoord_rm.commands.init import init_command
from txcoord_rm.sql.flavour import Binds
from txcoord_rm.undo.log import undo
from txcoord_rm.undo.operator import force

from tests.contract.rm.branches import log, phase_one, plain, rows
from tests.contract.rm.captured import RECOGNISERS
from tests.servers.fixtures import FreshUrl

X = "g.1.00000001"
PARENTS = (
    "CREATE TABLE parent (id int PRIMARY KEY, code text NOT NULL UNIQUE, note text)",
    "INSERT INTO parent VALUES (1, 'a', 'one'), (2, 'b', E'tw\\\\o\\n\"2\"'), (3, 'c', NULL), (9, 'nobody', '')",
)


@pytest.fixture(params=["postgres", "postgres18"])
def url(request: pytest.FixtureRequest) -> str:
    """Of a new database with our tables."""
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
    url = fresh("psycopg")
    assert CliRunner().invoke(init_command, [url]).exit_code == 0
    return url


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    plain(engine, *PARENTS)
    yield engine
    engine.dispose()


def install(url: str, *tables: str) -> None:
    done = CliRunner().invoke(capture_command, ["install", url, *tables])
    assert done.exit_code == 0, done.output


def restored(engine: Engine, tables: tuple[str, ...], *statements: str) -> int:
    """Run statements as a branch, undo them, and compare every row of `tables`; how many undo records there were."""
    before = {name: rows(engine, name) for name in tables}
    phase_one(engine, X, 7, *statements)
    assert {name: rows(engine, name) for name in tables} != before
    records = len(log(engine))
    with engine.begin() as connection:
        assert undo(connection, X, [7], facts_on(connection)) == []
    assert {name: rows(engine, name) for name in tables} == before
    return records


@pytest.mark.parametrize(
    ("action", "statement", "records"),
    [
        ("ON DELETE CASCADE", "DELETE FROM parent WHERE id < 3", 2),
        ("ON DELETE SET NULL", "DELETE FROM parent WHERE id < 3", 2),
        ("ON DELETE SET DEFAULT", "DELETE FROM parent WHERE id < 3", 2),
        ("ON UPDATE CASCADE", "UPDATE parent SET id = id + 10 WHERE id < 3", 2),
        ("ON UPDATE SET NULL", "UPDATE parent SET id = id + 10 WHERE id < 3", 2),
        ("ON UPDATE SET DEFAULT", "UPDATE parent SET id = id + 10 WHERE id < 3", 2),
    ],
)
def test_rows_that_change_by_a_foreign_key_come_back(url: str, engine: Engine, action: str, statement: str, records: int) -> None:
    plain(
        engine,
        f"CREATE TABLE child (id int PRIMARY KEY, parent_id int DEFAULT 9 REFERENCES parent {action}, x double precision)",
        "INSERT INTO child SELECT n, 1 + n % 3, n / 3.0 FROM generate_series(1, 30) AS n",
    )
    install(url, "parent", "child")
    assert restored(engine, ("parent", "child"), statement) == records


# ------------------------------------------------------------ what a statement reaches


def test_a_cascade_is_refused_before_it_runs_unless_every_table_on_its_way_captures_its_changes(url: str, engine: Engine) -> None:
    plain(
        engine,
        "CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE CASCADE)",
        "CREATE TABLE grandchild (id int PRIMARY KEY, child_id int REFERENCES child ON DELETE CASCADE)",
        "INSERT INTO child SELECT n, 1 + n % 2 FROM generate_series(1, 9) AS n",
        "INSERT INTO grandchild SELECT n, 1 + n % 9 FROM generate_series(1, 99) AS n",
    )
    delete = "DELETE FROM parent WHERE id = 1"
    for installed in ((), ("parent",), ("parent", "child")):
        if installed:
            install(url, *installed)
        with pytest.raises(UnsupportedSqlError, match=r"change with it by a foreign key.*txcoord-agent capture install"):
            phase_one(engine, X, 7, delete)
    install(url, "grandchild")
    assert restored(engine, ("parent", "child", "grandchild"), delete) == 3


def test_a_table_that_refers_to_itself(url: str, engine: Engine) -> None:
    plain(
        engine,
        "CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE)",
        "INSERT INTO tree SELECT n, NULLIF(n / 2, 0) FROM generate_series(1, 40) AS n",
    )
    install(url, "tree")
    restored(engine, ("tree",), "DELETE FROM tree WHERE id = 2")
    plain(engine, "DELETE FROM txcoord_undo_log")
    restored(engine, ("tree",), "UPDATE tree SET id = -id WHERE id IN (3, 4)", "DELETE FROM tree WHERE id = -3")


def test_a_cascade_is_undone_over_what_others_have_written(url: str, engine: Engine) -> None:
    plain(
        engine,
        "CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE CASCADE)",
        "INSERT INTO child SELECT n, 1 + n % 2 FROM generate_series(1, 6) AS n",
    )
    install(url, "parent", "child")
    before = rows(engine, "parent"), rows(engine, "child")
    phase_one(engine, X, 7, "DELETE FROM parent WHERE id < 3", "UPDATE parent SET note = 'x'")
    plain(engine, "INSERT INTO parent VALUES (1, 'mine', 'mine')", "INSERT INTO child VALUES (2, 1)")
    with engine.connect() as connection:
        assert undo(connection, X, [7], facts_on(connection)) != []
    with engine.begin() as connection:
        assert force(connection, X, facts_on(connection)) == []
    assert (rows(engine, "parent"), rows(engine, "child")) == before


def test_rows_that_came_before_their_key_was_changed(url: str, engine: Engine) -> None:
    plain(
        engine,
        "CREATE TABLE child (parent_id int REFERENCES parent ON UPDATE CASCADE, n int, PRIMARY KEY (parent_id, n))",
        "CREATE TABLE grandchild (id int PRIMARY KEY, a int, b int, x text)",
        "ALTER TABLE grandchild ADD FOREIGN KEY (a, b) REFERENCES child ON UPDATE CASCADE",
        "INSERT INTO child VALUES (1, 1)",
        "INSERT INTO grandchild VALUES (1, 1, 1, 'x')",
    )
    install(url, "parent", "child", "grandchild")
    restored(
        engine,
        ("parent", "child", "grandchild"),
        "INSERT INTO child VALUES (1, 2), (2, 2)",
        "INSERT INTO grandchild VALUES (2, 1, 2, 'y')",
        "UPDATE parent SET id = id + 10 WHERE id < 3",
        "UPDATE grandchild SET x = 'z'",
        "UPDATE parent SET id = id + 10 WHERE id IN (11, 12)",
        "DELETE FROM grandchild WHERE id = 2",
    )


def test_what_others_have_made_refer_to_a_row_is_not_lost(url: str, engine: Engine) -> None:
    plain(engine, "CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent ON UPDATE SET NULL)")
    install(url, "parent", "child")
    phase_one(engine, X, 7, "UPDATE parent SET id = 4 WHERE id = 1")
    plain(engine, "INSERT INTO child VALUES (1, 4)")
    with engine.begin() as connection:
        (difference,) = undo(connection, X, [7], facts_on(connection))
        assert difference.reason == "rows that refer to it would go, or change, with it"


# ------------------------------------------------------------ statements as they are


ITEMS = (
    "CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, sku text UNIQUE, n int NOT NULL, "
    "price numeric, doubled int GENERATED ALWAYS AS (n * 2) STORED, at timestamptz DEFAULT now())",
    "INSERT INTO item (sku, n, price) VALUES ('a', 1, 1.0), ('b', 2, 1.00), ('c', 3, NULL)",
    "CREATE TABLE audit (id bigserial PRIMARY KEY, what text)",
)


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        ("upsert", "INSERT INTO item (sku, n) VALUES ('a', 7), ('d', 8) ON CONFLICT (sku) DO UPDATE SET n = excluded.n"),
        (
            "merge",
            "MERGE INTO item AS t USING (VALUES ('a', 7), ('b', 0), ('e', 9)) AS s (sku, n) ON t.sku = s.sku "
            "WHEN MATCHED AND s.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = s.n, at = '2020-01-01 00:00+00' "
            "WHEN NOT MATCHED THEN INSERT (sku, n) VALUES (s.sku, s.n)",
        ),
        (
            "a change within WITH",
            "WITH gone AS (DELETE FROM item WHERE n > 1 RETURNING *) INSERT INTO audit (what) SELECT sku FROM gone RETURNING id",
        ),
        ("a change within WITH of a query", "WITH gone AS (DELETE FROM item WHERE n > 1 RETURNING sku) SELECT sku FROM gone"),
        ("a function", "SELECT book('a', 3)"),
        ("a function in a change", "UPDATE item SET n = book('b', 1) WHERE sku = 'a'"),
        ("a procedure", "CALL booked('a', 3)"),
        ("a block of code", "DO $$ BEGIN DELETE FROM item WHERE n = 2; INSERT INTO audit (what) VALUES ('b'); END $$"),
        ("unique values exchanged", "UPDATE item SET sku = CASE sku WHEN 'a' THEN 'b' ELSE 'a' END WHERE sku < 'c'"),
    ],
)
def test_whatever_writes_the_table(url: str, engine: Engine, name: str, statement: str) -> None:
    plain(
        engine,
        *ITEMS,
        "SELECT" if name == "upsert" else "ALTER TABLE item DROP CONSTRAINT item_sku_key, ADD UNIQUE (sku) DEFERRABLE",
        "CREATE FUNCTION book(text, int) RETURNS int LANGUAGE sql AS $$ "
        "INSERT INTO audit (what) VALUES ($1); UPDATE item SET n = n - $2, price = 2 WHERE sku = $1 RETURNING n $$",
        "CREATE PROCEDURE booked(text, int) LANGUAGE plpgsql AS $$ BEGIN PERFORM book($1, $2); END $$",
    )
    install(url, "item", "audit")
    restored(engine, ("item", "audit"), statement)


def test_a_table_that_does_not_capture_its_changes_must_not_be_reached(url: str, engine: Engine) -> None:
    plain(
        engine,
        *ITEMS,
        "CREATE FUNCTION book(text) RETURNS int LANGUAGE sql AS $$ INSERT INTO audit (what) VALUES ($1); SELECT 1 $$",
    )
    with pytest.raises(UnsupportedSqlError, match=r"the function book\(\) is volatile.*capture install"):
        phase_one(engine, X, 7, "UPDATE item SET n = book('a')")
    install(url, "item")
    for statement in ("UPDATE item SET n = book('a')", "SELECT book('b')", "DO 'BEGIN TRUNCATE audit; END'"):
        with pytest.raises(UnrecordedError) as error:
            phase_one(engine, X, 7, statement)
        assert "capture" in str(error.value.__cause__)
    with pytest.raises(UnrecordedError):
        phase_one(engine, X, 7, "DO 'BEGIN CREATE TABLE other (id int PRIMARY KEY); END'")
    with pytest.raises(RaiseException, match=r"TRUNCATE of public\.item cannot be undone"):
        phase_one(engine, X, 7, "DO 'BEGIN TRUNCATE item; END'")
    assert rows(engine, "audit") == []


def test_what_runs_later_is_refused(url: str, engine: Engine) -> None:
    plain(engine, *ITEMS, "CREATE FUNCTION book() RETURNS int LANGUAGE sql AS 'INSERT INTO audit (what) VALUES (1) RETURNING 1'")
    install(url, "item", "audit")
    with engine.begin() as connection:
        cursor, capture = connection.connection.cursor(), PostgresqlCapture(Binds.PERCENT)
        for query in ("SELECT book()", "(SELECT book())", "VALUES (book())", "WITH q AS (SELECT 1) SELECT book() FROM q"):
            assert capture.admit(cursor, RECOGNISERS[Binds.NONE].recognise(query))
        with pytest.raises(UnsupportedSqlError, match="is volatile"):
            capture.admit(cursor, RECOGNISERS[Binds.NONE].recognise("DECLARE c CURSOR FOR SELECT book()"))


def test_what_triggers_of_users_write(url: str, engine: Engine) -> None:
    plain(
        engine,
        *ITEMS,
        "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO audit (what) SELECT TG_OP; UPDATE item SET price = price + 1 WHERE sku = 'c'; RETURN NULL; END $$",
        "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.at := clock_timestamp(); RETURN NEW; END $$",
        "CREATE TRIGGER zz AFTER UPDATE ON item FOR EACH ROW WHEN (OLD.n <> NEW.n) EXECUTE FUNCTION told()",
        "CREATE TRIGGER stamped BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION stamp()",
    )
    update = "UPDATE item SET n = n + 1"
    with pytest.raises(UnsupportedSqlError, match="may change other rows, without undo records"):
        phase_one(engine, X, 7, update)
    install(url, "item", "audit")
    with pytest.raises(UnsupportedSqlError, match=r"may change .* of its own when it fires while rows are put back"):
        phase_one(engine, X, 7, update)
    forwards = "current_setting('txcoord.undoing', true) IS DISTINCT FROM 'on'"
    plain(
        engine,
        f"CREATE OR REPLACE TRIGGER zz AFTER UPDATE ON item FOR EACH ROW WHEN ({forwards} AND OLD.n <> NEW.n) "
        "EXECUTE FUNCTION told()",
        f"CREATE OR REPLACE TRIGGER stamped BEFORE UPDATE ON item FOR EACH ROW WHEN ({forwards}) EXECUTE FUNCTION stamp()",
    )
    restored(engine, ("item", "audit"), update)


def test_a_condition_under_which_a_trigger_may_fire_while_rows_are_put_back(url: str, engine: Engine) -> None:
    plain(engine, *ITEMS, "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
    install(url, "item")
    forwards = "current_setting('txcoord.undoing', true) IS DISTINCT FROM 'on'"
    for condition in (f"{forwards} OR NEW.n > 1", f"NOT ({forwards})", f"NEW.n > 1 OR NEW.n < 1 AND {forwards}"):
        plain(
            engine, f"CREATE OR REPLACE TRIGGER zz AFTER UPDATE ON item FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION told()"
        )
        with pytest.raises(UnsupportedSqlError, match="while rows are put back"):
            phase_one(engine, X, 7, "UPDATE item SET n = 1")


# ------------------------------------------------------------ what they leave


def captured(engine: Engine, sql: str, entry: Entry = Entry(X, 7)) -> Result:  # noqa: B008
    """Run a statement, and undo nothing."""
    with engine.begin() as connection:
        cursor, capture = connection.connection.cursor(), PostgresqlCapture(Binds.PERCENT)
        statement = RECOGNISERS[Binds.NONE].recognise(sql)
        return capture.run(cursor, statement, capture.table(cursor, statement), None, entry)


def test_lock_keys_are_those_of_what_has_changed(url: str, engine: Engine) -> None:
    plain(engine, "CREATE TABLE child (id int PRIMARY KEY, parent_id int UNIQUE REFERENCES parent ON DELETE CASCADE)")
    plain(engine, "INSERT INTO child VALUES (5, 1)")
    install(url, "parent", "child")
    keys = captured(engine, "UPDATE parent SET note = 'x' WHERE id < 3").keys
    assert keys == {"public.parent(id)=(1)", "public.parent(id)=(2)"}
    keys = captured(engine, "UPDATE parent SET code = code || id WHERE id = 3").keys
    assert keys == {"public.parent(id)=(3)", "public.parent(code)=(c)", "public.parent(code)=(c3)"}
    returned = captured(engine, "DELETE FROM parent WHERE id = 1 RETURNING note", Entry("", 0))
    assert returned.keys == {
        "public.parent(id)=(1)", "public.parent(code)=(a)", "public.child(id)=(5)", "public.child(parent_id)=(1)"
    }  # fmt: skip
    assert (returned.rowcount, returned.rows) == (1, [("x",)])
    assert len(log(engine)) == 2, "without a branch there are keys, and no record"


def test_a_row_that_stays_as_it_was_has_no_image(url: str, engine: Engine) -> None:
    install(url, "parent")
    captured(engine, "UPDATE parent SET note = note")
    captured(engine, "DELETE FROM parent WHERE id = 0")
    assert log(engine) == []


def test_a_guard_stands_before_them(url: str, engine: Engine) -> None:
    install(url, "parent")
    guard = f"(7, 1, 'GUARD', '{X}', 1, 0)"
    plain(engine, f"INSERT INTO txcoord_undo_log (branch_id, seq, state, xid, format, created_at) VALUES {guard}")
    with pytest.raises(UniqueViolation, match="txcoord_undo_log_pkey"):
        captured(engine, "DELETE FROM parent")


def test_whoever_writes_the_table_needs_no_right_on_the_log(url: str, engine: Engine) -> None:
    install(url, "parent")
    plain(
        engine,
        "DO $$ BEGIN CREATE ROLE poor; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "GRANT SELECT (id), UPDATE (note) ON parent TO poor",
        "GRANT USAGE ON SCHEMA public TO poor",
    )
    before = rows(engine, "parent")
    with engine.begin() as connection:
        cursor, capture = connection.connection.cursor(), PostgresqlCapture(Binds.PERCENT)
        cursor.execute("SET ROLE poor")
        statement = RECOGNISERS[Binds.NONE].recognise("UPDATE parent SET note = 'poor' WHERE id = 1")
        capture.run(cursor, statement, capture.table(cursor, statement), None, Entry(X, 7))
        cursor.execute("RESET ROLE")
    with engine.begin() as connection:
        assert undo(connection, X, [7], facts_on(connection)) == []
    assert rows(engine, "parent") == before


def test_settings_of_the_session_do_not_falsify_images(url: str, engine: Engine) -> None:
    plain(
        engine,
        "CREATE TABLE exact (id date PRIMARY KEY, f double precision, i interval, z timestamptz)",
        "INSERT INTO exact VALUES ('2020-12-01', 0.1::float8 + 0.2, '-1 mon 2 days', '2020-06-01 12:00+02')",
    )
    install(url, "exact")
    before = rows(engine, "exact")
    with engine.begin() as connection:
        cursor, capture = connection.connection.cursor(), PostgresqlCapture(Binds.PERCENT)
        cursor.execute(
            "SET LOCAL datestyle = 'German'; SET LOCAL extra_float_digits = -5; SET LOCAL intervalstyle = sql_standard"
        )
        statement = RECOGNISERS[Binds.NONE].recognise("UPDATE exact SET f = 1, i = '1 day', z = now()")
        capture.run(cursor, statement, capture.table(cursor, statement), None, Entry(X, 7))
    with engine.begin() as connection:
        assert undo(connection, X, [7], facts_on(connection)) == []
    assert rows(engine, "exact") == before


def test_copy_of_a_file_on_the_server(url: str, engine: Engine) -> None:
    install(url, "parent")
    with engine.connect() as connection:
        name = f"{connection.exec_driver_sql('SHOW data_directory').scalar()}/txcoord_test.csv"
    plain(engine, f"COPY (VALUES (21, 'x', 'new'), (22, 'y', NULL)) TO '{name}'")
    restored(engine, ("parent",), f"COPY parent FROM '{name}'")


def test_many_rows_are_put_back_in_a_set(url: str, engine: Engine) -> None:
    plain(
        engine,
        "CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE CASCADE, x float8)",
        "INSERT INTO child SELECT n, 1, n / 7.0 FROM generate_series(1, 3000) AS n",
    )
    install(url, "parent", "child")
    assert restored(engine, ("parent", "child"), "UPDATE child SET id = -id", "DELETE FROM parent WHERE id = 1") == 3


# ------------------------------------------------------------ commands


def command(*words: str) -> Any:
    return CliRunner().invoke(capture_command, list(words))


def test_install_list_and_remove(url: str, engine: Engine) -> None:
    printed = command("install", url, "parent", "--dry-run")
    assert printed.exit_code == 0, printed.output
    assert 'CREATE TRIGGER txcoord_capture_update AFTER UPDATE ON "public"."parent"' in printed.output
    assert json.loads(command("list", url, "--json").output) == {"tables": []}
    plain(engine, *printed.output.split(";\n\n"))
    assert json.loads(command("list", url, "--json").output) == {"tables": [{"table": "public.parent", "fault": ""}]}
    plain(engine, "ALTER TABLE parent ADD COLUMN more int")
    listed = command("list", url)
    assert listed.exit_code == 1
    assert "another version, or for the table as it was" in " ".join(listed.output.split())
    install(url, "parent")
    plain(engine, "ALTER TABLE parent DISABLE TRIGGER txcoord_capture_insert")
    assert "disabled" in json.loads(command("list", url, "--json").output)["tables"][0]["fault"]
    assert command("remove", url, "parent").exit_code == 0
    assert json.loads(command("list", url, "--json").output) == {"tables": []}
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM pg_proc WHERE proname ~ '^txcoord_'").scalar() == 0


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("nowhere", "there is no table nowhere"),
        ("keyless", "it has no primary key"),
        ("parts", "its rows are in partitions"),
        ("part", "its rows are in partitions"),
        ("priced", "how price of type money is written depends on settings"),
        ("txcoord_undo_log", "it is txcoord's own"),
    ],
)
def test_tables_that_triggers_cannot_capture(url: str, engine: Engine, table: str, reason: str) -> None:
    plain(
        engine,
        "CREATE TABLE keyless (id int)",
        "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY LIST (id)",
        "CREATE TABLE part PARTITION OF parts DEFAULT",
        "CREATE TABLE priced (id int PRIMARY KEY, price money)",
    )
    refused = command("install", url, table)
    assert refused.exit_code != 0
    assert reason in " ".join(refused.output.split())


def test_a_name_as_long_as_names_get(url: str, engine: Engine) -> None:
    long = "t" * 60 + "\"';"
    name = '"' + long.replace('"', '""') + '"'
    plain(engine, f'CREATE TABLE {name} (id int PRIMARY KEY, "a:b $txcoord$ \\" text)', f"INSERT INTO {name} VALUES (1, 'x')")
    install(url, name)
    restored(engine, (name,), f"UPDATE {name} SET \"a:b $txcoord$ \\\" = 'y'")


def test_migrations_install_and_remove_them(url: str, engine: Engine) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    with engine.begin() as connection:
        install_capture(Operations(MigrationContext.configure(connection)), "parent")
    assert json.loads(command("list", url, "--json").output) == {"tables": [{"table": "public.parent", "fault": ""}]}
    with engine.begin() as connection:
        remove_capture(Operations(MigrationContext.configure(connection)), "parent")
    assert json.loads(command("list", url, "--json").output) == {"tables": []}


def test_check_says_what_they_allow(url: str, engine: Engine) -> None:
    plain(engine, "CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE CASCADE)")

    def hindered() -> bool:
        return "DELETE is refused" in CliRunner().invoke(check_command, [url]).output

    assert hindered()
    install(url, "parent")
    assert hindered()
    install(url, "child")
    assert not hindered()
