"""What the three services' databases have in common: how one is opened, and how money is kept."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, Dialect, Numeric, TypeDecorator, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


class Money(TypeDecorator[Decimal]):
    """An amount with two decimals: NUMERIC, and whole cents on SQLite, which would make a binary fraction of NUMERIC."""

    impl = Numeric(12, 2)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """The column's type."""
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else Numeric(12, 2))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """To the database."""
        return int(value * 100) if dialect.name == "sqlite" and value is not None else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """From the database."""
        return Decimal(value).scaleb(-2) if dialect.name == "sqlite" and value is not None else value


def open_database(service: str) -> AsyncEngine:
    """The service's database: SHOP_DATABASE, an asynchronous SQLAlchemy URL, or an SQLite file in this directory."""
    engine = create_async_engine(os.environ.get("SHOP_DATABASE", f"sqlite+aiosqlite:///{service}.db"))
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine.sync_engine, "connect")
        def set_up(connection: Any, record: object) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode = WAL")  # readers do not wait for the writer
            cursor.execute("PRAGMA busy_timeout = 20000")
            cursor.close()

    return engine
