"""A local transaction's part in a global one: the global locks of the rows it touches, and the report of its end.

One local transaction is one branch. It is registered before the first statement whose rows are known from its text, together
with their locks, or else when the first rows have been touched. Locks that are needed later are registrations of their own, with
nothing to undo.

The order of locks is what keeps two transactions from standing in each other's way for ever: nobody waits at the coordinator
while he holds a row lock whose global lock is not his. So rows known beforehand are locked globally first; what a statement
touched besides is asked for without waiting. If that is refused, the statement is rolled back, which gives its row locks back;
then its rows are waited for, and it runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection
from txcoord_proto.errors import LockConflictError, TxcoordError
from txcoord_proto.status import BranchType, PhaseOne
from txcoord_sdk.local_transaction import limits_lost, start_limit
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.transaction.effects import Steps
from txcoord_sdk.transaction.transaction import GlobalTransaction

from txcoord_rm.at.participant import ONLY_LOCKS
from txcoord_rm.at.resource import LOCK_KEYS, Resource
from txcoord_rm.capture.port import Entry, Result
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.statement import Statement, Verb

_LONGEST_KEY = 400
_SAVEPOINT = "txcoord_statement"

Run = Callable[[Entry], Result]


def _short(key: str) -> str:
    """The key as it goes over the wire: a long one ends in a hash."""
    if len(key) <= _LONGEST_KEY:
        return key
    return f"{key[: _LONGEST_KEY - 40]}…{blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


class LocalBranch:
    """Enlisted with a connection's local transaction, or with the savepoint in which it first wrote.

    Args:
        resource: The engine.
        transaction: The global transaction.
        connection: With the local one.
        fresh: Whether nothing has run in the local transaction yet.
    """

    def __init__(self, resource: Resource, transaction: GlobalTransaction, connection: Connection, fresh: bool) -> None:
        self.resource = resource
        self.transaction = transaction
        self.connection = connection
        self._fresh = fresh
        self._id = 0
        self._registered = False
        self._begun = False
        """Whether the database has been told the limits, and the session has been looked at."""
        self._held: set[str] = set()
        self._owed: set[str] = set()
        """Keys of rows that were inserted; they are asked for with the next registration, at the latest at the commit."""
        self._exact = True
        """Whether the database has locked nothing for it but the rows whose global locks it holds."""
        self._lost: BaseException | None = None
        """Why the local transaction must not be committed."""

    # ------------------------------------------------------------ statements

    def read(self) -> None:
        """A statement that needs no capture is about to run."""
        self._fresh = False

    def execute(self, cursor: Any, statement: Statement, parameters: Any) -> Result:
        """Run a statement that changes or locks rows.

        Raises:
            UnsupportedSqlError: It cannot be undone for certain, and has not run.
            LockConflictError: Another global transaction holds a row; roll the local transaction back.
        """
        capture = self.resource.ready().capture
        table = capture.table(cursor, statement)
        return self._run(
            cursor,
            statement,
            capture.foreseen(cursor, statement, table, parameters),
            lambda entry: capture.run(cursor, statement, table, parameters, entry),
        )

    def execute_many(self, cursor: Any, statement: Statement, rows: list[Any]) -> Result:
        """Run a statement for each row of parameters. Raises like `execute`."""
        capture = self.resource.ready().capture
        table = capture.table(cursor, statement)
        return self._run(
            cursor,
            statement,
            self._foreseen_of_all(cursor, statement, table, rows),
            lambda entry: capture.run_many(cursor, statement, table, rows, entry),
        )

    def _foreseen_of_all(self, cursor: Any, statement: Statement, table: Table, rows: list[Any]) -> frozenset[str] | None:
        every: set[str] = set()
        for parameters in rows:
            keys = self.resource.capture.foreseen(cursor, statement, table, parameters)
            if keys is None:
                return None
            every |= keys
        return frozenset(every)

    def _run(self, cursor: Any, statement: Statement, foreseen: frozenset[str] | None, run: Run) -> Result:
        self._check()
        fresh, self._fresh = self._fresh, False
        undoes = statement.verb is not Verb.LOCKING_READ
        if foreseen is not None:
            may_wait = fresh or (self.resource.capture.waits and self._exact)
            self._lock(foreseen, undoes, self.resource.lock_wait if may_wait else 0.0)
            result = run(self._entry(cursor, undoes))
            self._lock_rest(result.keys, undoes)
        elif statement.verb is Verb.INSERT and not statement.assigned:
            result = run(self._entry(cursor, undoes))
            self._owed |= {_short(key) for key in result.keys} - self._held
        elif fresh:
            result = self._run_again(cursor, run, undoes, lambda: None, lambda: self._roll_back(cursor))
        elif self.resource.capture.redoes:
            result = self._run_again(
                cursor,
                run,
                undoes,
                lambda: cursor.execute(f"SAVEPOINT {_SAVEPOINT}"),
                lambda: cursor.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}"),
            )
            cursor.execute(f"RELEASE SAVEPOINT {_SAVEPOINT}")
        else:
            result = run(self._entry(cursor, undoes))
            self._lock_rest(result.keys, undoes)
        self._exact &= result.exact
        return result

    def _run_again(self, cursor: Any, run: Run, undoes: bool, mark: Callable[[], object], back: Callable[[], object]) -> Result:
        """Run a statement whose rows are not known before; where somebody holds one, give them back, wait, and run it again."""
        mark()
        while True:
            result = run(self._entry(cursor, undoes))
            try:
                self._lock_rest(result.keys, undoes)
            except LockConflictError:
                self._lost = None
                back()
                self._forget_limits()
                self._lock(result.keys, undoes, self.resource.lock_wait)
            else:
                return result

    def _roll_back(self, cursor: Any) -> None:
        """Roll the local transaction back, in which nothing but this statement has run, without anybody's noticing."""
        self.connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr]

    def _forget_limits(self) -> None:
        limits_lost(self.connection)

    def _limit(self) -> int:
        """Milliseconds that the database is to be told, 0: it has been told."""
        return start_limit(self.connection, self.transaction.deadline)

    def _entry(self, cursor: Any, undoes: bool) -> Entry:
        if undoes:
            if not self._id:
                self._id = self.resource.wait(self.transaction.branch_id_steps())
            self.transaction.local_opened(self, f"on {self.connection.engine.url!r}")
        limit = self._limit()
        first = limit > 0 or not self._begun
        self._begun = True
        return Entry(self.transaction.known_xid, self._id, first, limit)

    def _check(self) -> None:
        if self._lost is not None:
            raise self._lost
        self.transaction.check_open()

    # ------------------------------------------------------------ locks

    def _lock(self, keys: Iterable[str], undoes: bool, wait: float) -> None:
        """Hold the global locks of `keys`; with the first ones the branch is registered."""
        if wait and self._owed:
            self._lock_rest(frozenset(), undoes)  # nobody waits while rows are locked here only
        missing = sorted({_short(key) for key in keys} - self._held)
        if missing or (undoes and not self._registered):
            self.resource.wait(self._lock_steps(missing, undoes, wait))

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
                self._lost = error
                raise

    def _lock_steps(self, keys: list[str], undoes: bool, wait: float) -> Steps[None]:
        resource, transaction = self.resource, self.transaction
        parts = [tuple(keys[n : n + LOCK_KEYS]) for n in range(0, len(keys), LOCK_KEYS)] or [()]
        for part in parts:
            if undoes and not self._registered:
                self._id = yield from transaction.register_steps(self._registration(part, wait))
                self._registered = True
            else:
                yield from transaction.register_steps(
                    Registration(BranchType.AT, resource.name, part, ONLY_LOCKS, lock_wait=wait, done=True)
                )
            self._held.update(part)

    def _registration(self, keys: tuple[str, ...], wait: float) -> Registration:
        return Registration(BranchType.AT, self.resource.name, keys, lock_wait=wait, branch_id=self._id)

    # ------------------------------------------------------------ its end

    def before_commit(self, in_doubt: bool) -> None:
        """See `Enlistment.before_commit`."""
        self._check()
        self.transaction.check_deadline()
        self._lock_rest(frozenset(), True)

    def committed(self) -> None:
        """See `Enlistment.committed`."""
        self._end(PhaseOne.DONE)

    def rolled_back(self) -> None:
        """See `Enlistment.rolled_back`."""
        self._end(PhaseOne.FAILED, "its local transaction was rolled back")

    def unknown(self, error: BaseException) -> None:
        """See `Enlistment.unknown`."""
        self._end(PhaseOne.UNKNOWN, repr(error))

    def _end(self, result: PhaseOne, error: str = "") -> None:
        if self._registered:
            self.transaction.report(self._id, result, error)
        self.transaction.local_ended(self)
