"""Goods: each piece is free, reserved by an order that is not decided, or sold."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Integer, MetaData, String, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from examples.shop.database import Money

LARGEST_ORDER = 100

metadata = MetaData()

stock = Table(
    "stock",
    metadata,
    Column("sku", String(32), primary_key=True),
    Column("price", Money, nullable=False),
    Column("free", Integer, nullable=False),
    Column("reserved", Integer, nullable=False, server_default="0"),
    Column("sold", Integer, nullable=False, server_default="0"),
    CheckConstraint("free >= 0 AND reserved >= 0 AND sold >= 0", name="ck_stock_not_negative"),
)


class Base(DeclarativeBase):
    """The service's mapped classes."""

    metadata = metadata


class Demand(Base):
    """What was asked for and there, whether or not it was sold in the end: statistics, not goods."""

    __tablename__ = "demand"
    __table_args__ = (CheckConstraint(f"quantity <= {LARGEST_ORDER}", name="ck_demand_not_too_much"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str] = mapped_column(String(32))
    quantity: Mapped[int]
