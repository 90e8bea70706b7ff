"""Several statements in one round trip to PostgreSQL: all of them or none, and values as they were given."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from sqlalchemy import make_url
from txcoord_server.store.arrays import Value, array, parameter
from txcoord_server.store.pipeline import Parameters, Pipeline, rows
from txcoord_server.store.postgresql import CommitConnection

from tests.servers.fixtures import FreshUrl

INSERT = "INSERT INTO t SELECT * FROM unnest($1::int8[], $2::text[], $3::bytea[])"
ALL = "SELECT n, s, encode(b, 'hex') FROM t ORDER BY n"
ODD: tuple[str | None, ...] = (
    None, "", "NULL", "null", "a,b", "{}", '"', "\\", '\\"', "\\x41", " a ", "a\nb\tc", "'", "$1", "%s", "\u00e4\U0001f980",
    '{a,"b"}',
)  # fmt: skip
BYTES = (None, b"", b"\0\xff", b'\\"{},', bytes(range(256)))


@pytest.fixture
async def connection(fresh_postgres_url: FreshUrl) -> AsyncIterator[CommitConnection]:
    url = make_url(fresh_postgres_url())
    options = {"host": url.host, "port": url.port, "user": url.username, "password": url.password, "dbname": url.database}
    connection = await CommitConnection.connect(autocommit=True, **options)  # type: ignore[arg-type]  # as SQLAlchemy does
    await connection.execute("CREATE TABLE t (n int8 PRIMARY KEY, s text, b bytea)")
    yield connection
    await connection.close()


def insert(*values: tuple[int, str | None, bytes | None]) -> tuple[str, Parameters]:
    return INSERT, [array(column) for column in zip(*values, strict=True)]


async def run(pipeline: Pipeline, *statements: tuple[str, Parameters]) -> list[tuple[str | None, ...]]:
    """The rows of the last statement."""
    pipeline.send(statements)
    return rows((await pipeline.commit())[-1])


async def test_values_are_what_they_were(connection: CommitConnection) -> None:
    texts = [(n, s, BYTES[n % len(BYTES)]) for n, s in enumerate(ODD)]
    stored = await run(connection.commits, insert(*texts), (ALL, []))
    assert stored == [(str(n), s, None if b is None else b.hex()) for n, s, b in texts]
    for value in (*ODD, *BYTES, 0, -1, 2**63 - 1, True):
        kind = {bytes: "bytea", str: "text", type(None): "text"}.get(type(value), "int8")
        assert await alike(connection.commits, value, kind), repr(value)


async def alike(pipeline: Pipeline, value: Value, kind: str) -> bool:
    """Whether the database takes a value alone for the same as within an array."""
    question = f"SELECT $1::{kind} IS NOT DISTINCT FROM ($2::{kind}[])[1] AND ($1 IS NULL) = $3::int8::int4::bool"
    ((same,),) = await run(pipeline, (question, [parameter(value), array([value]), parameter(value is None)]))
    return same == "t"


async def test_one_failure_leaves_nothing_and_the_connection_goes_on(connection: CommitConnection) -> None:
    pipeline = connection.commits
    for _ in range(3):
        with pytest.raises(psycopg.errors.UniqueViolation):
            await run(pipeline, insert((1, "a", None)), insert((1, "b", None)), ("SELECT count(*) FROM t", []))
        with pytest.raises(psycopg.errors.UndefinedTable):
            await run(pipeline, insert((1, "a", None)), ("SELECT * FROM nowhere", []), (ALL, []))
    assert await run(pipeline, (ALL, [])) == []
    assert await run(pipeline, insert((1, "a", None)), ("SELECT count(*) FROM t", []), (ALL, [])) == [("1", "a", None)]


async def test_much_in_both_directions(connection: CommitConnection) -> None:
    wide = "x" * 10_000
    many = [insert(*((n, wide, None) for n in range(part * 100, part * 100 + 100))) for part in range(20)]
    back: list[tuple[str, Parameters]] = [("SELECT s FROM t", [])] * 5
    assert len(await run(connection.commits, *many, *back)) == 2_000


async def test_a_session_that_the_server_ends_says_nothing_of_its_transaction(connection: CommitConnection) -> None:
    pid = connection.info.backend_pid
    with pytest.raises(psycopg.OperationalError) as ended:
        await run(
            connection.commits, insert((1, "a", None)), ("SELECT pg_terminate_backend($1::int4)", [parameter(pid)]), (ALL, [])
        )
    assert ended.value.sqlstate is None
