"""Orders: pending until the global transaction is decided."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Integer, MetaData, String, Table

from examples.shop.database import Money

metadata = MetaData()

orders = Table(
    "orders",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("customer", String(32), nullable=False),
    Column("sku", String(32), nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("gift", String(32), comment="a piece of this goes with it, for nothing"),
    Column("amount", Money, nullable=False),
    Column("status", String(16), nullable=False),
    CheckConstraint("status IN ('PENDING', 'PLACED', 'REJECTED')", name="ck_orders_status"),
)
