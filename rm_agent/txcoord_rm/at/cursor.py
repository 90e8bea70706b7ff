"""The cursor that SQLAlchemy gets inside a global transaction: what changes rows is run in another form, and looks as before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from txcoord_proto.errors import TxcoordError, UnsupportedSqlError

from txcoord_rm.capture.port import Result
from txcoord_rm.sql.statement import Statement, Verb
from txcoord_rm.sql.unsupported import refuse

if TYPE_CHECKING:
    from txcoord_rm.at.resource import Resource
    from txcoord_rm.at.statements import Statements

_CAPTURED = frozenset({Verb.INSERT, Verb.REPLACE, Verb.UPDATE, Verb.DELETE, Verb.MERGE, Verb.OTHER, Verb.LOCKING_READ})


class Local(Protocol):
    """The local transaction in which a statement runs."""

    def known(self) -> Statements | None:
        """The branch that it is part of already."""

    def reads_globally(self) -> bool:
        """Whether a plain read is run as a global read."""

    def refusal(self, error: UnsupportedSqlError) -> TxcoordError:
        """What is said where a statement is refused."""

    def pass_by(self, verb: Verb) -> None:
        """A statement is about to run that needs no capture."""

    def run(self, cursor: Any, work: Callable[[Statements], Result]) -> Result:
        """Give the branch that it is part of from now on to `work`.

        Raises:
            TransactionEndedError: It belongs to another global transaction, or to one that has ended.
            ConfigurationError: It has written before the global transaction began.
        """


class Cursor:
    """The driver's cursor, or the result of a captured statement in its place.

    Args:
        cursor: The driver's, as SQLAlchemy's dialect has it.
        resource: The engine.
        local: The connection's local transaction.
        plain: Makes another cursor of the driver, for what a cursor on the server's side cannot run; None: not needed.
    """

    def __init__(
        self,
        cursor: Any,
        resource: Resource,
        local: Local,
        plain: Callable[[], Any] | None = None,
    ) -> None:
        self._cursor = cursor
        self._resource = resource
        self._local = local
        self._plain = plain
        self._result: Result | None = None
        self._rows: deque[Any] = deque()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchone, None)

    def execute(self, sql: str, parameters: Any = None) -> Any:
        """See DB-API.

        Raises:
            UnsupportedSqlError: It could not be undone for certain, and has not run.
            LockConflictError: Another global transaction holds a row.
        """
        self._result = None
        with self._refusing():
            statement = self._recognised(sql, parameters)
            if self._is_captured(statement):
                cursor = self._capturing()
                return self._take(self._local.run(cursor, lambda branch: branch.execute(cursor, statement, parameters)))
            return self._pass_by(statement, self._cursor.execute, sql, *(() if parameters is None else (parameters,)))

    def executemany(self, sql: str, rows: Sequence[Any]) -> Any:
        """See DB-API. Raises like `execute`."""
        self._result = None
        with self._refusing():
            statement = self._recognised(sql, ())
            if not self._is_captured(statement):
                return self._pass_by(statement, self._cursor.executemany, sql, rows)
            cursor = self._capturing()
            return self._take(self._local.run(cursor, lambda branch: branch.execute_many(cursor, statement, list(rows))))

    def refuse_captured(self, sql: str, parameters: Any, reason: str, remedy: str) -> None:
        """Refuse a statement that would be captured.

        Raises:
            UnsupportedSqlError: It would be, or it could not be undone for certain.
        """
        with self._refusing():
            if self._is_captured(self._recognised(sql, parameters)):
                raise refuse(sql, reason, remedy)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except UnsupportedSqlError as error:
            raise self._local.refusal(error) from error.__cause__

    def _recognised(self, sql: str, parameters: Any) -> Statement:
        statement = self._resource.recognise(sql, parameters)
        if statement.verb is Verb.READ and self._local.reads_globally():
            return self._resource.global_read(statement, parameters)
        return statement

    def _is_captured(self, statement: Statement) -> bool:
        if statement.verb in _CAPTURED:
            return True
        looked_at = bool(statement.functions) or statement.verb is Verb.SAVEPOINT
        return looked_at and self._resource.capture.admit(self._capturing(), statement)

    def _pass_by(self, statement: Statement, run: Callable[..., Any], *given: Any) -> Any:
        self._local.pass_by(statement.verb)
        try:
            return run(*given)
        except Exception as error:
            if (known := self._local.known()) is not None:
                known.failed(error)
            raise

    def _capturing(self) -> Any:
        return self._cursor if self._plain is None else self._plain()

    def _take(self, result: Result) -> Cursor:
        self._result = result
        self._rows = deque(result.rows)
        return self

    # ------------------------------------------------------------ results

    @property
    def captured(self) -> bool:
        """Whether the last statement ran in another form, so that its results are here and not at the driver's cursor."""
        return self._result is not None

    @property
    def description(self) -> Any:
        """See DB-API."""
        return self._cursor.description if self._result is None else self._result.description

    @property
    def rowcount(self) -> int:
        """See DB-API."""
        return self._cursor.rowcount if self._result is None else self._result.rowcount

    @property
    def lastrowid(self) -> Any:
        """See DB-API."""
        return self._cursor.lastrowid if self._result is None else self._result.lastrowid

    @property
    def arraysize(self) -> int:
        """See DB-API."""
        return self._cursor.arraysize  # type: ignore[no-any-return]

    @arraysize.setter
    def arraysize(self, size: int) -> None:
        self._cursor.arraysize = size

    def fetchone(self) -> Any:
        """See DB-API."""
        if self._result is None:
            return self._cursor.fetchone()
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> Any:
        """See DB-API."""
        if self._result is None:
            return self._cursor.fetchmany() if size is None else self._cursor.fetchmany(size)
        count = min(len(self._rows), self.arraysize if size is None else size)
        return [self._rows.popleft() for _ in range(count)]

    def fetchall(self) -> Any:
        """See DB-API."""
        if self._result is None:
            return self._cursor.fetchall()
        rows = list(self._rows)
        self._rows.clear()
        return rows
