"""What statements do, by their words; and that what is not certain is refused."""

from __future__ import annotations

import pytest
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_rm.sql.flavour import Binds, Family, Flavour
from txcoord_rm.sql.recogniser import Recogniser
from txcoord_rm.sql.statement import Source, Statement, Verb

PSYCOPG = Recogniser(Flavour(Family.POSTGRESQL, Binds.PERCENT))
ASYNCPG = Recogniser(Flavour(Family.POSTGRESQL, Binds.DOLLAR))
BARE = Recogniser(Flavour(Family.POSTGRESQL, Binds.NONE))
PYMYSQL = Recogniser(Flavour(Family.MYSQL, Binds.PERCENT, backslashes=True))
ANSI = Recogniser(Flavour(Family.MYSQL, Binds.PERCENT, ansi_quotes=True))
SQLITE = Recogniser(Flavour(Family.SQLITE, Binds.NATIVE))


def part(statement: Statement, name: str) -> str | None:
    span = getattr(statement, name)
    return None if span is None else span.of(statement.sql)


@pytest.mark.parametrize(
    ("recogniser", "sql", "verb"),
    [
        (PSYCOPG, "SELECT 1", Verb.READ),
        (PSYCOPG, "((SELECT 1) UNION (SELECT 2))", Verb.READ),
        (PSYCOPG, "(WITH x AS (SELECT 1) SELECT * FROM x)", Verb.READ),
        (PSYCOPG, "WITH x AS (SELECT 1) (SELECT * FROM x)", Verb.READ),
        (PSYCOPG, "WITH q AS (SELECT 1) SELECT * FROM q FOR UPDATE", Verb.READ),
        (PSYCOPG, "WITH RECURSIVE x(n) AS (SELECT 1) SEARCH DEPTH FIRST BY n SET o SELECT * FROM x", Verb.READ),
        (PSYCOPG, "TABLE t", Verb.READ),
        (PSYCOPG, "SELECT ' ; update t set a = 1'; ", Verb.READ),
        (PSYCOPG, "SELECT $$ ; delete from t $$, $x$ $$ ; $x$", Verb.READ),
        (PSYCOPG, "SELECT 1 AS update, t.delete FROM t", Verb.READ),
        (PSYCOPG, "SELECT 7 %% 2", Verb.READ),
        (BARE, "SELECT 7 % 2", Verb.READ),
        (PSYCOPG, "SELECT * FROM t FOR NO KEY UPDATE OF t SKIP LOCKED", Verb.LOCKING_READ),
        (PSYCOPG, "SELECT * FROM t WHERE a IN (SELECT a FROM u FOR UPDATE)", Verb.READ),
        (PSYCOPG, "SELECT 1 UNION SELECT a FROM t", Verb.READ),
        (PSYCOPG, "EXPLAIN UPDATE t SET a = 1", Verb.READ),
        (PSYCOPG, "SET LOCAL lock_timeout = '2s'", Verb.READ),
        (PSYCOPG, "SET app.tenant = '7'", Verb.READ),
        (PSYCOPG, "SELECT set_config('app.tenant', %s, true)", Verb.READ),
        (PSYCOPG, "EXPLAIN (FORMAT JSON, COSTS OFF) DELETE FROM t", Verb.READ),
        (PSYCOPG, "DECLARE c CURSOR FOR SELECT 1", Verb.READ),
        (PSYCOPG, "/* a /* b */ UPDATE */ DELETE FROM t", Verb.DELETE),
        (PSYCOPG, "-- UPDATE t SET a = 1\nSELECT 1", Verb.READ),
        (PSYCOPG, "SAVEPOINT s", Verb.SAVEPOINT),
        (PSYCOPG, "ROLLBACK TO SAVEPOINT s", Verb.ROLLBACK_TO),
        (PSYCOPG, "RELEASE s", Verb.RELEASE),
        (PYMYSQL, "SELECT INSERT('abc', 1, 2, 'x'), (REPLACE('a', 'b', 'c'))", Verb.READ),
        (PYMYSQL, "SELECT * FROM t LOCK IN SHARE MODE", Verb.LOCKING_READ),
        (PYMYSQL, "SELECT 'a\\' ; DELETE FROM t'", Verb.READ),
        (PYMYSQL, 'SELECT "a\\" ; DELETE FROM t"', Verb.READ),
        (PYMYSQL, "SELECT 1 # ; DELETE FROM t", Verb.READ),
        (PYMYSQL, "SET @x = 3", Verb.READ),
        (PYMYSQL, "REPLACE INTO t VALUES (1)", Verb.REPLACE),
        (SQLITE, "INSERT OR REPLACE INTO t VALUES (?)", Verb.REPLACE),
        (SQLITE, "SELECT ' \\', 1 /* unfinished", Verb.READ),
        (SQLITE, 'PRAGMA main.table_info("t")', Verb.READ),
    ],
)
def test_what_it_does(recogniser: Recogniser, sql: str, verb: Verb) -> None:
    assert recogniser.recognise(sql).verb is verb


