"""After an undo on MariaDB every row is what it was, to the bit; or nothing is, and it says which rows stand against it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.exc import DBAPIError
from txcoord_rm.at.participant import _forget as forget_commits
from txcoord_rm.capture.port import Entry
from txcoord_rm.undo.item import CorruptRecordError
from txcoord_rm.undo.log import forget

from tests.contract.rm.maria import EACH_DRIVER, Maria


@pytest.fixture(autouse=True)
def acct(maria: Maria) -> None:
    maria.plain(
        "CREATE TABLE acct (id int PRIMARY KEY, bal decimal(10,2) NOT NULL, email varchar(20) UNIQUE, note text)",
        "INSERT INTO acct VALUES (1, 100, 'a@x', 'one'), (2, 200, 'b@x', NULL), (3, 300, NULL, 'th\"r\\\\ee, ()%s')",
    )


@EACH_DRIVER
def test_every_kind_of_change(maria: Maria) -> None:
    before = maria.state("acct")
    branch = maria.branch(
        "UPDATE acct SET bal = bal + 1, note = 'x'",
        "DELETE FROM acct WHERE id = 3",
        "INSERT INTO acct VALUES (4, 1, 'c@x', '')",
        "UPDATE acct SET id = id + 100, email = CONCAT('z', email)",
        "INSERT INTO acct VALUES (3, 7, 'a@x', NULL)",
    )
    assert maria.state("acct") != before
    assert maria.undo(branch) == []
    assert maria.state("acct") == before
    assert maria.log() == [(branch, 1, "UNDONE")]
    assert maria.undo(branch) == [], "asked for again, it is done"
    assert maria.state("acct") == before


def test_rows_that_stand_in_each_others_way_go_back_one_by_one(maria: Maria) -> None:
    maria.plain("CREATE TABLE r (id int PRIMARY KEY, place int UNIQUE)")
    maria.plain("INSERT INTO r SELECT seq, seq FROM seq_1_to_300")
    before = maria.state("r")
    branch = maria.branch("UPDATE r SET place = place - 1 ORDER BY place")
    up = maria.branch("UPDATE r SET place = place + 2 ORDER BY place DESC")
    swap = maria.branch(
        "UPDATE r SET place = -1 WHERE id = 1", "UPDATE r SET place = 2 WHERE id = 2", "UPDATE r SET place = 3 WHERE id = 1"
    )
    assert maria.undo(branch, up, swap) == []
    assert maria.state("r") == before


def test_rows_whose_keys_move_over_each_other(maria: Maria) -> None:
    maria.plain("CREATE TABLE r (id int PRIMARY KEY, v int)", "INSERT INTO r SELECT seq, seq FROM seq_1_to_30")
    before = maria.state("r")
    branch = maria.branch("UPDATE r SET id = id + 1 ORDER BY id DESC", "UPDATE r SET id = id - 3, v = v + 1 ORDER BY id")
    assert maria.undo(branch) == []
    assert maria.state("r") == before


def test_branches_are_undone_whatever_their_records_say_of_their_order(maria: Maria) -> None:
    before = maria.state("acct")
    first = maria.branch("UPDATE acct SET bal = 1 WHERE id = 1", "INSERT INTO acct VALUES (9, 9, NULL, NULL)")
    second = maria.branch("UPDATE acct SET bal = 100.00 WHERE id = 1", "DELETE FROM acct WHERE id = 9")
    maria.plain(f"UPDATE txcoord_undo_log SET created_at = 0 WHERE branch_id = {second}")
    assert maria.undo(first, second) == []
    assert maria.state("acct") == before


@EACH_DRIVER
def test_what_somebody_else_wrote_is_never_overwritten(maria: Maria) -> None:
    branch = maria.branch("UPDATE acct SET bal = 1 WHERE id < 3", "INSERT INTO acct VALUES (9, 9, NULL, NULL)")
    maria.plain("UPDATE acct SET bal = 77 WHERE id = 1", "UPDATE acct SET note = 'mine' WHERE id = 9")
    written = maria.state("acct")
    differences = maria.undo(branch)
    assert sorted((d.change.before, d.change.after, d.current) for d in differences if d.change.before) == [
        (("1", "100.00"), ("1", "1.00"), ("1", "77.00")),
    ]
    assert [(d.change.after, d.current) for d in differences if not d.change.before] == [
        (("9", "9.00", None, None), ("9", "9.00", None, "mine")),
    ]
    assert maria.state("acct") == written
    assert maria.log() == [(branch, 1, "IMAGE"), (branch, 2, "IMAGE")]


def test_another_column_of_the_row_is_somebody_elses_business(maria: Maria) -> None:
    branch = maria.branch("UPDATE acct SET bal = 1 WHERE id = 1")
    maria.plain("UPDATE acct SET note = 'mine' WHERE id = 1")
    assert maria.undo(branch) == []
    assert maria.rows("acct", "id, CAST(bal AS CHAR), note")[0] == (1, "100.00", "mine")


def test_what_is_back_already_is_left(maria: Maria) -> None:
    before = maria.state("acct")
    branch = maria.branch(
        "UPDATE acct SET bal = 1 WHERE id = 1", "INSERT INTO acct VALUES (9, 9, NULL, '')", "DELETE FROM acct WHERE id = 2"
    )
    maria.plain(
        "UPDATE acct SET bal = 100 WHERE id = 1", "DELETE FROM acct WHERE id = 9", "INSERT INTO acct VALUES (2, 200, 'b@x', NULL)"
    )
    assert maria.undo(branch) == []
    assert maria.state("acct") == before


def test_keys_that_moved_are_not_taken_for_others_that_moved_there(maria: Maria) -> None:
    maria.plain("CREATE TABLE m (id int PRIMARY KEY, v text)", "INSERT INTO m VALUES (11, 'b'), (1, 'a')")
    branch = maria.branch("UPDATE m SET id = id + 10 ORDER BY id DESC")
    maria.plain("DELETE FROM m WHERE id = 11")
    assert len(maria.undo(branch)) == 1
    assert maria.rows("m") == [(21, "b")]
    maria.plain("INSERT INTO m VALUES (11, 'foreign')")
    assert len(maria.undo(branch)) == 2
    assert maria.rows("m") == [(11, "foreign"), (21, "b")]


def test_a_row_that_others_refer_to_does_not_take_theirs_with_it(maria: Maria) -> None:
    maria.plain(
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent (id) ON DELETE CASCADE)",
    )
    branch = maria.branch("INSERT INTO parent VALUES (9)", "INSERT INTO child VALUES (1, 9)")
    assert maria.undo(branch) == []
    branch = maria.branch("INSERT INTO parent VALUES (9)")
    maria.plain("INSERT INTO child VALUES (2, 9)")
    (difference,) = maria.undo(branch)
    assert "refer to it" in difference.reason
    assert (maria.rows("child"), maria.rows("parent")) == ([(2, 9)], [(9,)])
    maria.plain("ALTER TABLE child DROP FOREIGN KEY child_ibfk_1, ADD FOREIGN KEY (p) REFERENCES parent (id)")
    (difference,) = maria.undo(branch)
    assert "foreign key constraint fails" in difference.reason
    assert (maria.rows("child"), maria.rows("parent")) == ([(2, 9)], [(9,)])


def test_rows_that_refer_to_each_other_in_one_table(maria: Maria) -> None:
    maria.plain("CREATE TABLE tree (id int PRIMARY KEY, parent int, up int, FOREIGN KEY (parent) REFERENCES tree (id))")
    maria.plain("INSERT INTO tree VALUES (9, NULL, 1), (5, 9, 2), (7, 5, 3), (1, 7, 4)", "CREATE INDEX up ON tree (up)")
    before = maria.state("tree")
    branch = maria.branch("DELETE FROM tree WHERE up > 1 ORDER BY up DESC", "INSERT INTO tree VALUES (20, NULL, 0), (21, 20, 0)")
    assert maria.undo(branch) == []
    assert maria.state("tree") == before


def test_a_row_that_others_come_to_refer_to_meanwhile(maria: Maria) -> None:
    maria.plain(
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent (id) ON DELETE CASCADE)",
    )
    branch = maria.branch("INSERT INTO parent VALUES (9)")
    engine = maria.engine()
    with engine.connect() as other, ThreadPoolExecutor(1) as pool:
        other.exec_driver_sql("INSERT INTO child VALUES (1, 9)")
        undone = pool.submit(maria.undo, branch)
        maria.wait_for_lock(undone)
        other.commit()
        assert len(undone.result()) == 1
    engine.dispose()
    assert maria.rows("child") == [(1, 9)]


@EACH_DRIVER
def test_a_lock_of_somebody_else_is_not_waited_for_without_end(maria: Maria) -> None:
    branch = maria.branch("UPDATE acct SET bal = 1 WHERE id = 1")
    engine = maria.engine()
    with engine.connect() as other:
        other.exec_driver_sql("SELECT * FROM acct WHERE id = 1 FOR UPDATE")
        begun = time.monotonic()
        with pytest.raises(DBAPIError, match="1205"):
            maria.undo(branch)
        assert time.monotonic() - begun < 5
    engine.dispose()
    assert maria.undo(branch) == []


def test_what_the_database_makes_of_a_row_is_compared(maria: Maria) -> None:
    maria.plain("CREATE TABLE n (id int PRIMARY KEY, v varchar(5))", "INSERT INTO n VALUES (1, 'abcde'), (2, 'abcde')")
    branch = maria.branch("UPDATE n SET v = 'x' WHERE id = 1", "DELETE FROM n WHERE id = 2")
    maria.plain("ALTER TABLE n MODIFY v varchar(3)")
    differences = maria.undo(branch)
    assert sorted(d.reason for d in differences) == [
        "the database made ('1', 'abc') of a row",
        "the database made ('2', 'abc') of a row",
    ]
    assert maria.rows("n") == [(1, "x")]


def test_a_trigger_or_a_check_that_forbids_a_row_is_named(maria: Maria) -> None:
    branch = maria.branch("DELETE FROM acct WHERE id = 1", "UPDATE acct SET bal = 0 WHERE id = 2")
    maria.plain(
        "ALTER TABLE acct ADD CHECK (bal < 200 OR id = 3)",
        "CREATE TRIGGER no BEFORE INSERT ON acct FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'closed'",
    )
    reasons = sorted(difference.reason for difference in maria.undo(branch))
    assert reasons[1] == "closed"
    assert reasons[0].startswith("CONSTRAINT")


def test_a_column_that_sets_itself_goes_back_too(maria: Maria) -> None:
    maria.plain(
        "CREATE TABLE u (id int PRIMARY KEY, v int, at timestamp(3) NOT NULL DEFAULT '2020-01-01' "
        "ON UPDATE current_timestamp(3), other datetime NULL DEFAULT '2020-01-01' ON UPDATE current_timestamp)",
        "INSERT INTO u (id, v) VALUES (1, 1), (2, 2), (3, 3)",
    )
    before = maria.state("u")
    branch = maria.branch(
        "UPDATE u SET v = v + 1", "UPDATE u SET v = v + 1, at = '2021-01-01' WHERE id = 2", "DELETE FROM u WHERE id = 3"
    )
    assert maria.images()[0][1] == ["id", "v", "at", "other"]
    assert maria.undo(branch) == []
    assert maria.state("u") == before
    branch = maria.branch("UPDATE u SET v = 7, at = at, other = other WHERE id = 1")
    assert maria.undo(branch) == []
    assert maria.state("u") == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP TABLE acct", "does not exist any more"),
        ("ALTER TABLE acct DROP COLUMN bal", "no column bal any more"),
        ("ALTER TABLE acct DROP PRIMARY KEY", "it has no primary key"),
        ("ALTER TABLE acct DROP PRIMARY KEY, ADD PRIMARY KEY (email)", "the primary key of .* has changed"),
        ("ALTER TABLE acct MODIFY id varbinary(9)", "does not fit"),
        ("ALTER TABLE acct ENGINE = MyISAM", "does not roll back"),
        ("RENAME TABLE acct TO other; CREATE VIEW acct AS SELECT * FROM other", "it is a view"),
    ],
)
def test_a_table_that_is_another_by_now_is_left_alone(maria: Maria, change: str, said: str) -> None:
    maria.plain("DELETE FROM acct WHERE email IS NULL")
    branch = maria.branch("UPDATE acct SET bal = 1 WHERE id = 1")
    maria.plain(*change.split("; "))
    with pytest.raises(CorruptRecordError, match=said):
        maria.undo(branch)
    assert maria.log() == [(branch, 1, "IMAGE")]


def test_records_that_say_nothing_certain_are_refused(maria: Maria) -> None:
    for spoilt in (
        "befores = NULL, afters = NULL", "befores = afters", "columns = NULL", "columns = '[\"id\"]'", "format = 2",
        "afters = '[[1, 2]]'", "afters = '[[\"1\"]]'", "afters = 'x'", "afters = '{\"hex\": \"00\"}'", "seq = 2",
    ):  # fmt: skip
        branch = maria.branch("UPDATE acct SET bal = bal + 1 WHERE id = 1")
        maria.plain(f"UPDATE txcoord_undo_log SET {spoilt} WHERE branch_id = {branch}")
        with pytest.raises(CorruptRecordError):
            maria.undo(branch)


@EACH_DRIVER
def test_the_guard_stops_a_phase_one_that_comes_late(maria: Maria) -> None:
    assert maria.undo(1) == []
    assert maria.log() == [(1, 1, "GUARD")]
    with pytest.raises(Exception, match="PRIMARY"):
        maria.branch("UPDATE acct SET bal = 1")
    assert maria.undo(1) == []


@pytest.mark.parametrize("commits", [True, False])
def test_a_phase_one_that_is_under_way_is_waited_for(maria: Maria, commits: bool) -> None:
    before = maria.state("acct")
    engine = maria.engine()
    with engine.connect() as other, ThreadPoolExecutor(1) as pool:
        other.begin()
        maria.captured(other, "UPDATE acct SET bal = 0", None, Entry("x", 5, first=True))
        undone = pool.submit(maria.undo, 5)
        maria.wait_for_lock(undone)
        if commits:
            other.commit()
        else:
            other.rollback()
        assert undone.result() == []
    engine.dispose()
    assert maria.state("acct") == before
    assert maria.log() == [(5, 1, "UNDONE" if commits else "GUARD")]


@pytest.mark.parametrize("wrote", [True, False])
def test_two_rollbacks_at_once_undo_once(maria: Maria, wrote: bool) -> None:
    before = maria.state("acct")
    for n in range(1, 9):
        branch = maria.branch("UPDATE acct SET bal = bal + 1", "DELETE FROM acct WHERE id = 1") if wrote else n
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(maria.undo, [branch, branch])) == [[], []]
        assert maria.state("acct") == before
    assert {state for _, _, state in maria.log()} == {"UNDONE" if wrote else "GUARD"}


def test_branches_that_run_at_once_do_not_lock_each_other_out(maria: Maria) -> None:
    engine = maria.engine()
    with engine.connect() as one, engine.connect() as two:
        one.begin()
        two.begin()
        for n in (1, 2):
            for number, (connection, row) in enumerate(((one, 1), (two, 2)), 50):
                maria.captured(connection, f"UPDATE acct SET bal = {n} WHERE id = {row}", None, Entry("x", number, first=n == 1))
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(maria.undo, 60).result() == [], "nor does a rollback that finds nothing"
        one.commit()
        two.commit()
    engine.dispose()
    assert maria.log() == [(50, 1, "IMAGE"), (50, 2, "IMAGE"), (51, 1, "IMAGE"), (51, 2, "IMAGE"), (60, 1, "GUARD")]
    assert maria.undo(50, 51) == []


@EACH_DRIVER
def test_records_of_committed_transactions_are_forgotten_and_guards_are_not(maria: Maria) -> None:
    first = maria.branch("UPDATE acct SET bal = 1 WHERE id = 1", "UPDATE acct SET bal = 2 WHERE id = 1")
    second, third = maria.branch("UPDATE acct SET bal = 3"), maria.branch("UPDATE acct SET bal = 4")
    assert maria.undo(77) == []
    gone = maria.work(lambda c: forget(c, [("x", first), ("x", second), ("y", third), ("x", 77), ("x", 99)]))
    assert (gone, maria.work(lambda c: forget(c, []))) == (3, 0)
    assert maria.log() == [(third, 1, "IMAGE"), (77, 1, "GUARD")]


@EACH_DRIVER
def test_ten_thousand_rows_go_back_within_two_seconds(maria: Maria) -> None:
    maria.plain(
        "CREATE TABLE big (id int PRIMARY KEY, v varchar(40), n int UNIQUE)",
        "INSERT INTO big SELECT seq, CONCAT('row ', seq), seq FROM seq_1_to_10000",
    )
    before = maria.state("big")
    for sql in ("UPDATE big SET v = CONCAT(v, '!')", "DELETE FROM big", "UPDATE big SET n = n - 1 ORDER BY n"):
        branch = maria.branch(sql)
        assert maria.results[0].rowcount == 10_000
        begun = time.monotonic()
        assert maria.undo(branch) == []
        assert time.monotonic() - begun < (6 if "ORDER" in sql else 2), sql
        assert maria.state("big") == before


def test_where_reads_lock_the_deletion_of_records_holds_up_nobody(maria: Maria) -> None:
    """It reads which there are, and a phase one may be about to write one beside them."""
    first = maria.branch("UPDATE acct SET bal = 1 WHERE id = 1")
    engine = maria.engine()
    with engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        forget_commits(connection, [("x", first), ("x", first + 2)])
        engine_of_others = maria.engine()
        with engine_of_others.begin() as other:
            other.exec_driver_sql("SET innodb_lock_wait_timeout = 1")
            other.exec_driver_sql(
                "INSERT INTO txcoord_undo_log (branch_id, seq, state, xid, format, created_at) "
                f"VALUES ({first + 1}, 1, 'GUARD', 'x', 1, 0)"
            )
        engine_of_others.dispose()
        connection.commit()
    engine.dispose()
    assert maria.log() == [(first + 1, 1, "GUARD")]
