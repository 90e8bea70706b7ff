"""A service's database of each kind, with our tables and a table of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from txcoord_sdk.database import Database

from tests.servers.fixtures import FreshUrl


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a new empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/service.db"
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
    return fresh("psycopg" if request.param == "postgres" else "pymysql")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """The application's; a counter stands at 0."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE counter (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)"))
        connection.execute(text("INSERT INTO counter VALUES (1, 0)"))
    yield engine
    engine.dispose()


@pytest.fixture
def database(engine: Engine) -> Iterator[Database]:
    """It, as the SDK knows it."""
    database = Database(engine, "")
    database.prepare()
    yield database
    database.close()