@pytest.mark.parametrize(
    ("recogniser", "sql", "reason"),
    [
        (PSYCOPG, "", "empty"),
        (PSYCOPG, "-- nothing", "empty"),
        (PSYCOPG, "SELECT 1; DELETE FROM t", "several statements"),
        (PSYCOPG, "COMMIT", "end the local transaction"),
        (PSYCOPG, "ROLLBACK", "end the local transaction"),
        (PSYCOPG, "PREPARE TRANSACTION 'x'", "end the local transaction"),
        (PSYCOPG, "CREATE TABLE t (a int)", "schema"),
        (PSYCOPG, "TRUNCATE t", "without undo records"),
        (PSYCOPG, "COPY t FROM STDIN", "without undo records"),
        (PSYCOPG, "(SELECT * FROM t FOR UPDATE)", "leave the brackets out"),
        (PSYCOPG, "WITH x AS (SELECT 1) (SELECT * FROM t FOR UPDATE)", "leave the brackets out"),
        (PSYCOPG, "SELECT 1 UNION (SELECT a FROM t FOR SHARE)", "leave the brackets out"),
        (PSYCOPG, "DELETE FROM t RETURNING WITH (OLD AS o) o.a", "call them old and new"),
        (PSYCOPG, "EXECUTE p", "not written in it"),
        (PSYCOPG, "NOTIFY c", "cannot be taken back"),
        (PSYCOPG, "SELECT pg_notify('c', '')", "pg_notify() cannot be taken back"),
        (PSYCOPG, "SELECT \"pg_notify\"('c', '')", "pg_notify() cannot be taken back"),
        (PSYCOPG, "SET datestyle = 'German'", "how the session reads SQL"),
        (PSYCOPG, "SET standard_conforming_strings = off", "how the session reads SQL"),
        (PSYCOPG, "SET TRANSACTION READ ONLY", "how the session reads SQL"),
        (PSYCOPG, "EXPLAIN (ANALYZE) UPDATE t SET a = 1", "runs what it explains"),
        (PSYCOPG, 'EXPLAIN ("analyze") DELETE FROM t', "runs what it explains"),
        (PSYCOPG, "EXPLAIN EXECUTE p", "runs what it explains"),
        (PSYCOPG, "WITH x AS (WITH y AS (SELECT 1) DELETE FROM t RETURNING 1) SELECT * FROM x", "inside WITH"),
        (PSYCOPG, "SELECT set_config('datestyle', 'German', false)", "how the session reads SQL"),
        (PSYCOPG, "SELECT set_config('app.a', '1', true), set_config(%s, '1', true)", "how the session reads SQL"),
        (PSYCOPG, "SELECT * INTO u FROM t", "writes what it reads"),
        (PSYCOPG, "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM u FOR UPDATE", "inside WITH"),
        (PSYCOPG, "COPY t FROM PROGRAM 'cat'", "without undo records"),
        (PYMYSQL, "CALL p()", "not written in it"),
        (PSYCOPG, "UPDATE t SET a = 1 WHERE CURRENT OF c", "cursor"),
        (PSYCOPG, "UPDATE t SET a=1WHERE id=2", "'1WHERE' may be"),
        (PSYCOPG, "SELECT 'open", "does not end"),
        (PSYCOPG, "SELECT $x$ open", "does not end"),
        (PSYCOPG, 'SELECT "open', "does not end"),
        (PSYCOPG, "SELECT 1 /* open /* */", "does not end"),
        (PSYCOPG, "SELECT (1", "brackets"),
        (PSYCOPG, "SELECT E'a'\n'b\\''", "continues another"),
        (PSYCOPG, "SELECT '%s'", "'%s' stands inside a string"),
        (PSYCOPG, "SELECT 1 -- %(a)s", "'%(a)s' stands inside a string"),
        (PSYCOPG, "SELECT 7 % 2", "single %"),
        (PSYCOPG, 'UPDATE U&"t" SET a = 1', "U&"),
        (PSYCOPG, "UPDATE t, u SET a = 1", "not recognised"),
        (PSYCOPG, "VACUUM", "schema"),
        (PSYCOPG, "FROBNICATE t", "none of the statements"),
        (PYMYSQL, "/*!50001 UPDATE t SET a = 1 */", "comment that the database executes"),
        (PYMYSQL, "/*M!100100 DELETE FROM t */", "comment that the database executes"),
        (PYMYSQL, "SET autocommit = 1", "how the session reads SQL"),
        (PYMYSQL, "SET @x = 1, autocommit = 1", "how the session reads SQL"),
        (PYMYSQL, "SET @@autocommit = 1", "how the session reads SQL"),
        (PYMYSQL, "USE other", "how the session reads SQL"),
        (PYMYSQL, "LOCK TABLES t WRITE", "ends the local transaction"),
        (PYMYSQL, "UPDATE a JOIN b ON a.x = b.x SET a.y = 1", "not recognised"),
        (PYMYSQL, "DELETE a FROM a JOIN b", "more than one table"),
        (PYMYSQL, "DELETE FROM a USING a JOIN b", "USING joins"),
        (PYMYSQL, "SELECT * FROM t INTO OUTFILE '/tmp/x'", "writes what it reads"),
        (PYMYSQL, "LOAD DATA INFILE 'x' INTO TABLE t", "without undo records"),
        (PYMYSQL, "ANALYZE UPDATE t SET a = 1", "schema"),
        (SQLITE, "PRAGMA foreign_keys = ON", "how the session reads SQL"),
        (SQLITE, "PRAGMA recursive_triggers(table_list)", "how the session reads SQL"),
        (SQLITE, "SELECT total_changes()", "counts rows that txcoord writes"),
        (SQLITE, "UPDATE t INDEXED BY i SET a = 1", "not recognised"),
        (SQLITE, "SELECT load_extension('x')", "cannot be taken back"),
    ],
)
def test_what_is_not_certain_is_refused_with_the_reason(recogniser: Recogniser, sql: str, reason: str) -> None:
    with pytest.raises(UnsupportedSqlError, match="refused inside a global transaction") as refused:
        recogniser.recognise(sql)
    assert reason in refused.value.message
    assert refused.value.details["statement"] == " ".join(sql.split())


