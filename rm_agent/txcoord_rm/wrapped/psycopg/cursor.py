"""What cursors of psycopg, synchronous or not, have in common when they are wrapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from txcoord_rm.at.cursor import Cursor
from txcoord_rm.sql.unsupported import refuse
from txcoord_rm.wrapped.psycopg.attached import AttachedPsycopg
from txcoord_rm.wrapped.psycopg.rows import maker, tuples

_NOT_CAPTURED = frozenset({"pgresult", "statusmessage", "results", "set_result", "scroll", "nextset", "_query"})


class Wrapped:
    """A cursor; `wait` gets what the driver's methods return: the result itself, or something to await.

    Args:
        attached: The connection.
        raw: The driver's cursor.
        wait: See above.
    """

    def __init__(self, attached: AttachedPsycopg, raw: Any, wait: Callable[[Any], Any]) -> None:
        self._attached = attached
        self._raw = raw
        self._wait = wait
        self._captured: Cursor | None = None
        self._make: Callable[[Any], Any] = tuple

    def __getattr__(self, name: str) -> Any:
        if self._captured is not None and name in _NOT_CAPTURED:
            raise refuse(name, "the statement ran in another form", "use its rows, rowcount and description")
        return getattr(self._raw, name)

    @property
    def row_factory(self) -> Any:
        """See psycopg."""
        return self._raw.row_factory

    @row_factory.setter
    def row_factory(self, value: Any) -> None:
        self._raw.row_factory = value

    @property
    def arraysize(self) -> int:
        """See DB-API."""
        return self._raw.arraysize  # type: ignore[no-any-return]

    @arraysize.setter
    def arraysize(self, size: int) -> None:
        self._raw.arraysize = size

    @property
    def description(self) -> Any:
        """See DB-API."""
        return self._raw.description if self._captured is None else self._captured.description

    @property
    def rowcount(self) -> int:
        """See DB-API."""
        return self._raw.rowcount if self._captured is None else self._captured.rowcount

    def _run(self, method: str, query: Any, parameters: Any, options: dict[str, Any]) -> None:
        if any("Raw" in kind.__name__ for kind in type(self._raw).__mro__):
            self._attached.refuse_inside(str(query), "a raw cursor marks parameters in another way", "use a plain cursor")
        if options.get("returning"):
            self._attached.refuse_inside(str(query), "executemany(returning=True) has a result for each row", "execute each row")
        if method == "executemany" and self._attached.takes_part():
            parameters = list(parameters)
        self._captured = None
        driver = _Driver(self._raw, self._wait, options)
        self._captured = found = self._attached.run(driver, self._plain, method, query, parameters)
        if found is not None and found.description is not None:
            self._make = maker(self._raw.row_factory, found.description)

    def _plain(self) -> Any:
        made = self._attached.raw.cursor()
        getattr(made, "_cursor", made).row_factory = tuples
        return made

    def copy(self, statement: Any, *args: Any, **options: Any) -> Any:
        """See psycopg.

        Raises:
            UnsupportedSqlError: Inside a global transaction.
        """
        self._attached.hand_over(statement, "COPY shows nobody its rows", "use executemany, or copy outside of it")
        return self._raw.copy(statement, *args, **options)

    def _row(self) -> Any:
        """The next of a captured statement; None: there is no more."""
        values = self._with_rows().fetchone()
        return None if values is None else self._make(values)

    def _rows(self, size: int | None) -> list[Any]:
        """The next `size` of a captured statement; None: all."""
        captured = self._with_rows()
        found = captured.fetchall() if size is None else captured.fetchmany(max(size, 1))
        return [self._make(values) for values in found]

    def _with_rows(self) -> Cursor:
        assert self._captured is not None
        if self._captured.description is None:
            raise self._attached.dialect.loaded_dbapi.ProgrammingError("the last operation didn't produce records")
        return self._captured


class _Driver:
    """The driver's cursor, which looks synchronous."""

    def __init__(self, raw: Any, wait: Callable[[Any], Any], options: dict[str, Any]) -> None:
        self._raw = raw
        self._wait = wait
        self._options = options

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def execute(self, query: Any, parameters: Any = None) -> None:
        """See DB-API."""
        self._wait(self._raw.execute(query, parameters, **self._options))

    def executemany(self, query: Any, rows: Any) -> None:
        """See DB-API."""
        self._wait(self._raw.executemany(query, rows, **self._options))
