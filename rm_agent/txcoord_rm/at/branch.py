"""A local transaction's part in a global one: the global locks of the rows it touches, and the report of its end.

One local transaction is one branch. It is registered before the first statement whose rows are known from its text, together
with their locks, or else when the first rows have been touched. Locks that are needed later are registrations of their own, with
nothing to undo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection
from txcoord_proto.errors import DeadlinePassedError, NotActiveError, TxcoordError
from txcoord_proto.status import BranchType, PhaseOne
from txcoord_sdk.local_transaction import OWN, open_state, start_limit
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.transaction.effects import Steps
from txcoord_sdk.transaction.isolation import Isolation
from txcoord_sdk.transaction.transaction import GlobalTransaction

from txcoord_rm.at.isolation import level
from txcoord_rm.at.participant import ONLY_LOCKS
from txcoord_rm.at.resource import Resource, registrations
from txcoord_rm.at.statements import Statements, shortened
from txcoord_rm.capture.port import Entry

_GUARDED = re.compile(r"\btxcoord_undo_log_pkey\b|UNIQUE constraint failed: txcoord_undo_log\.|txcoord_undo_log.PRIMARY")
"""How databases say that a guard stands where an undo record would: the rollback was here first."""


class LocalBranch(Statements):
    """Enlisted with a connection's local transaction, or with the savepoint in which it first wrote.

    Args:
        resource: The engine.
        transaction: The global transaction.
        connection: With the local one.
        fresh: Whether nothing has run in the local transaction yet.
    """

    def __init__(self, resource: Resource, transaction: GlobalTransaction, connection: Connection, fresh: bool) -> None:
        super().__init__(resource, connection, fresh)
        self.transaction = transaction
        self._id = 0
        self._registered = False

    def _limit(self) -> int:
        """Milliseconds that the database is to be told, 0: it has been told.

        Where a thread of ours ends the local transaction at its deadline instead, it does not in the middle of this statement:
        what the statement does after that would be committed by itself.
        """
        state = open_state(self.connection)
        assert state is not None, "it is enlisted"
        state.busy = True
        return start_limit(self.connection, self.transaction.deadline)

    def _entry(self, cursor: Any, undoes: bool) -> Entry:
        if undoes:
            if not self._id:
                self._id = self.resource.wait(self.transaction.branch_id_steps())
            self.transaction.local_opened(self, self.resource.where)
        entry = Entry(self.transaction.known_xid, self._id, not self.begun, self._again, self._limit())
        self._again = False
        return entry

    def _roll_back(self, cursor: Any) -> None:
        super()._roll_back(cursor)
        self.begun = False

    def _meant(self, error: BaseException, recording: bool) -> TxcoordError | None:
        """See `Statements._meant`: a guard stands where its record would, or the database has ended what took too long."""
        try:
            self.transaction.check_deadline()
        except DeadlinePassedError as late:  # the database did as it was told, each in its own words
            return late
        if not (_GUARDED.search(str(error)) or (recording and "Duplicate entry" in str(error))):
            return None
        xid = self.transaction.known_xid
        return NotActiveError(
            f"global transaction {xid} was rolled back before this statement, which therefore has no effect: roll the local "
            "transaction back",
            {"xid": xid},
        )

    def _check(self) -> None:
        self._check_kept()
        self.transaction.check_open()

    def _serializable(self) -> bool:
        return level(self.transaction, self.resource.isolation) is Isolation.SERIALIZABLE

    # ------------------------------------------------------------ locks

    def _lock(self, keys: Iterable[str], undoes: bool, wait: float) -> None:
        """See `Statements._lock`: they are held from now on, and with the first ones the branch is registered."""
        if wait and self._owed:
            self._lock_rest(frozenset(), undoes)  # nobody waits while rows are locked here only
        missing = sorted(shortened(keys) - self._held)
        if missing or (undoes and not self._registered):
            self.resource.wait(self._lock_steps(missing, undoes, wait))

    def _lock_steps(self, keys: list[str], undoes: bool, wait: float) -> Steps[None]:
        resource, transaction = self.resource, self.transaction
        for part in registrations(keys):
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
        if in_doubt:  # PostgreSQL answers the COMMIT of a failed transaction with a silent ROLLBACK, and this with an error
            self.connection.exec_driver_sql("SELECT 1", execution_options=OWN)
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
