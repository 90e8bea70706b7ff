"""The bank's tables: apart from the bank, which registers its actions wherever it is imported."""

from __future__ import annotations

TABLES = (
    "CREATE TABLE account (balance BIGINT NOT NULL, pending BIGINT NOT NULL)",
    "CREATE TABLE entry (xid VARCHAR(64), branch_id BIGINT, action VARCHAR(16), step VARCHAR(16), amount BIGINT)",
    "INSERT INTO account VALUES (1000000, 0)",
)
