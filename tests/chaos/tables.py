"""Tables of the bank and of the offices: apart from these, which register their actions wherever they are imported."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, String, Table, insert

TABLES = (
    "CREATE TABLE account (balance BIGINT NOT NULL, pending BIGINT NOT NULL)",
    "CREATE TABLE entry (xid VARCHAR(64), branch_id BIGINT, action VARCHAR(16), step VARCHAR(16), amount BIGINT)",
    "INSERT INTO account VALUES (1000000, 0)",
)

ACCOUNTS = 12
"""Of an office."""
BALANCE = 1_000
"""Of each account at first."""
VAULT = 100_000
"""What is in an office's vault at first."""

offices = MetaData()
account = Table(
    "account",
    offices,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("owner", String(20), nullable=False, index=True),
    Column("balance", BigInteger, nullable=False),
)
ledger = Table(
    "ledger",
    offices,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("xid", String(64), nullable=False),
    Column("account", Integer, nullable=False),
    Column("amount", BigInteger, nullable=False),
)
vault = Table(
    "vault",
    offices,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("balance", BigInteger, nullable=False),
    Column("pending", BigInteger, nullable=False),
)


def create_office(connection: Connection) -> None:
    """An office's tables with its first money."""
    offices.create_all(connection)
    rows = [{"id": id, "owner": f"owner{id}", "balance": BALANCE} for id in range(1, ACCOUNTS + 1)]
    connection.execute(insert(account), rows)
    connection.execute(insert(vault), {"id": 1, "balance": VAULT, "pending": 0})
