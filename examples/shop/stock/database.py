"""Goods: each piece is free, reserved by an order that is not decided, or sold."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Integer, MetaData, String, Table

from examples.shop.database import Money

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
