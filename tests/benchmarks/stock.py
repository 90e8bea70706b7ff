"""The table of the AT benchmarks."""

from __future__ import annotations

from sqlalchemy import Column, Engine, Integer, MetaData, Table, bindparam, insert, update

ROWS = 20_000
stock = Table("stock", MetaData(), Column("id", Integer, primary_key=True), Column("free", Integer, nullable=False))
TAKE = update(stock).where(stock.c.id == bindparam("of")).values(free=stock.c.free - 1)


def fill(engine: Engine) -> None:
    """Make it, with ids from 0 on; the engine is disposed of."""
    with engine.begin() as connection:
        stock.metadata.create_all(connection)
        connection.execute(insert(stock), [{"id": n, "free": 1_000_000} for n in range(ROWS)])
    engine.dispose()
