"""PostgreSQL before and from 18, which capture changes in different ways."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.schema import CreateTable
from txcoord_rm.undo.schema import undo_log

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
