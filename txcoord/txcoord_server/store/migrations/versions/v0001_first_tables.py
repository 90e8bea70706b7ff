"""The coordinator's first tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _string(length: int) -> Any:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


_INNODB: dict[str, Any] = {
    f"{kind}_{option}": value
    for kind in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}


def _table(name: str, *columns: Any, **options: Any) -> None:
    """Create a table, unless a migration that was cut off has: MariaDB and MySQL commit each one by itself."""
    if not sa.inspect(op.get_bind()).has_table(name):
        op.create_table(name, *columns, **options)


def _index(name: str, table: str, columns: list[str], **options: Any) -> None:
    if name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(name, table, columns, **options)


def upgrade() -> None:
    """Apply this migration."""
    _table(
        "txc_audit",
        sa.Column("xid", _string(64), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False, comment="of the transaction before the act"),
        sa.Column("act", _string(32), nullable=False),
        sa.Column("at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("actor", _string(128), nullable=False),
        sa.Column("reason", _string(500), nullable=False),
        sa.PrimaryKeyConstraint("xid", "version", "act"),
        **_INNODB,
    )
    _table(
        "txc_branch",
        sa.Column("xid", _string(64), nullable=False),
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("type", _string(16), nullable=False),
        sa.Column("resource", _string(200), nullable=False),
        sa.Column("status", _string(16), nullable=False),
        sa.Column(
            "lock_keys",
            sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb"),
            nullable=True,
            comment="JSON list",
        ),
        sa.Column("arguments", sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb"), nullable=False),
        sa.Column("registered_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reported_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("first_command_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("settled_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("next_try_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("executor", _string(128), server_default="", nullable=False),
        sa.Column("error_code", _string(64), server_default="", nullable=False),
        sa.Column("error", _string(500), server_default="", nullable=False),
        sa.CheckConstraint(
            "status IN ('REGISTERED', 'DONE', 'FAILED', 'UNKNOWN', 'SETTLED', 'PARKED', 'FORCED')",
            name="ck_branch_status",
        ),
        sa.CheckConstraint("status NOT IN ('SETTLED', 'FORCED') OR settled_at > 0", name="ck_branch_settled"),
        sa.PrimaryKeyConstraint("xid", "id"),
        **_INNODB,
    )
    _table(
        "txc_epoch",
        sa.Column("grp", _string(32), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("holder", _string(128), nullable=False),
        sa.Column("how", _string(16), nullable=False),
        sa.Column("started_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "purged_sequence",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="highest purged sequence: an unknown XID up to it is EXPIRED",
        ),
        sa.CheckConstraint("how IN ('TAKEN', 'SELF')", name="ck_epoch_how"),
        sa.PrimaryKeyConstraint("grp", "epoch"),
        **_INNODB,
    )
    _table(
        "txc_global",
        sa.Column("xid", _string(64), nullable=False),
        sa.Column("grp", _string(32), nullable=False),
        sa.Column("status", _string(16), nullable=False),
        sa.Column("decision", _string(16), nullable=True),
        sa.Column("reason", _string(32), nullable=True),
        sa.Column(
            "cause",
            _string(500),
            server_default="",
            nullable=False,
            comment="what lies behind the reason, in words",
        ),
        sa.Column("name", _string(128), nullable=False),
        sa.Column("service", _string(128), nullable=False),
        sa.Column("business_key", _string(128), nullable=True),
        sa.Column("traceparent", _string(64), server_default="", nullable=False),
        sa.Column("begin_key", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("begun_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("first_begun_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("deadline_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("decided_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("settled_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("once_parked", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("forced", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("purge_at", sa.BigInteger(), nullable=True, comment="when retention ends, where it is not the common rule"),
        sa.Column("commit_seq", sa.BigInteger(), nullable=False, comment="group commit of the last write"),
        sa.Column(
            "settled_branches",
            sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb"),
            nullable=True,
            comment="JSON list of [id, reported_at, first_command_at, settled_at, executor]: all of them settled at their first "
            "command, and their own rows were not written again",
        ),
        sa.CheckConstraint("(settled_at > 0) = (status IN ('COMMITTED', 'ROLLED_BACK'))", name="ck_global_settled"),
        sa.CheckConstraint("(status = 'ACTIVE') = (decision IS NULL)", name="ck_global_decided"),
        sa.CheckConstraint("decision IS NULL OR decision IN ('COMMIT', 'ROLLBACK')", name="ck_global_decision"),
        sa.CheckConstraint("status <> 'COMMITTED' OR decision = 'COMMIT'", name="ck_global_committed"),
        sa.CheckConstraint("status <> 'ROLLED_BACK' OR decision = 'ROLLBACK'", name="ck_global_rolled_back"),
        sa.CheckConstraint(
            "status IN ('ACTIVE', 'COMMITTING', 'COMMITTED', 'ROLLING_BACK', 'ROLLED_BACK', 'PARKED')",
            name="ck_global_status",
        ),
        sa.PrimaryKeyConstraint("xid"),
        **_INNODB,
    )
    _index(
        "txc_global_key",
        "txc_global",
        ["business_key"],
        unique=False,
        postgresql_where=sa.text("business_key IS NOT NULL"),
        sqlite_where=sa.text("business_key IS NOT NULL"),
    )
    _index(
        "txc_global_purge",
        "txc_global",
        ["purge_at"],
        unique=False,
        postgresql_where=sa.text("purge_at IS NOT NULL"),
        sqlite_where=sa.text("purge_at IS NOT NULL"),
    )
    _table(
        "txc_group",
        sa.Column("name", _string(32), nullable=False),
        sa.Column("holder", _string(128), nullable=False, comment="node that leads"),
        sa.Column("address", _string(255), nullable=False, comment="where clients reach it"),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("commit_seq", sa.BigInteger(), nullable=False, comment="number of the last group commit"),
        sa.Column("branch_ids", sa.BigInteger(), nullable=False, comment="branch ids below this one have been granted"),
        sa.Column(
            "locked", sa.SmallInteger(), server_default="0", nullable=False, comment="whether the leader holds the session lock"
        ),
        sa.Column("renewed_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("taken_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name"),
        **_INNODB,
    )
    _table(
        "txc_token",
        sa.Column("hash", _string(64), nullable=False, comment="SHA-256 of the token, hexadecimal"),
        sa.Column("name", _string(64), nullable=False, comment="what people call it; goes into the audit"),
        sa.Column("service", _string(128), nullable=False),
        sa.Column("resources", sa.Text(), nullable=False, comment="JSON list of shell patterns"),
        sa.Column("role", _string(16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("role IN ('service', 'operator')", name="ck_token_role"),
        sa.PrimaryKeyConstraint("hash"),
        **_INNODB,
    )
    if op.get_bind().dialect.name == "postgresql":
        # Room on the pages keeps updates HOT: every group commit updates the one row, and each transaction's row changes twice.
        op.execute("ALTER TABLE txc_group SET (fillfactor = 10)")
        op.execute("ALTER TABLE txc_global SET (fillfactor = 50)")
