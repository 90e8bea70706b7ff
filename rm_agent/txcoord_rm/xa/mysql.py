"""XA transactions of MariaDB and MySQL: the session that has prepared one ends it, and others only when it is gone.

MariaDB answers "unknown XID" to every other session while the one that has prepared lives. And it loses a transaction that
another session ends in the moment in which that one goes: it says that it has committed it, no longer lists it, and holds its
rows until the server starts anew, prepared (seen on 10.11: about one in 600 where the session was closed after XA PREPARE and
another sent XA COMMIT at once). So a session that prepares takes a lock of the server by name first,
which ends with it. Another session does nothing as long as that lock is held, lets some time pass when it is not, and looks
afterwards what the fence row says.

https://mariadb.com/kb/en/xa-transactions/
"""

from __future__ import annotations

import asyncio
import time
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import await_only
from txcoord_proto.errors import ConfigurationError
from txcoord_sdk.local_transaction import OWN

from txcoord_rm.xa.fence import fence_state
from txcoord_rm.xa.identifier import Identifier, parse_parts
from txcoord_rm.xa.outcome import StillPreparedError

_UNKNOWN_XID = 1397
_GOING_SECONDS = 0.3
"""After the session's lock is gone; the rest of its end takes some hundred microseconds."""
_SURVIVES = (10, 5)
"""From this version of MariaDB on a prepared transaction outlives its session."""


class LostByServerError(StillPreparedError):
    """The server has said that the transaction is committed, and it is not."""

    code = "LOST_BY_SERVER"


def _lock(identifier: Identifier) -> str:
    """The name of the lock that its session holds; names of MySQL have at most 64 characters."""
    return "txcoord:" + blake2b(str(identifier).encode(), digest_size=16).hexdigest()


class MysqlPreparing:
    """See `Preparing`.

    Args:
        is_async: Whether the driver is.
    """

    begins = True
    keeps = True

    def __init__(self, is_async: bool) -> None:
        self._is_async = is_async

    def check(self, cursor: Any) -> None:
        """See `Preparing.check`."""
        cursor.execute("SELECT VERSION()")
        version = str(cursor.fetchone()[0])
        numbers = tuple(int(part) for part in version.partition("-")[0].split(".")[:2])
        if "mariadb" in version.lower() and numbers < _SURVIVES:
            raise ConfigurationError(
                f"MariaDB {version} rolls prepared transactions back when their session ends, so XA mode would lose them: use "
                "10.5 or later, or mode='at'"
            )
        cursor.execute("SHOW VARIABLES LIKE 'wsrep_on'")
        row = cursor.fetchone()
        if row is not None and str(row[1]).upper() == "ON":
            raise ConfigurationError("Galera does not replicate prepared transactions: use mode='at' on a cluster")

    def start(self, cursor: Any, identifier: Identifier) -> None:
        """See `Preparing.start`."""
        cursor.execute(f"XA START {identifier.in_parts}")

    def prepare(self, cursor: Any, identifier: Identifier) -> None:
        """See `Preparing.prepare`."""
        cursor.execute(f"DO GET_LOCK('{_lock(identifier)}', 0)")
        cursor.execute(f"XA END {identifier.in_parts}")
        cursor.execute(f"XA PREPARE {identifier.in_parts}")

    def leave(self, cursor: Any, identifier: Identifier) -> None:
        """See `Preparing.leave`."""
        cursor.execute(f"XA END {identifier.in_parts}")
        cursor.execute(f"XA COMMIT {identifier.in_parts} ONE PHASE")

    def abandon(self, cursor: Any, identifier: Identifier) -> None:
        """See `Preparing.abandon`: after a deadlock, and after XA END, it can be rolled back only."""
        try:
            cursor.execute(f"XA END {identifier.in_parts}")
        except Exception:
            cursor.execute(f"XA ROLLBACK {identifier.in_parts}")
        else:
            cursor.execute(f"XA ROLLBACK {identifier.in_parts}")

    def end_kept(self, cursor: Any, identifier: Identifier, commit: bool) -> None:
        """See `Preparing.end_kept`."""
        cursor.execute(f"XA {'COMMIT' if commit else 'ROLLBACK'} {identifier.in_parts}")

    def end(self, connection: Connection, identifier: Identifier, commit: bool) -> bool:
        """See `Preparing.end`."""
        if identifier not in self.listed(connection, identifier.database_id):
            return False
        if connection.exec_driver_sql(f"SELECT IS_USED_LOCK('{_lock(identifier)}')", execution_options=OWN).scalar() is not None:
            raise StillPreparedError(
                f"branch {identifier.branch_id} of {identifier.xid} is prepared, and its session lives: its own process ends it, "
                "or another one when that is gone",
                {"xid": identifier.xid},
            )
        self._pause(_GOING_SECONDS)
        try:
            connection.exec_driver_sql(f"XA {'COMMIT' if commit else 'ROLLBACK'} {identifier.in_parts}", execution_options=OWN)
        except DBAPIError as error:
            if error.orig is not None and error.orig.args and error.orig.args[0] == _UNKNOWN_XID:
                return False
            raise
        if commit and fence_state(connection, identifier) is None:
            raise LostByServerError(
                f"the server has said that branch {identifier.branch_id} of {identifier.xid} is committed, and its fence row is "
                "not there: restart the server, which then lists the branch as prepared again",
                {"xid": identifier.xid},
            )
        return commit  # of a rollback the guard tells: it can be inserted only when the row of the branch is gone

    def _pause(self, seconds: float) -> None:
        if self._is_async:
            await_only(asyncio.sleep(seconds))
        else:
            time.sleep(seconds)

    def listed(self, connection: Connection, database_id: str) -> set[Identifier]:
        """See `Preparing.listed`."""
        found = set()
        for format_id, length, _, data in connection.exec_driver_sql("XA RECOVER", execution_options=OWN):
            raw = data if isinstance(data, bytes) else str(data).encode("utf-8", "surrogateescape")
            parts = (raw[:length].decode("latin-1"), raw[length:].decode("latin-1"))
            if (identifier := parse_parts(int(format_id), *parts, database_id)) is not None:
                found.add(identifier)
        return found