@pytest.mark.parametrize(
    ("sql", "verb"),
    [
        ("CALL p()", Verb.OTHER),
        ("DO $$ BEGIN DELETE FROM t; END $$", Verb.OTHER),
        ("COPY t (a, b) FROM '/srv/rows.csv' WITH (FORMAT csv)", Verb.OTHER),
        ("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", Verb.OTHER),
        ("WITH x AS MATERIALIZED (UPDATE t SET a = 1 RETURNING *) INSERT INTO u SELECT * FROM x", Verb.INSERT),
        ("WITH x AS (MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE RETURNING t.*) DELETE FROM u", Verb.DELETE),
    ],
)
def test_what_only_triggers_can_capture(sql: str, verb: Verb) -> None:
    found = PSYCOPG.recognise(sql)
    assert found.verb is verb
    assert found.unseen is not None


def test_parts_of_a_merge() -> None:
    found = PSYCOPG.recognise(
        "WITH q AS (SELECT 1) MERGE INTO ONLY s.t AS x USING (SELECT a FROM u WHERE b = %s) AS y ON x.id = y.a AND y.a > 1 "
        "WHEN MATCHED AND y.a > 2 THEN UPDATE SET n = CASE WHEN y.a > 3 THEN 1 ELSE 2 END, (m, k) = (SELECT 1, 2) "
        "WHEN MATCHED THEN DELETE WHEN NOT MATCHED BY SOURCE THEN UPDATE SET z = DEFAULT "
        "WHEN NOT MATCHED THEN INSERT (id, n) VALUES (y.a, %s) RETURNING merge_action(), x.*"
    )
    assert found.verb is Verb.MERGE
    assert found.unseen is None
    assert found.target is not None
    assert (found.target.parts, found.target.alias, found.target.only) == (("s", "t"), "x", True)
    assert found.assigned == ("n", "m", "k", "z")
    assert part(found, "others") == "(SELECT a FROM u WHERE b = %s) AS y ON x.id = y.a AND y.a > 1"
    assert part(found, "returning") == "merge_action(), x.*"
    main = part(found, "main")
    assert main is not None
    assert main.startswith("MERGE INTO ONLY")
    assert main.endswith("VALUES (y.a, %s)")


