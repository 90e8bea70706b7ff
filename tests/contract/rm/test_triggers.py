"""Tables that capture their changes themselves: what no rewritten statement sees is undone to the bit, or refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, create_engine
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_rm.catalogue.facts import facts_on
from txcoord_rm.commands.capture import capture_command
from txcoord_rm.commands.init import init_command
from txcoord_rm.undo.log import undo

from tests.contract.rm.branches import log, phase_one, plain, rows
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
def test_rows_that_change_by_a_foreign_key_come_back(
    url: str, engine: Engine, action: str, statement: str, records: int
) -> None:
    plain(
        engine,
        f"CREATE TABLE child (id int PRIMARY KEY, parent_id int DEFAULT 9 REFERENCES parent {action}, x double precision)",
        "INSERT INTO child SELECT n, 1 + n % 3, n / 3.0 FROM generate_series(1, 30) AS n",
    )
    install(url, "parent", "child")
    assert restored(engine, ("parent", "child"), statement) == records
