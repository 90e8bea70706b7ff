"""A savepoint before a statement whose rows are not known yet.

It is released with the next one, in the same round trip, or ends with the local transaction.
"""

from __future__ import annotations

from typing import Any

from txcoord_rm.capture.postgresql.cursors import execute_both

_MARK = "SAVEPOINT txcoord_statement"


class PostgresqlSavepoints:
    """See `capture.port.Savepoints`."""

    def mark(self, cursor: Any, again: bool) -> None:
        """See `Savepoints.mark`."""
        if again:
            execute_both(cursor, f"RELEASE {_MARK}", _MARK)
        else:
            cursor.execute(_MARK)

    def back(self, cursor: Any) -> None:
        """See `Savepoints.back`."""
        cursor.execute(f"ROLLBACK TO {_MARK}")