def test_parts_of_an_update() -> None:
    found = PSYCOPG.recognise(
        "WITH q AS (SELECT 1 AS x) UPDATE ONLY \"At\".Acct AS a SET (bal, \"When\") = (1, now()), tags[1] = 'x', addr.zip = '1' "
        "FROM q JOIN r ON q.x = r.x WHERE a.id = %(id)s AND a.flag IS DISTINCT FROM q.x RETURNING a.*, q.x;"
    )
    assert found.target is not None
    assert (found.target.parts, found.target.alias, found.target.only) == (("At", "acct"), "a", True)
    assert part(found, "with_") == "q AS (SELECT 1 AS x)"
    assert part(found, "set") == "(bal, \"When\") = (1, now()), tags[1] = 'x', addr.zip = '1'"
    assert found.assigned == ("bal", "When", "tags", "addr")
    assert part(found, "others") == "q JOIN r ON q.x = r.x"
    assert part(found, "where") == "a.id = %(id)s AND a.flag IS DISTINCT FROM q.x"
    assert part(found, "returning") == "a.*, q.x"
    main = part(found, "main")
    assert main is not None
    assert main.startswith("UPDATE ONLY")
    assert main.endswith("IS DISTINCT FROM q.x")
    assert [(e.column, [v.text for v in e.values]) for e in found.equalities] == [("id", ["%(id)s"])]
    assert "now" in found.functions


def test_parts_of_an_update_with_limit() -> None:
    found = PYMYSQL.recognise("UPDATE IGNORE `a``b` SET `a``b`.x = %s, y = 2 WHERE z = %s ORDER BY z LIMIT 3")
    assert found.target is not None
    assert found.target.parts == ("a`b",)
    assert found.assigned == ("x", "y")
    assert part(found, "tail") == "ORDER BY z LIMIT 3"
    assert found.either == "IGNORE"
    assert [bind.text for bind in found.binds] == ["%s", "%s"]


def test_parts_of_a_delete() -> None:
    found = ASYNCPG.recognise("DELETE FROM s.t AS x USING u JOIN v USING (k) WHERE x.id = u.id AND x.id IN ($1, $2) RETURNING *")
    assert found.target is not None
    assert (found.target.parts, found.target.alias) == (("s", "t"), "x")
    assert part(found, "others") == "u JOIN v USING (k)"
    assert part(found, "returning") == "*"
    assert [(e.column, [v.text for v in e.values]) for e in found.equalities] == [("id", ["$1", "$2"])]


@pytest.mark.parametrize(
    ("recogniser", "sql", "columns", "source", "conflict", "assigned"),
    [
        (PSYCOPG, "INSERT INTO t (a, B) VALUES (1, 2), (3, 4)", ("a", "b"), Source.VALUES, None, ()),
        (PSYCOPG, "INSERT INTO t DEFAULT VALUES", (), Source.DEFAULTS, None, ()),
        (PSYCOPG, "INSERT INTO t (SELECT 1)", (), Source.QUERY, None, ()),
        (PSYCOPG, "INSERT INTO t (values, b) OVERRIDING SYSTEM VALUE SELECT 1, 2", ("values", "b"), Source.QUERY, None, ()),
        (
            PSYCOPG,
            "INSERT INTO t AS x (a) SELECT 1 FROM u JOIN v ON u.a = v.a "
            "ON CONFLICT (a) WHERE b DO UPDATE SET c = 1, d = 2 WHERE x.e",
            ("a",),
            Source.QUERY,
            "ON CONFLICT (a) WHERE b DO UPDATE SET c = 1, d = 2 WHERE x.e",
            ("c", "d"),
        ),
        (PYMYSQL, "INSERT t SET a = 1, t.b = 2", ("a", "b"), Source.VALUES, None, ()),
        (
            PYMYSQL,
            "INSERT INTO t SET a = 1 ON DUPLICATE KEY UPDATE b = VALUES(b), c = 3",
            ("a",),
            Source.VALUES,
            "ON DUPLICATE KEY UPDATE b = VALUES(b), c = 3",
            ("b", "c"),
        ),
    ],
)
def test_parts_of_an_insert(
    recogniser: Recogniser, sql: str, columns: tuple[str, ...], source: Source, conflict: str | None, assigned: tuple[str, ...]
) -> None:
    found = recogniser.recognise(sql + " RETURNING a")
    assert found.columns == columns
    assert found.source is source
    assert part(found, "conflict") == conflict
    assert found.assigned == assigned
    assert part(found, "returning") == "a"


