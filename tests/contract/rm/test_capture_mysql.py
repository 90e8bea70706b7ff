"""A captured statement on MariaDB does what the plain one does, and leaves an undo record of exactly the rows that it changed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pymysql
import pytest
from sqlalchemy import Connection
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_rm.capture.port import Entry, UnrecordedError

from tests.contract.rm.maria import EACH_DRIVER, Maria


@pytest.fixture(autouse=True)
def acct(maria: Maria) -> None:
    maria.plain(
        "CREATE TABLE acct (id int PRIMARY KEY, bal decimal(10,2) NOT NULL, email varchar(20) UNIQUE, note text)",
        "INSERT INTO acct VALUES (1, 100, 'a@x', 'one'), (2, 200, 'b@x', NULL), (3, 300, NULL, 'three')",
    )


def key(maria: Maria, rest: str) -> str:
    return f"{maria.database}.acct{rest}"


def weights(text: str) -> str:
    """Of plain lower-case text in utf8mb4_general_ci."""
    return "".join(f"00{ord(character):02X}" for character in text.upper())


@EACH_DRIVER
def test_an_update_by_key(maria: Maria) -> None:
    ran = maria.run("UPDATE acct SET bal = bal - %(x)s WHERE id = %(id)s", {"x": 5, "id": 1})
    assert (ran.rowcount, ran.keys, ran.description) == (1, {key(maria, "(id)=(1)")}, None)
    assert maria.images() == [("acct", ["id", "bal"], [("1", "100.00")], [("1", "95.00")])]
    assert [str(r[1]) for r in maria.rows("acct")] == ["95.00", "200.00", "300.00"]


@EACH_DRIVER
def test_positional_parameters_keep_their_order(maria: Maria) -> None:
    sql = "UPDATE acct AS a SET a.note = %s WHERE a.id IN (%s, %s) AND a.bal < %s ORDER BY id LIMIT %s"
    assert maria.run(sql, ("n", 1, 2, 150, 5)).rowcount == 1
    assert maria.images() == [("acct", ["id", "note"], [("1", "one")], [("1", "n")])]


def test_what_changes_nothing_leaves_nothing(maria: Maria) -> None:
    assert maria.run("UPDATE acct SET bal = 0 WHERE id = 99").rowcount == 0
    assert maria.images() == []
    ran = maria.run("UPDATE acct SET bal = bal, note = note")
    assert (ran.rowcount, len(ran.keys)) == (3, 3), "rows count as found, as they do without capture"
    assert maria.images() == []
    with pytest.raises(Exception, match="nothing"):
        maria.run("UPDATE acct SET nothing = 0 WHERE id = 99")


def test_only_rows_that_changed_have_images(maria: Maria) -> None:
    maria.run("UPDATE acct SET note = 'one'")
    assert maria.images() == [("acct", ["id", "note"], [("2", None), ("3", "three")], [("2", "one"), ("3", "one")])]


def test_rows_are_counted_as_the_driver_counts_them(maria: Maria) -> None:
    """SQLAlchemy asks for the rows that were found; without that flag those count that changed."""
    assert maria.run("UPDATE acct SET bal = 100 WHERE id < 3").rowcount == 2
    url = maria.engine().url
    plain = pymysql.connect(host=url.host, port=url.port or 3306, user=url.username, database=url.database, charset="utf8mb4")
    with plain, plain.cursor() as cursor:
        statement = maria.recognised("UPDATE acct SET bal = 100 WHERE id IN (1, 3)")
        table = maria.capture.table(cursor, statement)
        assert maria.capture.run(cursor, statement, table, None, Entry("x", 77, first=True)).rowcount == 1
        plain.rollback()


def test_subselects_and_functions(maria: Maria) -> None:
    maria.plain("CREATE TABLE other (id int PRIMARY KEY, v int)", "INSERT INTO other VALUES (1, 10), (3, 30)")
    ran = maria.run("UPDATE acct SET bal = (SELECT v FROM other AS o WHERE o.id = acct.id) WHERE id IN (SELECT id FROM other)")
    assert ran.rowcount == 2
    assert [str(r[1]) for r in maria.rows("acct")] == ["10.00", "200.00", "30.00"]
    ran = maria.run(
        "DELETE FROM acct WHERE EXISTS (SELECT 1 FROM (SELECT id FROM other UNION SELECT 2) AS u WHERE u.id = acct.id)"
    )
    assert ran.rowcount == 3
    assert maria.undo(1, 2) == []
    assert [str(r[1]) for r in maria.rows("acct")] == ["100.00", "200.00", "300.00"]


def test_subselects_see_what_is_committed_as_they_do_in_the_plain_statement(maria: Maria) -> None:
    maria.plain("CREATE TABLE other (id int PRIMARY KEY)", "INSERT INTO other VALUES (1)")

    def job(connection: Connection) -> int:
        connection.exec_driver_sql("SELECT COUNT(*) FROM other").one()  # its snapshot begins here
        with ThreadPoolExecutor(1) as pool:
            pool.submit(maria.plain, "INSERT INTO other VALUES (2)").result()
        return maria.captured(connection, "UPDATE acct SET bal = 0 WHERE id IN (SELECT id FROM other)").rowcount

    assert maria.work(job) == 2


def test_a_row_is_seen_as_it_is_when_it_is_locked(maria: Maria) -> None:
    def job(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT COUNT(*) FROM acct").one()  # its snapshot begins here
        with ThreadPoolExecutor(1) as pool:
            pool.submit(maria.plain, "UPDATE acct SET bal = 7, note = 'new' WHERE id = 1").result()
        maria.captured(connection, "UPDATE acct SET bal = 7 WHERE id < 3")
        maria.captured(connection, "UPDATE acct SET bal = bal + 1, note = 'x' WHERE id = 1", None, Entry("x", 0))

    maria.work(job)
    assert maria.images(0) == [
        ("acct", ["id", "bal"], [("2", "200.00")], [("2", "7.00")]),
        ("acct", ["id", "bal", "note"], [("1", "7.00", "new")], [("1", "8.00", "x")]),
    ]


def test_order_and_limit_and_chance(maria: Maria) -> None:
    assert maria.run("UPDATE acct SET bal = 1 ORDER BY bal DESC LIMIT 2").rowcount == 2
    assert [str(r[1]) for r in maria.rows("acct")] == ["100.00", "1.00", "1.00"]
    for _ in range(20):
        ran = maria.run("DELETE FROM acct WHERE RAND() < 0.5 LIMIT 1")
        assert ran.rowcount == len(maria.images()[0][2] if maria.images() else ())
    assert maria.undo(*range(1, maria.branch_id + 1)) == []
    assert [str(r[1]) for r in maria.rows("acct")] == ["100.00", "200.00", "300.00"]


@EACH_DRIVER
def test_delete_and_what_it_returns(maria: Maria) -> None:
    ran = maria.run("DELETE FROM acct WHERE id < %s RETURNING id, bal * 2 AS twice, id", (3,))
    assert [column[0] for column in ran.description] == ["id", "twice", "id"]
    assert [(a, int(b), c) for a, b, c in ran.rows] == [(1, 200, 1), (2, 400, 2)]
    assert ran.rowcount == 2
    assert ran.keys == {
        key(maria, "(id)=(1)"), key(maria, "(id)=(2)"),
        key(maria, f"(email)=({weights('a@x')})"), key(maria, f"(email)=({weights('b@x')})"),
    }  # fmt: skip
    assert maria.images() == [
        ("acct", ["id", "bal", "email", "note"], [("1", "100.00", "a@x", "one"), ("2", "200.00", "b@x", None)], [None, None])
    ]


@EACH_DRIVER
def test_insert(maria: Maria) -> None:
    ran = maria.run("INSERT INTO acct (id, bal, email) VALUES (%s, %s, %s), (5, 1, NULL)", (4, 7, "C@x"))
    assert (ran.rowcount, ran.lastrowid, ran.description) == (2, 0, None)
    assert maria.images()[0][2:] == ([None, None], [("4", "7.00", "C@x", None), ("5", "1.00", None, None)])
    assert ran.keys == {key(maria, "(id)=(4)"), key(maria, "(id)=(5)"), key(maria, f"(email)=({weights('c@x')})")}
    ran = maria.run("INSERT INTO acct SET id = 6, bal = 3 RETURNING *, id + 1 AS next")
    assert [column[0] for column in ran.description] == ["id", "bal", "email", "note", "next"]
    assert [(r[0], r[4]) for r in ran.rows] == [(6, 7)]
    ran = maria.run("INSERT INTO acct (id, bal) SELECT id + 10, bal FROM acct WHERE id <= %s", (2,))
    assert (ran.rowcount, len(ran.keys)) == (2, 2)
    ran = maria.run("INSERT IGNORE INTO acct (id, bal) VALUES (1, 1), (40, 1)")
    assert (ran.rowcount, ran.keys) == (1, {key(maria, "(id)=(40)")})
    assert maria.run("INSERT IGNORE INTO acct (id, bal) VALUES (1, 1)").rowcount == 0
    assert maria.images() == []


@EACH_DRIVER
def test_numbers_that_the_database_gives(maria: Maria) -> None:
    for name in "nm":
        columns = "id int AUTO_INCREMENT PRIMARY KEY, v int DEFAULT 7, g int AS (v + 1) STORED, h int AS (v) VIRTUAL"
        maria.plain(f"CREATE TABLE {name} ({columns})")
    for sql in (
        "INSERT INTO n (v) VALUES (1), (2)", "INSERT INTO n () VALUES ()", "INSERT INTO n (id, v) VALUES (50, 1)",
        "INSERT INTO n (id, v) VALUES (NULL, 1), (NULL, 2)", "INSERT INTO n (id) VALUES (0)", "INSERT INTO n (v) SELECT v FROM n",
        "INSERT INTO n (v) SELECT v FROM n WHERE id > 1000", "INSERT INTO n VALUES (500, 1, DEFAULT, DEFAULT)",
        "INSERT INTO n VALUES (601, 1, DEFAULT, DEFAULT), (600, 1, DEFAULT, DEFAULT)", "INSERT INTO n (v) VALUES (1)",
    ):  # fmt: skip
        plain = maria.work(lambda c, sql=sql: _plainly(c, sql.replace("INTO n", "INTO m").replace("FROM n", "FROM m")))  # type: ignore[misc]
        ran = maria.run(sql)
        assert (ran.rowcount, ran.lastrowid) == plain, sql
        assert maria.rows("n") == maria.rows("m"), sql
    before = maria.rows("n")
    assert maria.undo(maria.branch("UPDATE n SET id = 0 WHERE id = 1", "DELETE FROM n")) == []
    assert maria.rows("n") == before
    maria.branch("UPDATE n SET id = 0 WHERE id = 1")
    before = maria.rows("n")
    assert maria.undo(maria.branch("DELETE FROM n")) == [], "0 is a value like others"
    assert maria.rows("n") == before


def _plainly(connection: Connection, sql: str) -> tuple[int, Any]:
    cursor = connection.connection.cursor()
    cursor.execute(sql)
    return cursor.rowcount, cursor.lastrowid


def test_without_returning_rows_are_found_by_their_keys(maria: Maria) -> None:
    """As on MySQL, which has no INSERT ... RETURNING."""
    maria.plain("CREATE TABLE n (id int AUTO_INCREMENT PRIMARY KEY, v int)", "CREATE TABLE s (k varchar(9) PRIMARY KEY)")
    maria.known_to_return(False)
    ran = maria.run("INSERT INTO n (v) VALUES (%s), (%s)", (7, 8))
    assert (ran.rowcount, ran.lastrowid, len(ran.keys)) == (2, 1, 2)
    assert maria.images()[0][3] == [("1", "7"), ("2", "8")]
    assert maria.run("INSERT INTO s VALUES (%s), ('B')", ("a",)).rowcount == 2
    assert maria.images()[0][3] == [("a",), ("B",)]
    assert maria.run("INSERT INTO acct (bal, id) VALUES (%(b)s, %(i)s)", {"b": 1, "i": 9}).keys == {key(maria, "(id)=(9)")}
    for sql in (
        "INSERT INTO n (v) SELECT v FROM n", "INSERT INTO n VALUES (5 + 5, 1)", "INSERT IGNORE INTO n (v) VALUES (1)",
    ):  # fmt: skip
        with pytest.raises(UnsupportedSqlError, match="without RETURNING"):
            maria.run(sql)


@EACH_DRIVER
def test_executemany(maria: Maria) -> None:
    before = maria.state("acct")
    ran = maria.run("INSERT INTO acct (id, bal, email) VALUES (%s, %s + 1, %s)", [(n, n, f"m{n}") for n in range(10, 2210)])
    assert (ran.rowcount, len(ran.keys)) == (2200, 4400)
    assert len(maria.images()) == 3
    first = maria.branch_id
    ran = maria.run(
        "UPDATE acct SET bal = bal + %s WHERE id = %s AND bal < %s", [(1, n, 50) for n in (10, 11, 48, 49, 50, 10, 7777)]
    )
    assert (ran.rowcount, len(ran.keys)) == (4, 5), "of rows that fulfil the rest of the condition, too"
    assert maria.images()[0][2:] == (
        [("10", "11.00"), ("11", "12.00"), ("48", "49.00")],
        [("10", "13.00"), ("11", "13.00"), ("48", "50.00")],
    )
    ran = maria.run("DELETE FROM acct WHERE id = %(id)s", [{"id": n} for n in range(10, 2210)])
    assert ran.rowcount == 2200
    ran = maria.run("UPDATE acct SET note = %s WHERE email = %s", [("x", "A@x"), ("y", "b@x"), ("z", "none")])
    assert ran.rowcount == 2
    assert maria.undo(*range(first, maria.branch_id + 1)) == []
    assert maria.state("acct") == before
    assert maria.run("UPDATE acct SET bal = %s WHERE id = %s", []).rowcount == 0


@pytest.mark.parametrize("charset", ["latin1", "utf8mb3", "ascii", "ucs2", "utf8mb4"])
def test_executemany_by_keys_of_several_columns(maria: Maria, charset: str) -> None:
    """MariaDB does not find a text of another character set in a list of rows."""
    e = "e" if charset == "ascii" else "\u00e9"
    maria.plain(
        f"CREATE TABLE k (a varchar(9) CHARACTER SET {charset}, n int, v int, PRIMARY KEY (a, n))",
        f"INSERT INTO k VALUES ('{e}', 1, 0), ('x', 2, 0), ('y ', 3, 0)",
    )
    before = maria.state("k")
    keys = [(7, e, 1), (7, "X", 2), (7, "y", 3), (7, "\u03a9", 1)]
    assert maria.run("UPDATE k SET v = %s WHERE a = %s AND n = %s", keys).rowcount == 3
    assert maria.run("DELETE FROM k WHERE v = %s AND a = %s AND n = %s", keys).rowcount == 3
    assert maria.undo(1, 2) == []
    assert maria.state("k") == before


@EACH_DRIVER
def test_executemany_that_fails_half_way(maria: Maria) -> None:
    sql = "UPDATE acct SET email = %s WHERE id = %s"
    with pytest.raises(UnrecordedError) as failed:
        maria.run(sql, [("c@x", 1), ("c@x", 2)])
    assert failed.value.__cause__ is not None
    assert failed.value.__cause__.args[0] == 1062
    with pytest.raises(pymysql.IntegrityError):
        maria.run(sql, [("b@x", 1), ("d@x", 2)])

    def caught(connection: Connection) -> None:
        """What ran has its records, where every row has its own."""
        for sql, rows in (
            ("UPDATE acct SET email = %s WHERE id + 0 = %s", [("c@x", 1), ("c@x", 2)]),
            ("INSERT INTO acct (id, bal) VALUES (%s, %s)", [(n, n) for n in range(10, 1300)] + [(10, 10)]),
        ):
            with pytest.raises(pymysql.IntegrityError):
                maria.captured(connection, sql, rows, Entry("x", 60, first=rows[0][0] == "c@x"))

    before = maria.state("acct")
    maria.work(caught)
    assert len(maria.rows("acct")) == 1003
    assert maria.undo(60) == []
    assert maria.state("acct") == before


@EACH_DRIVER
def test_a_key_that_moves_takes_both(maria: Maria) -> None:
    ran = maria.run("UPDATE acct SET note = 'x', id = id + %s WHERE id > 1 ORDER BY id DESC", (1,))
    assert (ran.rowcount, ran.keys) == (2, {key(maria, f"(id)=({n})") for n in (2, 3, 4)})
    maria.plain("CREATE TABLE s (k char(9) PRIMARY KEY, v int)", "INSERT INTO s VALUES ('a', 1), ('b', 2)")
    ran = maria.run("UPDATE s SET k = CONCAT(k, v, '  ')")
    assert (ran.rowcount, len(ran.keys)) == (2, 4)
    assert maria.images() == [("s", ["k", "v"], [("a", "1"), ("b", "2")], [("a1", "1"), ("b2", "2")])]
    for sql in ("UPDATE s SET v = 2, k = v", "UPDATE s SET k = (SELECT MAX(id) FROM acct)", "UPDATE IGNORE s SET k = 'c'"):
        with pytest.raises(UnsupportedSqlError, match="primary key"):
            maria.run(sql)
    with pytest.raises(Exception, match="1062"):
        maria.run("UPDATE acct SET id = 4 WHERE id = 1")


def test_triggers(maria: Maria) -> None:
    maria.plain("CREATE TRIGGER own BEFORE UPDATE ON acct FOR EACH ROW SET NEW.note = CONCAT('t', NEW.bal)")
    maria.run("UPDATE acct SET bal = 5 WHERE id = 1")
    assert maria.images() == [
        ("acct", ["id", "bal", "email", "note"], [("1", "100.00", "a@x", "one")], [("1", "5.00", "a@x", "t5.00")])
    ]
    maria.plain(
        "CREATE TABLE audit (id int AUTO_INCREMENT PRIMARY KEY)", "DROP TRIGGER own",
        "CREATE TRIGGER far AFTER DELETE ON acct FOR EACH ROW INSERT INTO audit VALUES (NULL)",
    )  # fmt: skip
    maria.forget_facts()
    for sql in ("DELETE FROM acct", "INSERT INTO acct VALUES (8, 8, NULL, NULL)"):
        with pytest.raises(UnsupportedSqlError, match="trigger far"):
            maria.run(sql)
    assert maria.run("UPDATE acct SET bal = 6").rowcount == 3


@EACH_DRIVER
def test_round_trips_are_few(maria: Maria) -> None:
    def job(connection: Connection) -> list[int]:
        asked = [_questions(connection)]
        for n, (sql, parameters) in enumerate(statements):
            maria.captured(connection, sql, parameters, Entry("x", 1, first=n == 0))
            asked.append(_questions(connection))
        return [after - before - 1 for before, after in pairwise(asked)]

    statements: list[tuple[str, Any]] = [
        ("UPDATE acct SET bal = bal - 1 WHERE id = %s", (1,)), ("UPDATE acct SET bal = bal - 1 WHERE id = %s", (2,)),
        ("DELETE FROM acct WHERE id = %s", (1,)), ("INSERT INTO acct (id, bal) VALUES (%s, 1)", (9,)),
        ("INSERT INTO acct (id, bal) VALUES (%s, 1)", [(n,) for n in range(20, 520)]),
        ("DELETE FROM acct WHERE id = %s", [(n,) for n in range(20, 30)]),
    ]  # fmt: skip
    maria.run("DELETE FROM acct WHERE id = ABS(-99)")  # the catalogue is read
    assert maria.work(job) == [6, 4, 3, 3, 3, 14]


def _questions(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Questions'").one()[1])


def test_the_local_transaction_is_limited(maria: Maria) -> None:
    def job(connection: Connection) -> tuple[Any, ...]:
        maria.captured(connection, "UPDATE acct SET bal = 1", None, Entry("x", 1, first=True, limit_ms=2500))
        return tuple(connection.exec_driver_sql("SELECT @@wait_timeout, @@innodb_lock_wait_timeout").one())

    assert maria.work(job) == (3, 3)


@EACH_DRIVER
def test_keys_known_before(maria: Maria) -> None:
    one, three = key(maria, "(id)=(1)"), key(maria, "(id)=(3)")
    assert maria.foreseen("UPDATE acct SET bal = 1 WHERE id IN (%s, 3)", (1,)) == {one, three}
    assert maria.foreseen("UPDATE acct SET bal = 1 WHERE ID = '1'") == {one}, "asked of the database"
    assert maria.foreseen("UPDATE acct SET bal = 1 WHERE bal IN (100, 300)") == {one, three}
    assert maria.foreseen("DELETE FROM acct WHERE id = 3") == {three}
    assert maria.foreseen("DELETE FROM acct WHERE id = 1") == {one, key(maria, f"(email)=({weights('a@x')})")}
    assert maria.foreseen("UPDATE acct SET email = 'z' WHERE id = 1") is None
    assert maria.foreseen("UPDATE acct SET id = 7 WHERE id = 1") is None
    assert maria.foreseen("INSERT INTO acct VALUES (7, 7, NULL, NULL)") is None
    assert maria.foreseen("INSERT INTO acct (id, bal) VALUES (7, 7)") is None, "a default may be anything"
    assert maria.foreseen("INSERT INTO acct (EMAIL, id, bal) VALUES (%s, %s, 7), ('q', 5, 1)", ("z", 7)) == {
        key(maria, "(id)=(7)"), key(maria, "(id)=(5)"),
        key(maria, f"(email)=({weights('z')})"), key(maria, f"(email)=({weights('q')})"),
    }  # fmt: skip
    assert maria.foreseen("INSERT INTO acct (email, id, bal) VALUES (%s, 1 + %s, 7)", ("z", 7)) is None
    assert maria.foreseen("UPDATE acct SET bal = 1 WHERE id = 1 ORDER BY bal LIMIT 1") == {one}


@pytest.mark.parametrize(
    ("collation", "one", "other", "equal"),
    [
        ("utf8mb4_general_ci", "Straße", "STRASE", True), ("utf8mb4_general_ci", "a", "a  ", True),
        ("utf8mb4_unicode_ci", "Straße", "strasse", True), ("utf8mb4_unicode_ci", "a", "a\u00a0", True),
        ("utf8mb4_unicode_nopad_ci", "a", "a ", False), ("utf8mb4_unicode_nopad_ci", "a", "Á", True),
        ("utf8mb4_bin", "a", "A", False), ("utf8mb4_bin", "a", "a ", True), ("utf8mb4_nopad_bin", "a", "a ", False),
        ("latin1_swedish_ci", "ü", "Y", True), ("latin1_swedish_ci", "u", "ü", False), ("latin1_german2_ci", "ä", "AE", True),
        ("utf16_general_ci", "a", "A ", True), ("sjis_japanese_ci", "ｱ", "ｱ ", True),
    ],
)  # fmt: skip
def test_values_that_are_equal_have_one_key(maria: Maria, collation: str, one: str, other: str, equal: bool) -> None:
    charset = collation.partition("_")[0]
    maria.plain(f"CREATE TABLE w (k varchar(20) CHARACTER SET {charset} COLLATE {collation}, n int, PRIMARY KEY (k, n))")
    maria.plain(f"INSERT INTO w VALUES ('{one}', 1)")
    asked = maria.work(lambda c: c.exec_driver_sql("SELECT COUNT(*) FROM w WHERE k = %s", (other,)).scalar_one())
    assert bool(asked) is equal, "what the database says"
    known = maria.foreseen("DELETE FROM w WHERE n = %s AND k = %s", (1, one))
    assert maria.foreseen("DELETE FROM w WHERE k LIKE '%'") == known
    assert maria.run("DELETE FROM w").keys == known
    added = maria.run("INSERT INTO w VALUES (%s, 1)", (other,)).keys
    assert (added == known) is equal
    assert maria.run("DELETE FROM w WHERE k = %s AND n = 1", (other,)).keys == added


def test_keys_of_several_columns_cannot_be_taken_for_others(maria: Maria) -> None:
    maria.plain("CREATE TABLE c (a varchar(9) COLLATE utf8mb4_bin, b varchar(9) COLLATE utf8mb4_bin, PRIMARY KEY (a, b))")
    pairs = [("a,b", "c"), ("a", "b,c"), ('a"', ",b"), ('a",', "b"), ("", "x"), ("x", "")]
    keys = [maria.run("INSERT INTO c VALUES (%s, %s)", pair).keys for pair in pairs]
    assert len(frozenset().union(*keys)) == len(pairs)


def test_a_deadlock_is_the_drivers_own_error(maria: Maria) -> None:
    engine = maria.engine()
    with engine.connect() as one, engine.connect() as two, ThreadPoolExecutor(1) as pool:
        one.begin()
        two.begin()
        maria.captured(one, "UPDATE acct SET bal = 1 WHERE id = 1", None, Entry("x", 1, first=True))
        two.exec_driver_sql("UPDATE acct SET bal = 1 WHERE id < 4 AND id > 1")
        two.exec_driver_sql("INSERT INTO acct (id, bal) VALUES (8, 8), (9, 9)")
        waits = pool.submit(two.exec_driver_sql, "UPDATE acct SET bal = 1 WHERE id = 1")
        maria.wait_for_lock(waits)
        with pytest.raises(Exception, match="1213"):
            maria.captured(one, "UPDATE acct SET bal = 1 WHERE id = 2", None, Entry("x", 1))
        waits.result()
        two.rollback()
    engine.dispose()


@EACH_DRIVER
def test_savepoints_take_records_with_them(maria: Maria) -> None:
    def job(connection: Connection) -> None:
        maria.captured(connection, "UPDATE acct SET bal = 1 WHERE id = 1", None, Entry("x", 1, first=True))
        with connection.begin_nested():
            maria.captured(connection, "UPDATE acct SET bal = 2 WHERE id = 1", None, Entry("x", 1))
        savepoint = connection.begin_nested()
        maria.captured(connection, "UPDATE acct SET bal = 3", None, Entry("x", 1))
        maria.captured(connection, "INSERT INTO acct (id, bal) VALUES (9, 9)", None, Entry("x", 1))
        savepoint.rollback()
        maria.captured(connection, "INSERT INTO acct (id, bal) VALUES (7, 9)", None, Entry("x", 1))

    maria.work(job)
    assert maria.log() == [(1, 1, "IMAGE"), (1, 2, "IMAGE"), (1, 3, "IMAGE")]
    assert maria.undo(1) == []
    assert [str(r[1]) for r in maria.rows("acct")] == ["100.00", "200.00", "300.00"]
