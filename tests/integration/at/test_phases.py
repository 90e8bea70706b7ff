"""What a service wrote with plain SQLAlchemy stays after a global commit, and is as it was after a rollback."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import ForeignKey, String, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from tests.integration.at.world import World


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(String(50))
    version: Mapped[int] = mapped_column()
    lines: Mapped[list[Line]] = relationship(cascade="all, delete-orphan")
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    sku: Mapped[str] = mapped_column(String(50))
    quantity: Mapped[int]


class Stock(Base):
    __tablename__ = "stock"
    sku: Mapped[str] = mapped_column(String(50), primary_key=True)
    free: Mapped[int]


@pytest.fixture
def shop(world: World) -> World:
    Base.metadata.create_all(world.outside)
    world.script(
        "INSERT INTO stock VALUES ('apple', 10), ('o''pear:y', 20), ('50% off', 30)",
        "INSERT INTO orders (customer, version) VALUES ('ann', 1)",
        "INSERT INTO lines (order_id, sku, quantity) VALUES (1, 'apple', 1), (1, 'plum', 2)",
    )
    return world


def everything(world: World) -> list[Any]:
    return [world.rows(f"SELECT * FROM {table} ORDER BY 1") for table in ("orders", "lines", "stock")]


def place(session: Session) -> int:
    """An order, as a service would write it."""
    order = Order(customer="bob", lines=[Line(sku=f"sku{n}", quantity=n) for n in range(5)])
    session.add(order)
    session.flush()
    taken: Any = session.execute(update(Stock).where(Stock.sku == "apple").values(free=Stock.free - 3))
    assert taken.rowcount == 1
    found: Any = session.execute(
        text("UPDATE stock SET free = free - 1 WHERE sku IN (:a, :b)"), {"a": "o'pear:y", "b": "50% off"}
    )
    assert found.rowcount == 2
    ann = session.scalars(select(Order).where(Order.customer == "ann")).one()
    ann.customer = "anna"
    ann.lines.pop()
    session.flush()
    with session.begin_nested():
        session.execute(insert(Stock), [{"sku": f"new{n}", "free": n} for n in range(3)])
    nested = session.begin_nested()
    session.execute(update(Stock).values(free=0))
    nested.rollback()
    back = session.execute(
        update(Stock).where(Stock.sku == "apple").values(free=Stock.free * 2).returning(Stock.sku, Stock.free)
    ).all()
    assert [tuple(row) for row in back] == [("apple", 14)]
    return order.id


def cancel(session: Session) -> None:
    """What another request might do with it."""
    for order in session.scalars(select(Order)):
        session.delete(order)
    session.execute(update(Stock).where(Stock.free < 20).values(free=Stock.free + 100))
    session.execute(text("DELETE FROM stock WHERE sku LIKE 'new%'"))


def test_a_commit_keeps_everything(shop: World) -> None:
    (order_id,) = shop.globally(place)
    assert shop.rows(f"SELECT customer, version FROM orders WHERE id = {order_id}") == [("bob", 1)]
    assert shop.rows("SELECT sku, free FROM stock ORDER BY sku") == [
        ("50% off", 29),
        ("apple", 14),
        ("new0", 0),
        ("new1", 1),
        ("new2", 2),
        ("o'pear:y", 19),
    ]
    assert shop.rows("SELECT count(*) FROM lines") == [(6,)]


def test_a_rollback_puts_everything_back(shop: World) -> None:
    before = everything(shop)
    shop.globally(place, cancel, undo=True)
    assert everything(shop) == before
    assert set(shop.statuses()) == {"SETTLED"}
