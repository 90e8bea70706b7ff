"""Where XA mode meets an engine: what its dialect does before a statement, at a commit and at a rollback."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine
from txcoord_proto.errors import ConfigurationError, TxcoordError
from txcoord_proto.failpoints import Mode as Moment
from txcoord_proto.failpoints import durable, passes
from txcoord_sdk.context import current
from txcoord_sdk.local_state import LocalState
from txcoord_sdk.local_transaction import WatchedDialect, commits_by_itself, enlist, open_state
from txcoord_sdk.tcc.branch import current_branch
from txcoord_sdk.transaction.isolation import Isolation
from txcoord_sdk.transaction.transaction import GlobalTransaction

from txcoord_rm.at.isolation import level, level_of
from txcoord_rm.at.joining import check_same, written_before
from txcoord_rm.xa.branch import XaBranch
from txcoord_rm.xa.effects import Effect
from txcoord_rm.xa.locked import LockedXaBranch
from txcoord_rm.xa.mode import Mode, current_mode
from txcoord_rm.xa.preparation import Preparation

if TYPE_CHECKING:
    from txcoord_rm.xa.resource import XaResource


def xa_branch(state: LocalState | None) -> XaBranch | LockedXaBranch | None:
    """The branch that a local transaction is to be prepared as."""
    if state is not None:
        for enlistment in state.enlistments:
            if isinstance(enlistment, (XaBranch, LockedXaBranch)):
                return enlistment
    return None


def xa_of_engine(engine: Engine) -> XaResource | None:
    """What XA mode knows of an enrolled engine."""
    return getattr(engine.dialect, "_txcoord_xa", None)


class XaDialect(WatchedDialect):
    """Mixed in before a watched dialect, behind what AT mode mixes in."""

    _txcoord_xa: XaResource | None
    """None: the database prepares no transactions."""
    _txcoord_seen: dict[int, str]
    """See `EnrolledDialect`."""
    _txcoord_see: Callable[[Any], None]
    """See `EnrolledDialect`."""

    def _txcoord_takes_xa(self, connection: Connection, transaction: GlobalTransaction | None) -> bool:
        """Whether a statement on the connection runs in XA mode."""
        if not getattr(connection, "_allow_autobegin", True):
            return False  # SQLAlchemy gets to know the database, outside any transaction
        state = open_state(connection)
        if state is not None and state.enlistments:
            return xa_branch(state) is not None
        wanted = current_mode() or (Mode.AT if self._txcoord_xa is None else self._txcoord_xa.mode)
        return transaction is not None and wanted is Mode.XA

    @property
    def _txcoord_locks(self) -> bool:
        """Whether branches of XA take global locks, so that their statements are captured."""
        return self._txcoord_xa is not None and self._txcoord_xa.locks

    def _txcoord_execute(self, execute: Callable[..., None], cursor: Any, statement: str, *rest: Any) -> None:
        """See `WatchedDialect._txcoord_execute`."""
        context = rest[-1]
        branch = None
        if self._txcoord_locks or context is None:
            pass  # its statements are captured
        elif not context.execution_options.get("txcoord_own") and current_branch() is None:
            transaction = current()
            known = transaction is not None or self._txcoord_open
            if known and self._txcoord_takes_xa(context.root_connection, transaction):
                branch = self._txcoord_before(context, transaction, statement, rest[0] if len(rest) > 1 else None)
        try:
            super()._txcoord_execute(execute, cursor, statement, *rest)
        except self.loaded_dbapi.Error as error:
            if branch is not None and time.monotonic() >= branch.transaction.deadline:
                self._txcoord_explain(branch, error, context, cursor)
            raise

    def _txcoord_explain(self, branch: XaBranch, error: BaseException, context: Any, cursor: Any) -> None:
        """Say what the driver's error means at the deadline, where the database did as it was told.

        Raises:
            DeadlinePassedError: That.
        """
        if self.is_disconnect(error, context._dbapi_connection, cursor):
            context.root_connection.invalidate(error)  # as SQLAlchemy does with the driver's own
        try:
            branch.transaction.check_deadline()
        except TxcoordError as late:
            raise late from error

    def _txcoord_before(
        self, context: Any, transaction: GlobalTransaction | None, statement: str, parameters: Any
    ) -> XaBranch | None:
        """Take the connection's local transaction in before a statement runs in it; None: it only reads so far, or for others."""
        xa = self._txcoord_xa
        if xa is None:
            raise ConfigurationError(f"{self.name} cannot prepare transactions, so it has no XA mode: use mode('at')")
        if (wanted := level(transaction, xa.resource.isolation)) is not Isolation.READ_UNCOMMITTED:
            raise ConfigurationError(
                f"isolation {wanted.value!r} needs global locks, which engines of mode='xa' do not take: enrol it "
                "in mode 'at', and say `with txcoord_rm.mode('xa'):` for blocks of the other mode"
            )
        connection: Connection = context.root_connection
        effect = xa.effects.effect(statement, parameters)
        branch = xa_branch(open_state(connection))
        assert not isinstance(branch, LockedXaBranch), "its statements are captured"
        if branch is not None and not branch.writes and branch.transaction is not transaction:
            self._txcoord_read_only(connection, branch)
            branch = None
            if transaction is None:
                self._txcoord_see(context)
                return None
        if branch is None and effect is Effect.READS and (commits_by_itself(connection) or not xa.preparing.begins):
            self._txcoord_seen.setdefault(id(connection.connection.dbapi_connection), "")
            return None
        if branch is None:
            assert transaction is not None, "without one there is no XA mode"
            branch = self._txcoord_take_in(xa, transaction, connection)
        check_same(branch.transaction, transaction)
        if effect is Effect.CHANGES:
            self._txcoord_with_cursor(connection, branch.change)
        return branch

    def _txcoord_take_in(self, xa: XaResource, transaction: GlobalTransaction, connection: Connection) -> XaBranch:
        transaction.check_open()
        seen = self._txcoord_seen.get(id(connection.connection.dbapi_connection))
        if seen:
            raise written_before(seen)
        xa.resource.ready()
        branch = XaBranch(xa, transaction, connection)
        if xa.preparing.begins and seen is not None:
            self._txcoord_end_reads(connection)
        enlist(connection, branch)
        self._txcoord_with_cursor(connection, branch.preparation.start)
        return branch

    def _txcoord_end_reads(self, connection: Connection) -> None:
        """End a transaction that began by itself and has only read."""
        state = open_state(connection)
        if state is not None and state.savepoints:
            raise ConfigurationError(
                "this local transaction has savepoints from before the global one began, and has to be begun anew for XA: begin "
                "the global transaction before it"
            )
        if level_of(connection) == "SERIALIZABLE":
            raise ConfigurationError(
                "this local transaction has read before the global one began, and what it read would not stay as it was "
                "(isolation level SERIALIZABLE): begin the global transaction before it"
            )
        connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr]

    def _txcoord_read_only(self, connection: Connection, branch: XaBranch) -> None:
        """End what has only read for a global transaction that has ended, or is not meant any more."""
        state = open_state(connection)
        assert state is not None
        branch.preparation.leave(connection.connection)
        state.enlistments.remove(branch)
        branch.committed()

    @staticmethod
    def _txcoord_with_cursor(connection: Connection, work: Callable[[Any], None]) -> None:
        cursor = connection.connection.cursor()
        try:
            work(cursor)
        finally:
            cursor.close()

    # ------------------------------------------------------------ ends

    def _txcoord_commit(self, dbapi_connection: Any, state: LocalState) -> None:
        """See `WatchedDialect._txcoord_commit`."""
        branch = xa_branch(state)
        if branch is not None and branch.writes:
            self._txcoord_prepare(dbapi_connection, state)
        else:
            super()._txcoord_commit(dbapi_connection, state)

    @durable("xa.prepare")
    def _txcoord_prepare(self, dbapi_connection: Any, state: LocalState) -> None:
        super()._txcoord_commit(dbapi_connection, state)

    def _txcoord_send_commit(self, dbapi_connection: Any) -> None:
        """See `WatchedDialect._txcoord_send_commit`."""
        branch = xa_branch(self._txcoord_open.get(id(dbapi_connection.dbapi_connection)))
        if branch is None:
            super()._txcoord_send_commit(dbapi_connection)
        elif branch.writes:
            self._txcoord_send_prepare(branch.preparation, dbapi_connection)
        else:
            branch.preparation.leave(dbapi_connection)
            super()._txcoord_send_commit(dbapi_connection)

    @passes(Moment.UNKNOWN)
    def _txcoord_send_prepare(self, preparation: Preparation, dbapi_connection: Any) -> None:
        preparation.prepare(dbapi_connection)

    def _txcoord_refused(self, error: BaseException, dbapi_connection: Any) -> bool:
        """See `WatchedDialect._txcoord_refused`: a PREPARE that the database has answered with an error is none."""
        branch = xa_branch(self._txcoord_open.get(id(dbapi_connection.dbapi_connection)))
        if branch is None or not branch.writes:
            return super()._txcoord_refused(error, dbapi_connection)
        if isinstance(error, TxcoordError):
            return True
        return self._txcoord_answered(error, dbapi_connection)

    def do_begin_twophase(self, connection: Connection, xid: Any) -> None:
        """Refuse what SQLAlchemy would prepare by itself, inside a global transaction."""
        if current() is not None:
            raise ConfigurationError("a two-phase transaction of the session (twophase=True) cannot take part: use a plain one")
        super().do_begin_twophase(connection, xid)

    def do_rollback(self, dbapi_connection: Any) -> None:
        """See `WatchedDialect.do_rollback`."""
        branch = xa_branch(self._txcoord_open.get(id(dbapi_connection.dbapi_connection))) if self._txcoord_open else None
        if branch is not None:
            branch.preparation.abandon(dbapi_connection)
        super().do_rollback(dbapi_connection)
