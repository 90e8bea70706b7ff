"""XA's pure rules: what "not found" means, what prepared transactions are called, and what statements do."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url
from txcoord_proto.errors import ConfigurationError, UnsupportedSqlError
from txcoord_rm.capture.families import flavour_of
from txcoord_rm.xa.effects import Effect, Effects
from txcoord_rm.xa.identifier import Identifier, parse, parse_parts
from txcoord_rm.xa.mode import Mode, current_mode, mode
from txcoord_rm.xa.outcome import StillPreparedError, check_ended
from txcoord_sdk.dialects import dialect_of
from txcoord_sdk.fence.fence import FenceState
from txcoord_sdk.participant import ParkError

DATABASE = "01234567-89ab-cdef-0123-456789abcdef"
BRANCH = Identifier(DATABASE, "default.00lf3m2k9.0000000a", 77)
T, S, C, X = FenceState.TRIED, FenceState.SUSPENDED, FenceState.CONFIRMED, FenceState.CANCELLED

CASES = {
    (True, True, None): StillPreparedError,
    (True, True, T): StillPreparedError,
    (True, True, S): StillPreparedError,
    (True, True, C): StillPreparedError,
    (True, True, X): StillPreparedError,
    (True, False, None): ParkError,
    (True, False, T): None,
    (True, False, S): ParkError,
    (True, False, C): ParkError,
    (True, False, X): ParkError,
    (False, True, None): StillPreparedError,
    (False, True, T): StillPreparedError,
    (False, True, S): StillPreparedError,
    (False, True, C): StillPreparedError,
    (False, True, X): StillPreparedError,
    (False, False, None): StillPreparedError,
    (False, False, T): ParkError,
    (False, False, S): None,
    (False, False, C): ParkError,
    (False, False, X): ParkError,
}
"""Commit is decided, it is listed, what its fence row says: what that comes to; None: it has ended as decided."""


def test_all_cases_are_there() -> None:
    states = (None, *FenceState)
    assert CASES.keys() == {(commit, listed, state) for commit in (True, False) for listed in (True, False) for state in states}
    assert [case for case, error in CASES.items() if error is None] == [(True, False, T), (False, False, S)]


@pytest.mark.parametrize(("commit", "listed", "state"), CASES)
def test_what_not_found_means(commit: bool, listed: bool, state: FenceState | None) -> None:
    expected = CASES[commit, listed, state]
    if expected is None:
        check_ended(BRANCH, commit, listed, state)
    else:
        with pytest.raises(expected, match=f"branch 77 of {BRANCH.xid}"):
            check_ended(BRANCH, commit, listed, state)


def test_an_identifier_is_read_as_it_was_written() -> None:
    assert parse(str(BRANCH), DATABASE) == BRANCH
    xid, rest, format_id = BRANCH.in_parts.split(",")
    assert parse_parts(int(format_id), xid.strip("'"), rest.strip("'"), DATABASE) == BRANCH


def test_an_identifier_fits() -> None:
    longest = Identifier(DATABASE, "g" * 32 + "." + "z" * 12 + "." + "9" * 13, 2**63 - 1)
    assert len(str(longest)) < 200
    assert max(len(part.strip("'")) for part in longest.in_parts.split(",")) <= 64


@pytest.mark.parametrize(
    "text",
    [
        "", "txcoord", "other:" + str(BRANCH), str(BRANCH).replace("txcoord", "seata"), str(BRANCH).replace("4567", "9999"),
        str(BRANCH) + "x", str(BRANCH) + ":1", str(BRANCH).replace(":77", ":"), str(BRANCH).replace("default.", "a b."),
        str(BRANCH).replace(":77", ":\u0667\u0667"),
    ],
)  # fmt: skip
def test_what_is_none_of_ours_is_not_read(text: str) -> None:
    assert parse(text, DATABASE) is None
    assert parse_parts(0x7478, BRANCH.xid, text, DATABASE) is None
    assert parse_parts(1, BRANCH.xid, f"txcoord:{DATABASE}:77", DATABASE) is None


@pytest.fixture(params=["postgresql+psycopg", "mysql+pymysql"])
def statements(request: pytest.FixtureRequest) -> Effects:
    dialect = make_url(f"{request.param}://host/db").get_dialect()()
    return Effects(flavour_of(dialect), dialect_of(dialect.name))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1", "SELECT count(*), max(a) FROM t WHERE a IN (1, 2) AND (b = 1)", "SAVEPOINT a", "SHOW x",
        "WITH a AS (SELECT 1) SELECT * FROM a",
    ],
)  # fmt: skip
def test_what_only_reads(statements: Effects, sql: str) -> None:
    assert statements.effect(sql, ()) is Effect.READS


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET a = 1", "SELECT a FROM t FOR UPDATE", "SELECT book(1)", "CALL book(1)",
        "MERGE INTO t USING s ON a = b WHEN MATCHED THEN DELETE",
        "WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a", "SELECT nextval('s')", "DO SLEEP(1)", "SELECT a INTO b FROM t",
    ],
)  # fmt: skip
def test_what_may_change_something(statements: Effects, sql: str) -> None:
    assert statements.effect(sql, ()) is Effect.CHANGES


@pytest.mark.parametrize("sql", ["COMMIT", "commit", "/* a */ ROLLBACK", "XA PREPARE 'a'", "BEGIN", "END", "SELECT 1; COMMIT"])
def test_what_ends_the_transaction_is_refused(statements: Effects, sql: str) -> None:
    with pytest.raises(UnsupportedSqlError):
        statements.effect(sql, ())


def test_ddl_is_refused_where_it_commits() -> None:
    for name, effect in (("postgresql+psycopg", Effect.CHANGES), ("mysql+pymysql", None)):
        dialect = make_url(f"{name}://host/db").get_dialect()()
        statements = Effects(flavour_of(dialect), dialect_of(dialect.name))
        if effect is None:
            with pytest.raises(UnsupportedSqlError, match="commits before it"):
                statements.effect("CREATE TABLE a (b integer)", None)
            assert statements.effect("CREATE TEMPORARY TABLE a (b integer)", None) is Effect.CHANGES
        else:
            assert statements.effect("CREATE TABLE a (b integer)", None) is effect


def test_a_block_has_a_mode() -> None:
    assert current_mode() is None
    with mode("xa"):
        assert current_mode() is Mode.XA
        with mode("at"):
            assert current_mode() is Mode.AT
        assert current_mode() is Mode.XA
    assert current_mode() is None
    with pytest.raises(ConfigurationError, match="no mode 'XA'"):
        mode("XA")
