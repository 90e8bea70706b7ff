"""What a person may do where rules cannot decide: rows are put back over what is there, all or none, or left as they are."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine
from txcoord_rm.catalogue.facts import facts_on
from txcoord_rm.undo import operator
from txcoord_rm.undo.item import CorruptRecordError
from txcoord_rm.undo.log import metadata
from txcoord_rm.undo.restorer import Difference

from tests.contract.rm.branches import log, phase_one, plain, rows
from tests.servers.fixtures import FreshUrl


@pytest.fixture(params=["postgres", "postgres18"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
    engine = create_engine(fresh("psycopg"))
    metadata.create_all(engine)
    plain(
        engine,
        "CREATE TABLE acct (id int PRIMARY KEY, bal numeric NOT NULL, email text UNIQUE, note text)",
        "INSERT INTO acct VALUES (1, 100.00, 'a@x', 'one'), (2, 200, 'b@x', NULL), (3, 300, NULL, 'three')",
    )
    yield engine
    engine.dispose()


def force(engine: Engine) -> list[Difference]:
    with engine.connect() as connection:
        found = operator.force(connection, "x", facts_on(connection))
        if not found:
            connection.commit()
        return found


def test_whatever_is_there_is_written_over(engine: Engine) -> None:
    before = rows(engine, "acct")
    phase_one(
        engine, "x", 1, "UPDATE acct SET bal = 1 WHERE id = 1", "DELETE FROM acct WHERE id = 2", "INSERT INTO acct VALUES (9, 9)"
    )
    phase_one(engine, "x", 2, "DELETE FROM acct WHERE id = 3", "INSERT INTO acct VALUES (8, 8)")
    plain(
        engine,
        "UPDATE acct SET bal = 77 WHERE id = 1",
        "INSERT INTO acct VALUES (2, 5, 'mine', 'mine')",
        "UPDATE acct SET note = 'mine' WHERE id = 9",
        "DELETE FROM acct WHERE id = 8",
    )
    assert force(engine) == []
    assert rows(engine, "acct") == before
    assert log(engine) == [("x", 1, 1, "UNDONE"), ("x", 2, 1, "UNDONE")]
    assert force(engine) == [], "there is nothing left to do"
    assert rows(engine, "acct") == before


def test_columns_that_the_transaction_did_not_change_stay_with_those_who_wrote_them(engine: Engine) -> None:
    phase_one(engine, "x", 1, "UPDATE acct SET bal = 1 WHERE id = 1")
    plain(engine, "UPDATE acct SET bal = 77, note = 'mine' WHERE id = 1")
    assert force(engine) == []
    assert rows(engine, "acct")[0] == "(1,100.00,a@x,mine)"


def test_a_value_that_was_there_in_between_is_no_end(engine: Engine) -> None:
    """`restore` would look for the record that fits first, and end with what stood between the two."""
    phase_one(engine, "x", 1, "UPDATE acct SET note = 'paid' WHERE id = 1")
    phase_one(engine, "x", 2, "UPDATE acct SET note = 'sent' WHERE id = 1")
    plain(engine, "UPDATE acct SET note = 'paid' WHERE id = 1")
    assert force(engine) == []
    assert rows(engine, "acct")[0] == "(1,100.00,a@x,one)"


def test_a_row_that_moved(engine: Engine) -> None:
    before = rows(engine, "acct")
    phase_one(engine, "x", 1, "UPDATE acct SET id = 11 WHERE id = 1", "UPDATE acct SET bal = 3 WHERE id = 11")
    plain(engine, "UPDATE acct SET bal = 5, note = 'mine' WHERE id = 11")
    assert force(engine) == []
    assert rows(engine, "acct") == ["(1,100.00,a@x,mine)", *before[1:]]
    phase_one(engine, "x", 2, "UPDATE acct SET id = 12 WHERE id = 1")
    plain(engine, "DELETE FROM acct WHERE id = 12")
    assert force(engine) == []
    assert rows(engine, "acct") == ["(1,100.00,a@x,mine)", *before[1:]]


def test_a_row_that_is_gone_is_not_made_of_some_of_its_columns(engine: Engine) -> None:
    phase_one(engine, "x", 1, "UPDATE acct SET bal = 2 WHERE id = 2", "UPDATE acct SET bal = 1 WHERE id = 1")
    plain(engine, "DELETE FROM acct WHERE id = 1", "UPDATE acct SET bal = 4 WHERE id = 2")
    written = rows(engine, "acct")
    (difference,) = force(engine)
    assert difference.current is None
    assert difference.change.before == ("1", "100.00")
    assert rows(engine, "acct") == written, "all or nothing"
    assert {state for *_, state in log(engine)} == {"IMAGE"}


def test_what_others_own_is_not_taken_with_it(engine: Engine) -> None:
    plain(engine, "CREATE TABLE child (id int PRIMARY KEY, acct int REFERENCES acct ON DELETE CASCADE)")
    phase_one(engine, "x", 1, "INSERT INTO acct VALUES (9, 9)")
    plain(engine, "UPDATE acct SET bal = 1 WHERE id = 9", "INSERT INTO child VALUES (1, 9)")
    (difference,) = force(engine)
    assert "would go, or change, with it" in difference.reason
    assert rows(engine, "child") == ["(1,9)"]


def test_a_unique_value_that_another_row_has_now_stands_against_it(engine: Engine) -> None:
    phase_one(engine, "x", 1, "UPDATE acct SET email = 'new@x' WHERE id = 1")
    plain(engine, "UPDATE acct SET email = 'taken' WHERE id = 1", "UPDATE acct SET email = 'a@x' WHERE id = 3")
    (difference,) = force(engine)
    assert "duplicate key" in difference.reason
    assert rows(engine, "acct")[0] == "(1,100.00,taken,one)"


def test_a_record_that_cannot_be_read_is_no_ground_to_write_on(engine: Engine) -> None:
    phase_one(engine, "x", 1, "UPDATE acct SET bal = 1")
    plain(engine, "UPDATE txcoord_undo_log SET befores = befores[1:2]")
    with pytest.raises(CorruptRecordError, match="do not belong together"):
        force(engine)


@pytest.mark.parametrize("seed", range(8))
def test_after_random_writes_of_others_every_row_is_back(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)
    plain(
        engine,
        "CREATE TABLE t (id int PRIMARY KEY, a int, b text)",
        "INSERT INTO t SELECT n, n, 'b' || n FROM generate_series(1, 9) AS n",
    )
    before = rows(engine, "t")
    all_of_it = ("UPDATE t SET a = a + 100, b = 'x' || b", "INSERT INTO t SELECT n, n, 'new' FROM generate_series(10, 14) AS n")
    phase_one(engine, "x", 1, *all_of_it)
    for branch_id in range(2, 5):
        phase_one(engine, "x", branch_id, *(_write(chance) for _ in range(3)))
    plain(engine, *(_write(chance) for _ in range(9)))
    assert rows(engine, "t") != before
    assert force(engine) == []
    assert rows(engine, "t") == before


def _write(chance: random.Random) -> str:
    """It writes all columns, so that a row that is gone can be made of its image."""
    n, m = chance.randrange(1, 15), chance.randrange(1000)
    return chance.choice(
        [
            f"UPDATE t SET a = {m}, b = 'w{m}' WHERE id = {n}",
            f"UPDATE t SET a = a - 1, b = b || '{m}' WHERE id > {n}",
            f"DELETE FROM t WHERE id = {n}",
            f"INSERT INTO t VALUES ({n}, {m}, 'i{m}') ON CONFLICT DO NOTHING",
        ]
    )


def test_what_is_accepted_stays(engine: Engine) -> None:
    phase_one(engine, "x", 1, "UPDATE acct SET bal = 1 WHERE id < 3", "DELETE FROM acct WHERE id = 3")
    phase_one(engine, "x", 2, "UPDATE acct SET bal = 2 WHERE id = 2")
    phase_one(engine, "y", 3, "UPDATE acct SET bal = 3 WHERE id = 2")
    written = rows(engine, "acct")
    with engine.begin() as connection:
        operator.accept(connection, "x")
    assert rows(engine, "acct") == written
    assert log(engine) == [("x", 1, 1, "UNDONE"), ("x", 2, 1, "UNDONE"), ("y", 3, 1, "IMAGE")]
