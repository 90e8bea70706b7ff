"""What PostgreSQL says of tables, on each version that is here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import NotSupportedError
from txcoord_rm.catalogue.postgresql import query, table
from txcoord_rm.catalogue.table import Event, Expression, Table, Unique

from tests.servers.fixtures import FreshUrl


@pytest.fixture(params=["postgres", "postgres18"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
    engine = create_engine(fresh("psycopg"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def facts(connection: Connection, name: str) -> Table:
    return table(connection.exec_driver_sql(query(name)).scalar_one())


def make(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(text(statement.replace("::", "\\:\\:")))


FOLDED = (Expression("lower(b)", "text"),)


def test_columns_and_keys(connection: Connection) -> None:
    make(
        connection,
        "CREATE DOMAIN sku AS varchar(10)",
        'CREATE SCHEMA "My"',
        'CREATE TABLE "My"."T b" (b int, a sku NOT NULL, "C" numeric(10, 2) GENERATED ALWAYS AS (b * 2) STORED, gone text, '
        'n bigint GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (b, a), UNIQUE ("C"), UNIQUE (a, b))',
        'ALTER TABLE "My"."T b" DROP COLUMN gone',
    )
    seen = facts(connection, '"My"."T b"')
    assert (seen.schema, seen.name, seen.root) == ("My", "T b", ("My", "T b"))
    assert [(c.name, c.type, c.base, c.generated, c.identity) for c in seen.columns] == [
        ("b", "integer", "integer", False, False),
        ("a", "sku", "character varying", False, False),
        ("C", "numeric(10,2)", "numeric", True, False),
        ("n", "bigint", "bigint", False, True),
    ]
    assert seen.primary_key == ("b", "a")
    assert [(u.columns, u.partial, u.nulls_equal) for u in seen.uniques] == [(("C",), False, False), (("a", "b"), False, False)]
    assert seen.obstacle == ""
    assert seen.oid > 0


def test_a_collation_that_takes_different_texts_for_equal(connection: Connection) -> None:
    try:
        make(connection, "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except NotSupportedError:
        pytest.skip("this server was built without ICU")
    make(connection, "CREATE TABLE t (a text COLLATE blind PRIMARY KEY)")
    assert [c.deterministic for c in facts(connection, "t").columns] == [False]


def test_a_partition_takes_locks_under_its_root(connection: Connection) -> None:
    make(
        connection,
        "CREATE TABLE whole (a int PRIMARY KEY) PARTITION BY RANGE (a)",
        "CREATE TABLE half PARTITION OF whole FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (a)",
        "CREATE TABLE quarter PARTITION OF half FOR VALUES FROM (0) TO (5)",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER deep BEFORE UPDATE ON quarter FOR EACH ROW EXECUTE FUNCTION touch()",
        "CREATE TABLE child (a int REFERENCES whole ON DELETE CASCADE)",
    )
    seen = {name: facts(connection, name) for name in ("whole", "half", "quarter")}
    assert {t.root for t in seen.values()} == {("public", "whole")}
    assert {t.primary_key for t in seen.values()} == {("a",)}
    assert {t.obstacle for t in seen.values()} == {""}
    assert all(t.fires(Event.UPDATE, after=False) for t in seen.values()), "a trigger of a partition fires for its parents"
    assert all(t.carried_on(Event.DELETE, ()) for t in seen.values())


def test_triggers(connection: Connection) -> None:
    make(
        connection,
        "CREATE TABLE t (a int PRIMARY KEY, b int)",
        "CREATE FUNCTION any_effect() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER before_update BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION any_effect()",
        "CREATE TRIGGER after_insert AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION any_effect()",
        "CREATE TRIGGER same BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE TRIGGER off BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION any_effect()",
        "ALTER TABLE t DISABLE TRIGGER off",
    )
    seen = facts(connection, "t")
    assert [(t.name, t.events, t.after, t.own_row_only) for t in seen.triggers] == [
        ("after_insert", {Event.INSERT}, True, False),
        ("before_update", {Event.UPDATE}, False, False),
        ("same", {Event.DELETE}, False, True),
    ]
    assert "before_update may change other rows" in seen.triggered(Event.UPDATE)
    assert seen.triggered(Event.DELETE) == ""


def test_foreign_keys_that_carry_a_change_on(connection: Connection) -> None:
    make(
        connection,
        "CREATE TABLE t (a int PRIMARY KEY, b int UNIQUE, c int)",
        "CREATE TABLE cascades (x int REFERENCES t ON DELETE CASCADE)",
        "CREATE TABLE follows (b int REFERENCES t (b) ON UPDATE SET NULL)",
        "CREATE TABLE stays (a int REFERENCES t)",
    )
    seen = facts(connection, "t")
    assert [(r.table, r.their_columns, r.columns, r.on_delete, r.on_update) for r in seen.references] == [
        ("public.cascades", ("x",), ("a",), True, False),
        ("public.follows", ("b",), ("b",), False, True),
        ("public.stays", ("a",), ("a",), False, False),
    ]
    assert "rows of public.cascades change with it" in seen.carried_on(Event.DELETE, ())
    assert "rows of public.follows change with it" in seen.carried_on(Event.UPDATE, ("b", "c"))
    assert seen.carried_on(Event.UPDATE, ("c",)) == ""
    assert seen.carried_on(Event.INSERT, ()) == ""


def test_unique_rules_that_columns_do_not_tell(connection: Connection) -> None:
    make(connection, "CREATE TABLE t (a int PRIMARY KEY, b text, c text)")
    for index, expected in (
        (
            "UNIQUE INDEX x ON t (lower(b), a)",
            Unique("x", (), expressions=(*FOLDED, Expression("a", "integer")), depends=("a", "b")),
        ),
        ("UNIQUE INDEX x ON t (lower(b)) WHERE c > ''", Unique("x", (), partial=True, depends=("b", "c"))),
        ("UNIQUE INDEX x ON t (b) WHERE c > ''", Unique("x", ("b",), partial=True, depends=("b", "c"))),
        ("UNIQUE INDEX x ON t (b) INCLUDE (a) NULLS NOT DISTINCT", Unique("x", ("b",), nulls_equal=True, depends=("a", "b"))),
        ("UNIQUE INDEX x ON t (c text_pattern_ops)", Unique("x", ("c",), depends=("c",))),
        ("UNIQUE INDEX x ON t (c bpchar_ops)", Unique("x", (), depends=("c",))),
        ("UNIQUE INDEX x ON t ((t.* IS NULL))", Unique("x", ())),
        ('UNIQUE INDEX x ON t (c COLLATE "POSIX")', Unique("x", ("c",), depends=("c",))),
    ):
        make(connection, f"CREATE {index}")
        assert facts(connection, "t").uniques == (expected,), index
        make(connection, "DROP INDEX x")
    make(connection, "ALTER TABLE t ADD CONSTRAINT apart EXCLUDE USING btree (b WITH =)")
    assert facts(connection, "t").uniques == (Unique("apart", (), depends=("b",)),)
    make(connection, "CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1'")
    make(connection, "ALTER TABLE t DROP CONSTRAINT apart", "CREATE UNIQUE INDEX x ON t (f(b))")
    assert facts(connection, "t").uniques == (Unique("x", (), depends=("b",)),)


def test_unique_indexes_of_partitions(connection: Connection) -> None:
    make(
        connection,
        "CREATE TABLE whole (a int PRIMARY KEY, b text, c int) PARTITION BY RANGE (a)",
        "CREATE TABLE half PARTITION OF whole FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (a)",
        "CREATE TABLE quarter PARTITION OF half FOR VALUES FROM (0) TO (5)",
        "CREATE UNIQUE INDEX of_the_whole ON whole (a, lower(b))",
        "CREATE UNIQUE INDEX of_the_quarter ON quarter (c)",
    )
    everywhere = Unique("of_the_whole", (), expressions=(Expression("a", "integer"), FOLDED[0]), depends=("a", "b"))
    alone = Unique("of_the_quarter", ("c",), depends=("c",))
    for name in ("whole", "half", "quarter"):
        assert facts(connection, name).uniques == (everywhere, alone), name


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE t ADD d int",
        "CREATE TABLE x (a int REFERENCES t ON DELETE CASCADE)",
        "CREATE TRIGGER x BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE RULE x AS ON DELETE TO t DO INSTEAD NOTHING",
        "CREATE UNIQUE INDEX x ON t (b)",
        "DROP INDEX t_c",
        "ALTER TABLE t ALTER a TYPE numeric",
        "ALTER TABLE t ALTER g DROP EXPRESSION",
        "ALTER TABLE first ENABLE TRIGGER off",
        "CREATE TABLE second PARTITION OF whole FOR VALUES FROM (10) TO (20)",
        "CREATE UNIQUE INDEX x ON first (b)",
        "CREATE TABLE x () INHERITS (t)",
    ],
)
def test_a_table_that_was_altered_is_noticed(connection: Connection, change: str) -> None:
    make(
        connection,
        "CREATE TABLE t (a int PRIMARY KEY, b int, c int, g int GENERATED ALWAYS AS (b + 1) STORED)",
        "CREATE UNIQUE INDEX t_c ON t (c)",
        "CREATE TABLE whole (a int PRIMARY KEY, b int) PARTITION BY RANGE (a)",
        "CREATE TABLE first PARTITION OF whole FOR VALUES FROM (0) TO (10)",
        "CREATE TRIGGER off BEFORE UPDATE ON first FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "ALTER TABLE first DISABLE TRIGGER off",
    )
    name = "whole" if "whole" in change or "first" in change else "t"
    seen = facts(connection, name)
    assert connection.exec_driver_sql(f"SELECT {seen.altered}").scalar_one() is False
    make(connection, change)
    assert connection.exec_driver_sql(f"SELECT {seen.altered}").scalar_one() is True
    if not (now := facts(connection, name)).obstacle:
        assert connection.exec_driver_sql(f"SELECT {now.altered}").scalar_one() is False


def test_a_default_that_may_write(connection: Connection) -> None:
    make(
        connection,
        "CREATE SEQUENCE s",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION g() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE t (a int PRIMARY KEY DEFAULT nextval('s'), b int DEFAULT f() + 1, c int DEFAULT g(), "
        "d float DEFAULT random())",
    )
    assert [column.writer for column in facts(connection, "t").columns] == ["", "f", "", ""]


@pytest.mark.parametrize(
    ("statement", "name", "obstacle"),
    [
        ("CREATE TABLE t (a int)", "t", "no primary key"),
        ("CREATE VIEW v AS SELECT 1 AS a", "v", "view"),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1 AS a", "v", "materialised view"),
        ("CREATE TEMPORARY TABLE t (a int PRIMARY KEY)", "t", "temporary"),
        ("CREATE TABLE p (a int PRIMARY KEY); CREATE TABLE t () INHERITS (p)", "p", "inherits"),
        ("CREATE TABLE p (a int PRIMARY KEY); CREATE TABLE t (PRIMARY KEY (a)) INHERITS (p)", "t", "inherits"),
        ("CREATE TABLE t (a int PRIMARY KEY); CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING", "t", "rules"),
        ("CREATE SEQUENCE s", "s", "sequence"),
        (
            "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w; "
            "CREATE TABLE t (a int, b int) PARTITION BY RANGE (a); "
            "CREATE FOREIGN TABLE f PARTITION OF t FOR VALUES FROM (1) TO (2) SERVER far",
            "t",
            "a partition of it is a foreign table",
        ),
    ],
)
def test_what_cannot_be_captured_at_all(connection: Connection, statement: str, name: str, obstacle: str) -> None:
    make(connection, *statement.split("; "))
    assert obstacle in facts(connection, name).obstacle


def test_the_search_path_decides_which_table_a_name_means(connection: Connection) -> None:
    make(connection, "CREATE SCHEMA s", "CREATE TABLE t (a int PRIMARY KEY)", "CREATE TABLE s.t (b int PRIMARY KEY)")
    assert facts(connection, "t").primary_key == ("a",)
    make(connection, "SET LOCAL search_path = s")
    assert facts(connection, "t").primary_key == ("b",)
    assert connection.exec_driver_sql(query("nothing")).all() == []