@pytest.mark.parametrize(
    ("recogniser", "condition", "equalities"),
    [
        (PSYCOPG, "id = %(a)s AND version = 3", {"id": ["%(a)s"], "version": ["3"]}),
        (PSYCOPG, "t.id = %(a)s::INTEGER", {"id": ["%(a)s"]}),
        (PSYCOPG, "id = 1 OR id = 2", {}),
        (PSYCOPG, "x BETWEEN 1 AND 2 AND id = 5 AND y IS NOT NULL", {"id": ["5"]}),
        (PSYCOPG, "CASE WHEN x AND id = 5 AND y THEN true END", {}),
        (PSYCOPG, "id = 5 + 1", {}),
        (PSYCOPG, "u.id = 5", {}),
        (PSYCOPG, "id = ANY(%(a)s)", {}),
        (PSYCOPG, "id IN (SELECT 1)", {}),
        (PSYCOPG, "NOT id = 5", {}),
        (PSYCOPG, "a || b = 'x' AND id = 5", {"id": ["5"]}),
        (PYMYSQL, "id = 1 || id = 2", {}),
        (PYMYSQL, "id = 1 && a = 2", {}),
        (SQLITE, "id = :id AND [b c] = ?2", {"id": [":id"], "b c": ["?2"]}),
    ],
)
def test_what_a_condition_says_of_single_columns(
    recogniser: Recogniser, condition: str, equalities: dict[str, list[str]]
) -> None:
    found = recogniser.recognise(f"UPDATE t SET a = 1 WHERE {condition}")
    assert {e.column: [v.text for v in e.values] for e in found.equalities} == equalities


def test_what_joins_says_nothing_of_unqualified_columns() -> None:
    found = PSYCOPG.recognise("UPDATE t SET a = 1 FROM u WHERE id = 5 AND t.k = 6")
    assert [e.column for e in found.equalities] == ["k"]


def test_double_quotes_are_what_the_session_says() -> None:
    assert ANSI.recognise('UPDATE "t" SET a = 1').target is not None
    with pytest.raises(UnsupportedSqlError, match="not recognised"):
        PYMYSQL.recognise('UPDATE "t" SET a = 1')


def test_letters_that_only_look_like_words_of_sql() -> None:
    """Python's upper case of the dotless i is I; no database takes it for one."""
    with pytest.raises(UnsupportedSqlError):
        PSYCOPG.recognise("\u0131NSERT INTO t VALUES (1)")
    found = PSYCOPG.recognise("UPDATE \u00c4\u00e4 SET A = 1")
    assert found.target is not None
    assert found.target.parts == ("\u00c4\u00e4",), "PostgreSQL folds no letters but those of ASCII"


def test_a_doubled_percent_sign_is_one_sign() -> None:
    assert PSYCOPG.recognise("SELECT a %%b, %s").binds[0].text == "%s"
    assert len(PSYCOPG.recognise("SELECT a %%%s").binds) == 1
    assert PSYCOPG.recognise('UPDATE t SET "a%%" = 1').assigned == ("a%",)


def test_long_statements_are_shown_short() -> None:
    with pytest.raises(UnsupportedSqlError) as refused:
        PSYCOPG.recognise("TRUNCATE " + "x, " * 1000 + "y")
    assert len(refused.value.details["statement"]) == 200


@pytest.mark.parametrize(
    ("returning", "names"),
    [
        ("id, t.bal, a + 1 AS next", ("id", "bal", "next")),
        ('"Id", old.bal, count(*) AS "n, m"', ("Id", "bal", "n, m")),
        ("*, a", ("", "a")),
        ("t.*", ()),
        ("a + 1", ()),
        ("a b", ()),
        ("NULL", ()),
        ("lower(a)", ()),
        ("a::text", ()),
        ("CASE WHEN a THEN b END", ()),
    ],
)
def test_names_of_what_is_returned(returning: str, names: tuple[str, ...]) -> None:
    for statement in ("UPDATE t SET a = 1", "DELETE FROM t", "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING"):
        assert PSYCOPG.recognise(f"{statement} RETURNING {returning}").returned == names


