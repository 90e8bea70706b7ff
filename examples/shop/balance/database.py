"""Accounts: money is at hand, held for an order that is not decided, or paid."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, MetaData, String, Table

from examples.shop.database import Money

metadata = MetaData()

account = Table(
    "account",
    metadata,
    Column("customer", String(32), primary_key=True),
    Column("balance", Money, nullable=False),
    Column("held", Money, nullable=False, server_default="0"),
    Column("paid", Money, nullable=False, server_default="0"),
    CheckConstraint("balance >= 0 AND held >= 0 AND paid >= 0", name="ck_account_not_negative"),
)
