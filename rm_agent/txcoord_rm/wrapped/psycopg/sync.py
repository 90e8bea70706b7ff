"""psycopg's Connection and Cursor, wrapped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Self

from txcoord_rm.wrapped.psycopg.connection import WrappedBase
from txcoord_rm.wrapped.psycopg.cursor import Wrapped


def _as_it_is(value: Any) -> Any:
    return value


class WrappedCursor(Wrapped):
    """See psycopg's Cursor."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchone, None)

    def close(self) -> None:
        """See DB-API."""
        self._raw.close()

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """See psycopg.

        Raises:
            UnsupportedSqlError: It could not be undone for certain, and has not run.
            LockConflictError: Another global transaction holds a row.
        """
        self._run("execute", query, params, options)
        return self

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        """See psycopg. Raises like `execute`."""
        self._run("executemany", query, params_seq, options)

    def stream(self, query: Any, params: Any = None, **options: Any) -> Iterator[Any]:
        """See psycopg; inside a global transaction the rows are read at once."""
        if self._attached.passes(query):
            yield from self._raw.stream(query, params, **options)
        else:
            yield from self.execute(query, params)

    def fetchone(self) -> Any:
        """See DB-API."""
        return self._raw.fetchone() if self._captured is None else self._row()

    def fetchmany(self, size: int = 0) -> list[Any]:
        """See DB-API."""
        return self._raw.fetchmany(size) if self._captured is None else self._rows(size or self.arraysize)

    def fetchall(self) -> list[Any]:
        """See DB-API."""
        return self._raw.fetchall() if self._captured is None else self._rows(None)


class WrappedConnection(WrappedBase):
    """See psycopg's Connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            if kind is None:
                self.commit()
            else:
                self.rollback()
        finally:
            self.close()

    @property
    def autocommit(self) -> bool:
        """See psycopg."""
        return self._attached.driver.autocommit  # type: ignore[no-any-return]

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        self._attached.set_autocommit(value)

    def set_autocommit(self, value: bool) -> None:
        """See psycopg."""
        self._attached.set_autocommit(value)

    def cursor(self, *args: Any, **options: Any) -> WrappedCursor:
        """See psycopg."""
        return WrappedCursor(self._attached, self._attached.driver.cursor(*args, **options), _as_it_is)

    def execute(self, query: Any, params: Any = None, **options: Any) -> WrappedCursor:
        """See psycopg. Raises like `WrappedCursor.execute`."""
        return self.cursor().execute(query, params, **options)

    def commit(self) -> None:
        """See DB-API."""
        self._attached.commit()

    def rollback(self) -> None:
        """See DB-API."""
        self._attached.rollback()

    def close(self) -> None:
        """See DB-API."""
        self._attached.close()

    @contextlib.contextmanager
    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Iterator[Self]:
        """See psycopg: a local transaction, or a savepoint in the one that is open."""
        self._attached.enter(savepoint_name)
        try:
            yield self
        except BaseException as error:
            self._attached.leave(keeps=False)
            if self._attached.asks_for_rollback(error):
                return
            raise
        self._attached.leave(keeps=not force_rollback)