@pytest.mark.parametrize(
    ("sql", "chosen_by", "unsteady"),
    [
        ("UPDATE t SET a = f(1) WHERE g(a)", set(), ""),
        ("UPDATE t SET a = f(1) FROM h(2) AS h WHERE g(a)", {"h", "g"}, ""),
        ("UPDATE t SET a = 1 FROM (SELECT a FROM u LIMIT 1) AS u", set(), "LIMIT"),
        ("UPDATE t SET a = 1 FROM (SELECT a FROM u FETCH FIRST ROW ONLY) AS u", set(), "FETCH"),
        ("UPDATE t SET a = 1 FROM (SELECT a AS limit FROM u) AS u", set(), ""),
        ("UPDATE t SET a = 1 FROM u TABLESAMPLE bernoulli (10)", {"bernoulli"}, "TABLESAMPLE"),
        ("UPDATE t SET a = 1 FROM u WHERE t.a IN (SELECT a FROM v FOR SHARE)", set(), "FOR SHARE"),
        ("WITH q AS (SELECT a FROM u LIMIT 1) UPDATE t SET a = 1 FROM q", set(), ""),
        ("WITH q AS NOT MATERIALIZED (SELECT a FROM u LIMIT 1) UPDATE t SET a = 1 FROM q", set(), "NOT MATERIALIZED"),
    ],
)
def test_what_an_update_with_further_tables_chooses_by(sql: str, chosen_by: set[str], unsteady: str) -> None:
    statement = PSYCOPG.recognise(sql)
    assert (statement.chosen_by - {"in"}, statement.unsteady) == (chosen_by, unsteady)


@pytest.mark.parametrize(
    ("sql", "locked", "items"),
    [
        ("SELECT * FROM t FOR UPDATE", ["t"], "*"),
        (
            "SELECT a, extract(day FROM b) AS d FROM s.t AS x WHERE a IS DISTINCT FROM 1 FOR SHARE",
            ["s.t x"],
            "a, extract(day FROM b) AS d",
        ),
        ("SELECT 1 FROM ONLY t, u JOIN v w ON u.a = w.a WHERE t.a = 1 FOR NO KEY UPDATE NOWAIT", ["t", "u", "v w"], "1"),
        ("SELECT 1 FROM t LEFT JOIN u ON t.a = u.a FOR UPDATE OF t SKIP LOCKED", ["t"], "1"),
        ('SELECT 1 FROM t a, t "B", LATERAL (SELECT a.x) AS l FOR UPDATE OF a FOR KEY SHARE OF "B"', ["t a", 't "B"'], "1"),
        ("SELECT 1 FROM t NATURAL JOIN u ORDER BY 1 LIMIT 3 FOR UPDATE", ["t", "u"], "1"),
        ("WITH q AS (SELECT 1), r (a) AS (SELECT 2) SELECT 1 FROM t, q, r FOR UPDATE", ["t"], "1"),
        ("WITH RECURSIVE q (n) AS (SELECT 1) SEARCH DEPTH FIRST BY n SET t SELECT 1 FROM t, n FOR UPDATE", ["t", "n"], "1"),
    ],
)
def test_what_a_locking_read_locks(sql: str, locked: list[str], items: str) -> None:
    statement = PSYCOPG.recognise(sql)
    assert statement.verb is Verb.LOCKING_READ
    assert [" ".join(filter(None, (t.name.of(sql), t.alias))) for t in statement.locked] == locked
    assert part(statement, "items") == items


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT FROM t FOR UPDATE",
        "SELECT 1 FOR UPDATE",
        "SELECT * FROM (SELECT * FROM t) AS q FOR UPDATE",
        "SELECT * FROM (t JOIN u ON t.a = u.a) FOR UPDATE",
        "SELECT * FROM t, f(1) AS g FOR UPDATE OF g",
        "SELECT * FROM t AS x (a, b) FOR UPDATE",
    ],
)
def test_locking_reads_of_which_that_is_not_certain(sql: str) -> None:
    with pytest.raises(UnsupportedSqlError):
        PSYCOPG.recognise(sql)
