"""The cursor with which captured statements run: through asyncpg's own cache of statements, and with asyncpg's own records."""

from __future__ import annotations

from collections import deque
from typing import Any

from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_cursor

from txcoord_rm.wrapped.asyncpg.records import whole

_WITH_ROWS = "SELECT", "WITH"


class CapturingCursor(AsyncAdapt_asyncpg_cursor):
    """See SQLAlchemy's cursor for asyncpg.

    Args:
        adapted: SQLAlchemy's connection.
        record_class: What rows are for the application; None: whatever.
    """

    description: Any = None  # SQLAlchemy has it as a property from 2.1 on

    def __init__(self, adapted: Any, record_class: type | None) -> None:
        super().__init__(adapted)
        self._record_class = None if record_class is None else whole(record_class)

    async def _prepare_and_execute(self, operation: str, parameters: Any) -> None:
        adapted: Any = self._adapt_connection
        driver: Any = self._connection
        records: list[Any] = []
        async with adapted._execute_mutex:
            try:
                if parameters or operation.lstrip().startswith(_WITH_ROWS):
                    records = await driver.fetch(operation, *(parameters or ()), record_class=self._record_class)
                else:
                    await driver.execute(operation)
            except Exception as error:
                adapted._handle_exception(error)
        self._rows = deque(records)
        names = records[0].keys() if records else ()
        self.description = [(name, *(None,) * 6) for name in names] or None
