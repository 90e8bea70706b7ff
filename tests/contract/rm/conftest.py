"""PostgreSQL before and from 18, which capture changes in different ways, and MariaDB."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.schema import CreateTable
from txcoord_rm.undo.schema import undo_log

from tests.contract.rm.maria import Maria
from tests.servers.fixtures import FreshUrl

Connection = psycopg.Connection[tuple[object, ...]]
UNDO_LOG = str(CreateTable(undo_log).compile(dialect=create_engine("postgresql+psycopg://").dialect))


@pytest.fixture(params=["postgres", "postgres18"])
def keywords(request: pytest.FixtureRequest) -> str:
    """What libpq needs to connect to a new database."""
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
    url = make_url(fresh("psycopg"))
    password = f" password={url.password}" if url.password else ""
    return f"host={url.host} port={url.port} user={url.username} dbname={url.database}{password}"


@pytest.fixture
def connection(keywords: str) -> Iterator[Connection]:
    """In a transaction of its own."""
    with psycopg.connect(keywords) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def acct(connection: Connection) -> None:
    """An undo log, and a table of accounts, not yet committed."""
    connection.execute(UNDO_LOG)
    connection.execute("CREATE TABLE acct (id int PRIMARY KEY, bal numeric NOT NULL, email text UNIQUE, note text)")
    connection.execute("INSERT INTO acct VALUES (1, 100, 'a@x', 'one'), (2, 200, 'b@x', NULL), (3, 300, NULL, 'three')")


@pytest.fixture
def maria(request: pytest.FixtureRequest, fresh_mariadb_url: FreshUrl) -> Maria:
    """MariaDB through PyMySQL, or through the driver that `EACH_DRIVER` names."""
    return Maria(fresh_mariadb_url(getattr(request, "param", "pymysql")) + "?charset=utf8mb4")
