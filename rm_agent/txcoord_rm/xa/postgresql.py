"""PostgreSQL's prepared transactions: any session may end one, whatever became of the session that has prepared it.

https://www.postgresql.org/docs/current/sql-prepare-transaction.html
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from txcoord_proto.errors import ConfigurationError, TxcoordError, UnsupportedSqlError
from txcoord_sdk.local_transaction import OWN

from txcoord_rm.xa.identifier import Identifier, parse, pattern

_NOT_TO_BE_HAD = frozenset({"42704", "55000"})
"""There is none; another session is ending it right now."""
_LISTED = text("SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = current_database() AND gid LIKE :pattern")
_DISABLED = ConfigurationError(
    "this PostgreSQL prepares no transactions (max_prepared_transactions = 0): set max_prepared_transactions to at least "
    "max_connections in postgresql.conf and restart it, or use mode='at'"
)


def _sqlstate(error: BaseException | None) -> str:
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def _refusal(error: Exception) -> TxcoordError | None:
    """What it means that PREPARE failed; None: the driver's words will do."""
    match _sqlstate(error):
        case "0A000":
            return UnsupportedSqlError(
                f"PostgreSQL cannot prepare this local transaction, which is rolled back: {error}. Keep temporary tables, LISTEN "
                "and NOTIFY, cursors WITH HOLD and exported snapshots out of local transactions in XA mode, or use mode='at'"
            )
        case "55000":
            return ConfigurationError(*_DISABLED.args)
        case "53200":
            return ConfigurationError(
                f"PostgreSQL has no room for another prepared transaction, and this one is rolled back: {error}. Raise "
                "max_prepared_transactions; `SELECT * FROM pg_prepared_xacts` shows who holds them"
            )
    return None


class PostgresqlPreparing:
    """See `Preparing`."""

    begins = False
    keeps = False

    def check(self, cursor: Any) -> None:
        """See `Preparing.check`."""
        cursor.execute("SELECT current_setting('max_prepared_transactions')")
        if cursor.fetchone()[0] == "0":
            raise ConfigurationError(*_DISABLED.args)

    def start(self, cursor: Any, identifier: Identifier) -> None:
        """See `Preparing.start`."""

    def prepare(self, cursor: Any, identifier: Identifier) -> None:
        """See `Preparing.prepare`."""
        try:
            cursor.execute(f"PREPARE TRANSACTION '{identifier}'")
        except Exception as error:
            if (refusal := _refusal(error)) is not None:
                raise refusal from error
            raise

    def leave(self, cursor: Any, identifier: Identifier) -> None:
        """See `Preparing.leave`."""

    def abandon(self, cursor: Any, identifier: Identifier) -> None:
        """See `Preparing.abandon`."""

    def end_kept(self, cursor: Any, identifier: Identifier, commit: bool) -> None:
        """See `Preparing.end_kept`."""

    def end(self, connection: Connection, identifier: Identifier, commit: bool) -> bool:
        """See `Preparing.end`."""
        try:
            connection.exec_driver_sql(f"{'COMMIT' if commit else 'ROLLBACK'} PREPARED '{identifier}'", execution_options=OWN)
        except DBAPIError as error:
            if _sqlstate(error.orig) in _NOT_TO_BE_HAD:
                return False
            raise
        return True

    def listed(self, connection: Connection, database_id: str) -> set[Identifier]:
        """See `Preparing.listed`."""
        rows = connection.execute(_LISTED, {"pattern": pattern(database_id)}, execution_options=OWN)
        return {found for (gid,) in rows if (found := parse(gid, database_id)) is not None}
