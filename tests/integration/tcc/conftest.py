"""Services of their own with a stock table on each database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from txcoord_sdk import Client

from tests.servers.fixtures import FreshUrl


@pytest.fixture
def client(connected: Callable[..., Client]) -> Client:
    return connected()


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a new empty database, for a synchronous driver."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/service.db"
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
    return fresh("psycopg" if request.param == "postgres" else "pymysql")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    create_stock(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/service.db")
    create_stock(engine)
    yield engine
    engine.dispose()


def create_stock(engine: Engine) -> None:
    with engine.begin() as connection:
        columns = "sku VARCHAR(20) PRIMARY KEY, free INTEGER, reserved INTEGER, sold INTEGER, CHECK (free >= 0)"
        connection.execute(text(f"CREATE TABLE stock ({columns})"))
        connection.execute(text("INSERT INTO stock VALUES ('a', 10, 0, 0)"))


def stock(engine: Engine) -> tuple[int, int, int]:
    """Free, reserved, sold."""
    with engine.connect() as connection:
        free, reserved, sold = connection.execute(text("SELECT free, reserved, sold FROM stock")).one()
        return free, reserved, sold


def fences(engine: Engine) -> list[str]:
    """States of all fence rows, sorted."""
    with engine.connect() as connection:
        return sorted(connection.scalars(text("SELECT state FROM txcoord_fence")))


def move(connection: Any, free: int, reserved: int, sold: int) -> Any:
    """Change the stock; what it returns may be awaitable."""
    statement = text("UPDATE stock SET free = free + :free, reserved = reserved + :reserved, sold = sold + :sold WHERE sku = 'a'")
    return connection.execute(statement, {"free": free, "reserved": reserved, "sold": sold})
