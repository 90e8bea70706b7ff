"""The coordinator's tables.

Readable by a person in an incident: states are names, with CHECKs that forbid impossible rows. Times are milliseconds since 1970,
UTC, by the clock of the database; 0 means "not yet". Every index names the query that it serves.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT
from sqlalchemy.types import TypeEngine
from txcoord_proto.status import BranchStatus, Decision, GlobalStatus

from txcoord_server.domain.limits import (
    MAX_CODE,
    MAX_ERROR,
    MAX_KEY,
    MAX_NAME,
    MAX_REASON,
    MAX_RESOURCE,
    MAX_TOKEN_NAME,
    MAX_TRACEPARENT,
)

metadata = MetaData()


def _one_of(table: str, column: str, names: Iterable[StrEnum], nullable: bool = False) -> CheckConstraint:
    listed = ", ".join(f"'{name}'" for name in names)
    condition = f"{column} IN ({listed})"
    return CheckConstraint(f"{column} IS NULL OR {condition}" if nullable else condition, name=f"ck_{table}_{column}")


def _string(length: int) -> TypeEngine[str]:
    """Text that every database compares byte by byte: XIDs sort as they were minted, and groups differ by case."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def _time(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False, server_default="0")


_MYSQL: dict[str, Any] = {
    f"{kind}_{option}": value
    for kind in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}

group = Table(
    "txc_group",
    metadata,
    Column("name", _string(32), primary_key=True),
    Column("holder", _string(128), nullable=False, comment="node that leads"),
    Column("address", _string(255), nullable=False, comment="where clients reach it"),
    Column("epoch", BigInteger, nullable=False),
    Column("commit_seq", BigInteger, nullable=False, comment="number of the last group commit"),
    Column("branch_ids", BigInteger, nullable=False, comment="branch ids below this one have been granted"),
    Column("locked", SmallInteger, nullable=False, server_default="0", comment="whether the leader holds the session lock"),
    _time("renewed_at"),
    _time("taken_at"),
    **_MYSQL,
)

epoch = Table(
    "txc_epoch",
    metadata,
    Column("grp", _string(32), primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("holder", _string(128), nullable=False),
    Column("how", _string(16), nullable=False),
    _time("started_at"),
    Column(
        "purged_sequence",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="highest purged sequence: an unknown XID up to it is EXPIRED",
    ),
    CheckConstraint("how IN ('TAKEN', 'SELF')", name="ck_epoch_how"),
    **_MYSQL,
)

transaction = Table(
    "txc_global",
    metadata,
    Column("xid", _string(64), primary_key=True),
    Column("grp", _string(32), nullable=False),
    Column("status", _string(16), nullable=False),
    Column("decision", _string(16)),
    Column("reason", _string(32)),
    Column("cause", _string(MAX_ERROR), nullable=False, server_default="", comment="what lies behind the reason, in words"),
    Column("name", _string(MAX_NAME), nullable=False),
    Column("service", _string(MAX_NAME), nullable=False),
    Column("business_key", _string(MAX_KEY)),
    Column("traceparent", _string(MAX_TRACEPARENT), nullable=False, server_default=""),
    Column("begin_key", BigInteger, nullable=False, server_default="0"),
    _time("begun_at"),
    _time("first_begun_at"),
    _time("deadline_at"),
    _time("decided_at"),
    _time("settled_at"),
    Column("version", BigInteger, nullable=False),
    Column("once_parked", SmallInteger, nullable=False, server_default="0"),
    Column("forced", SmallInteger, nullable=False, server_default="0"),
    Column("purge_at", BigInteger, comment="when retention ends, where it is not the common rule"),
    Column("commit_seq", BigInteger, nullable=False, comment="group commit of the last write"),
    Column(
        "settled_branches",
        Text().with_variant(LONGTEXT(), "mysql", "mariadb"),
        comment="JSON list of [id, reported_at, first_command_at, settled_at, executor]: all of them settled at their first "
        "command, and their own rows were not written again",
    ),
    _one_of("global", "status", GlobalStatus),
    _one_of("global", "decision", Decision, nullable=True),
    CheckConstraint("(status = 'ACTIVE') = (decision IS NULL)", name="ck_global_decided"),
    CheckConstraint("status <> 'COMMITTED' OR decision = 'COMMIT'", name="ck_global_committed"),
    CheckConstraint("status <> 'ROLLED_BACK' OR decision = 'ROLLBACK'", name="ck_global_rolled_back"),
    CheckConstraint("(settled_at > 0) = (status IN ('COMMITTED', 'ROLLED_BACK'))", name="ck_global_settled"),
    **_MYSQL,
)

Index(
    "txc_global_key",  # status and list by business key
    transaction.c.business_key,
    postgresql_where=transaction.c.business_key.is_not(None),
    sqlite_where=transaction.c.business_key.is_not(None),
)
Index(
    "txc_global_purge",  # retention: rows whose time is over
    transaction.c.purge_at,
    postgresql_where=transaction.c.purge_at.is_not(None),
    sqlite_where=transaction.c.purge_at.is_not(None),
)

branch = Table(
    "txc_branch",
    metadata,
    Column("xid", _string(64), primary_key=True),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("type", _string(16), nullable=False),
    Column("resource", _string(MAX_RESOURCE), nullable=False),
    Column("status", _string(16), nullable=False),
    Column("lock_keys", Text().with_variant(LONGTEXT(), "mysql", "mariadb"), comment="JSON list"),
    Column("arguments", LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb"), nullable=False),
    _time("registered_at"),
    _time("reported_at"),
    _time("first_command_at"),
    _time("settled_at"),
    _time("next_try_at"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("executor", _string(128), nullable=False, server_default=""),
    Column("error_code", _string(MAX_CODE), nullable=False, server_default=""),
    Column("error", _string(MAX_ERROR), nullable=False, server_default=""),
    _one_of("branch", "status", BranchStatus),
    CheckConstraint("status NOT IN ('SETTLED', 'FORCED') OR settled_at > 0", name="ck_branch_settled"),
    **_MYSQL,
)

token = Table(
    "txc_token",
    metadata,
    Column("hash", _string(64), primary_key=True, comment="SHA-256 of the token, hexadecimal"),
    Column("name", _string(MAX_TOKEN_NAME), nullable=False, comment="what people call it; goes into the audit"),
    Column("service", _string(MAX_NAME), nullable=False),
    Column("resources", Text, nullable=False, comment="JSON list of shell patterns"),
    Column("role", _string(16), nullable=False),
    _time("created_at"),
    CheckConstraint("role IN ('service', 'operator')", name="ck_token_role"),
    **_MYSQL,
)

audit = Table(
    "txc_audit",
    metadata,
    Column("xid", _string(64), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False, comment="of the transaction before the act"),
    Column("act", _string(32), primary_key=True),
    _time("at"),
    Column("actor", _string(128), nullable=False),
    Column("reason", _string(MAX_REASON), nullable=False),
    **_MYSQL,
)
