"""PostgreSQL before and from 18, which capture changes in different ways, and MariaDB."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import make_url

from tests.contract.rm.maria import Maria
from tests.servers.fixtures import FreshUrl

Connection = psycopg.Connection[tuple[object, ...]]


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
def maria(request: pytest.FixtureRequest, fresh_mariadb_url: FreshUrl) -> Maria:
    """MariaDB through PyMySQL, or through the driver that `EACH_DRIVER` names."""
    return Maria(fresh_mariadb_url(getattr(request, "param", "pymysql")) + "?charset=utf8mb4")
