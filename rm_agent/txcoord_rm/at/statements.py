"""Running captured statements in a local transaction in the right order with their global locks.

The order of locks is what keeps two transactions from standing in each other's way for ever: nobody waits at the coordinator
while he holds a row lock whose global lock is not his. So rows known beforehand are locked globally first; what a statement
touched besides is asked for without waiting. If that is refused, the statement is rolled back, which gives its row locks back;
then its rows are waited for, and it runs again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection
from txcoord_proto.errors import LockConflictError, TxcoordError
from txcoord_sdk.dialects import dialect_of
from txcoord_sdk.local_transaction import limits_lost

from txcoord_rm.at.isolation import level_of
from txcoord_rm.at.resource import Resource
from txcoord_rm.at.whole import check_reads, named_rows, refused_elsewhere, whole
from txcoord_rm.capture.port import Entry, Result, UnrecordedError
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.patience import patience
from txcoord_rm.sql.statement import Statement, Verb

_LONGEST_KEY = 400

Run = Callable[[Entry], Result]


def short(key: str) -> str:
    """The key as it goes over the wire: a long one ends in a hash."""
    if len(key) <= _LONGEST_KEY:
        return key
    return f"{key[: _LONGEST_KEY - 40]}…{blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


def shortened(keys: Iterable[str]) -> set[str]:
    """Keys as they go over the wire."""
    found = set(keys)
    return {short(key) for key in found} if max(map(len, found), default=0) > _LONGEST_KEY else found


class Statements(ABC):
    """Captured statements of one local transaction.

    Args:
        resource: The engine.
        connection: With the local transaction.
        fresh: Whether nothing has run in it yet.
    """

    def __init__(self, resource: Resource, connection: Connection, fresh: bool) -> None:
        self.resource = resource
        self.connection = connection
        self._fresh = fresh
        self._held: set[str] = set()
        self._owed: set[str] = set()
        """Keys of rows that were inserted; they are asked for with the next ones, at the latest at the commit."""
        self._reads_lock = (
            resource.capture.savepoints is None and resource.capture.waits and level_of(connection) == "SERIALIZABLE"
        )
        """Whether the database locks rows that are only read."""
        self._exact = fresh or not self._reads_lock
        """Whether the database has locked nothing but the rows whose global locks are held."""
        self._marked = False
        """Whether the last savepoint of the local transaction is ours."""
        self.begun = False
        """Whether a captured statement has run in the local transaction, and has not failed."""
        self._again = False
        """Whether it has been rolled back to a savepoint since the last statement."""
        self._lost: BaseException | None = None
        """Why the local transaction must not be committed."""

    # ------------------------------------------------------------ statements

    def pass_by(self, verb: Verb) -> None:
        """A statement that needs no capture is about to run."""
        self._fresh = False
        if verb in (Verb.SAVEPOINT, Verb.RELEASE, Verb.ROLLBACK_TO):
            self._marked = False
        self._exact &= not self._reads_lock
        if verb is Verb.ROLLBACK_TO:
            self._again = True
            self._forget_limits()

    def failed(self, error: BaseException) -> None:
        """A statement has failed, after which some databases begin anew without what ran before."""
        if self.resource.capture.savepoints is None:
            self._exact = False
            dialect = dialect_of(self.connection.dialect.name)
            if dialect.transient(error) or (self.begun and dialect.has_ended(self.connection.connection.dbapi_connection)):
                self._lost = error

    def execute(self, cursor: Any, statement: Statement, parameters: Any) -> Result:
        """Run a statement that changes or locks rows.

        Raises:
            UnsupportedSqlError: It cannot be undone for certain, and has not run.
            LockConflictError: Another global transaction holds a row; roll the local transaction back.
            NotActiveError: The global transaction was rolled back meanwhile; the statement has no effect.
            DeadlinePassedError: It has waited longer than the global transaction may last.
        """
        capture = self.resource.ready().capture
        table = capture.table(cursor, statement)
        return self._run(
            cursor,
            statement,
            self._foreseen_at_level(cursor, statement, table, [parameters]),
            lambda entry: capture.run(cursor, statement, table, parameters, entry),
        )

    def execute_many(self, cursor: Any, statement: Statement, rows: list[Any]) -> Result:
        """Run a statement for each row of parameters. Raises like `execute`."""
        capture = self.resource.ready().capture
        table = capture.table(cursor, statement)
        return self._run(
            cursor,
            statement,
            self._foreseen_at_level(cursor, statement, table, rows),
            lambda entry: capture.run_many(cursor, statement, table, rows, entry),
        )

    def _foreseen_at_level(self, cursor: Any, statement: Statement, table: Table, rows: list[Any]) -> frozenset[str] | None:
        """Keys that are known before it runs. If need be, its tables are locked as a whole before rows are looked at."""
        if not self._serializable():
            return self._foreseen(cursor, statement, table, rows)
        self._check()
        check_reads(statement)
        if len(rows) == 1 and (named := named_rows(statement, table.primary_key)):
            foreseen = self._foreseen(cursor, statement, table, rows)
            if foreseen is not None and len(foreseen) == named:
                return foreseen
        each = (replace(statement, target=target) for target in statement.locked or (statement.target,))
        keys = {whole(self.resource.capture.table(cursor, one)) for one in each}
        fresh = self._fresh or self.resource.capture.is_idle(cursor)
        self._lock(keys, statement.verb is not Verb.LOCKING_READ, self._patience(statement, fresh))
        return self._foreseen(cursor, statement, table, rows)

    def _patience(self, statement: Statement, fresh: bool) -> float:
        """Seconds that a statement may wait before it runs."""
        may_wait = fresh or (self.resource.capture.waits and self._exact)
        return min(patience(statement), self.resource.lock_wait) if may_wait else 0.0

    def _serializable(self) -> bool:
        """Whether nothing may come or go for what it reads."""
        return False

    def _foreseen(self, cursor: Any, statement: Statement, table: Table, rows: list[Any]) -> frozenset[str] | None:
        every: set[str] = set()
        if self._reads_lock:
            return None
        for parameters in rows:
            keys = self.resource.capture.foreseen(cursor, statement, table, parameters)
            if keys is None:
                return None
            every |= keys
        return frozenset(every)

    def _run(self, cursor: Any, statement: Statement, foreseen: frozenset[str] | None, run: Run) -> Result:
        self._check()
        try:
            return self._run_in_order(cursor, statement, foreseen, run)
        except UnrecordedError as error:
            cause = error.__cause__ or error
            self._lost = self._meant(cause, recording=True) or cause
            raise self._lost from cause
        except self.connection.dialect.loaded_dbapi.Error as error:
            if (meant := self._meant(error, recording=False)) is not None:
                self._lost = meant
                raise meant from error
            self.failed(error)
            raise

    def _run_in_order(self, cursor: Any, statement: Statement, foreseen: frozenset[str] | None, run: Run) -> Result:
        fresh, self._fresh = self._fresh or self.resource.capture.is_idle(cursor), False
        undoes = statement.verb is not Verb.LOCKING_READ
        if foreseen:
            self._lock(foreseen, undoes, self._patience(statement, fresh))
            result = run(self._entry(cursor, undoes))
            self._lock_rest(result.keys, undoes)
        elif statement.verb is Verb.INSERT and not statement.assigned:
            result = run(self._entry(cursor, undoes))
            self._owed |= shortened(result.keys)  # be they held: their branch may not be registered
        elif fresh:
            result = self._run_again(cursor, statement, run, self._roll_back)
        elif (savepoints := self.resource.capture.savepoints) is not None:
            savepoints.mark(cursor, self._marked)
            self._marked = True
            result = self._run_again(cursor, statement, run, savepoints.back)
        else:
            result = run(self._entry(cursor, undoes))
            self._lock_rest(result.keys, undoes)
        if result.elsewhere and self._serializable():
            raise UnrecordedError from refused_elsewhere(statement)
        self._exact &= result.exact
        self.begun = True
        return result

    def _run_again(self, cursor: Any, statement: Statement, run: Run, back: Callable[[Any], object]) -> Result:
        """Run a statement whose rows are not known before; where somebody holds one, give them back, wait, and run it again."""
        undoes, wait = statement.verb is not Verb.LOCKING_READ, min(patience(statement), self.resource.lock_wait)
        while True:
            result = run(self._entry(cursor, undoes))
            try:
                self._lock_rest(result.keys, undoes)
            except LockConflictError:
                self._lost = None
                back(cursor)
                self._forget_limits()
                self._lock(result.keys, undoes, wait)
            else:
                return result

    def _roll_back(self, cursor: Any) -> None:
        """Roll the local transaction back, in which nothing but this statement has run, without anybody's noticing."""
        self.connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr]

    def _forget_limits(self) -> None:
        limits_lost(self.connection)

    def _lock_rest(self, keys: frozenset[str], undoes: bool) -> None:
        """Ask for the locks of rows that have been touched, without waiting.

        Raises:
            LockConflictError: Another global transaction holds a row; the local transaction cannot be committed.
        """
        owed, self._owed = self._owed, set()
        if keys or owed:
            try:
                self._lock(keys | owed, undoes or bool(owed), 0.0)
            except TxcoordError as error:
                self._owed |= owed
                self._lost = error
                raise

    def _meant(self, error: BaseException, recording: bool) -> TxcoordError | None:
        """What an error of the driver means for the global transaction, after which nothing of the local one may stay.

        Args:
            error: It.
            recording: Whether it is known to come from the undo record.
        """
        return None

    def _check_kept(self) -> None:
        if self._lost is not None:
            raise self._lost

    @abstractmethod
    def before_commit(self, in_doubt: bool) -> None:
        """See `Enlistment.before_commit`."""

    @abstractmethod
    def committed(self) -> None:
        """See `Enlistment.committed`."""

    @abstractmethod
    def rolled_back(self) -> None:
        """See `Enlistment.rolled_back`."""

    @abstractmethod
    def unknown(self, error: BaseException) -> None:
        """See `Enlistment.unknown`."""

    @abstractmethod
    def _check(self) -> None:
        """Refuse a statement."""

    @abstractmethod
    def _entry(self, cursor: Any, undoes: bool) -> Entry:
        """Where the statement's undo record belongs."""

    @abstractmethod
    def _lock(self, keys: Iterable[str], undoes: bool, wait: float) -> None:
        """See to the global locks of `keys`.

        Args:
            keys: Of rows.
            undoes: Whether the statement changes rows.
            wait: Seconds; 0: a lock that is not free is an error at once.

        Raises:
            LockConflictError: Another global transaction holds a row.
        """
