"""A local transaction that is prepared: one branch of a global transaction.

It is registered before its first statement that changes or locks something. At its commit it writes its fence row and is prepared
instead, which is its vote; from then on only the decision ends it. One that has only read is committed, and is no branch.

The fence row is written last: nobody has to wait for it while the application works, and that it can be written shows that the
database has not rolled back what came before it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from sqlalchemy import Connection
from txcoord_proto.errors import ConfigurationError, DeadlinePassedError, TransactionEndedError
from txcoord_proto.status import BranchType, PhaseOne
from txcoord_sdk.fence import fence
from txcoord_sdk.fence.retention import boot_time
from txcoord_sdk.local_transaction import limit, open_state
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.transaction.transaction import GlobalTransaction

from txcoord_rm.xa.identifier import Identifier
from txcoord_rm.xa.kept import Session, kept
from txcoord_rm.xa.resource import XaResource

ARGUMENTS = b"xa"
"""Of a branch's registration: tells those who do its second phase what it is."""


class XaBranch:
    """Enlisted with a connection's local transaction.

    Args:
        xa: The engine.
        transaction: The global transaction.
        connection: With the local one.
    """

    def __init__(self, xa: XaResource, transaction: GlobalTransaction, connection: Connection) -> None:
        self.xa = xa
        self.transaction = transaction
        self.connection = connection
        self._preparing = xa.preparing
        self._identifier: Identifier | None = None
        self._registered = False
        self._too_old = 0.0
        """`boot_time` from which on a guard may have been forgotten."""
        self._sent = self._prepared = self._doubtful = False

    # ------------------------------------------------------------ statements

    @property
    def writes(self) -> bool:
        """Whether it has changed or locked something, or may have."""
        return self._registered

    def begin(self, cursor: Any) -> None:
        """Begin the local transaction, where the database has to be told that it may be prepared."""
        resource, transaction = self.xa.resource, self.transaction
        if self._preparing.begins:
            self.xa.check(cursor)
            branch_id = resource.wait(transaction.branch_id_steps())
            identifier = self.xa.identifier(transaction.known_xid, branch_id)
            self._preparing.begin(cursor, identifier)
            self._identifier = identifier

    def change(self, cursor: Any) -> None:
        """Register it, before its first statement that changes or locks something.

        Raises:
            TransactionEndedError: The global transaction has ended.
            NotActiveError: It is decided already.
            ConfigurationError: The database prepares no transactions.
        """
        transaction = self.transaction
        transaction.check_open()
        if self._registered:
            return
        resource = self.xa.resource
        self.xa.check(cursor)
        known = 0 if self._identifier is None else self._identifier.branch_id
        self._too_old = boot_time() + resource.database.fence_retention / 2
        branch_id = resource.wait(
            transaction.register_steps(Registration(BranchType.XA, resource.name, arguments=ARGUMENTS, branch_id=known))
        )
        self._identifier = self.xa.identifier(transaction.known_xid, branch_id)
        self._registered = True
        transaction.local_opened(self, f"on {self.connection.engine.url!r}")
        limit(self.connection, transaction.deadline)

    def leave(self, dbapi_connection: Any) -> None:
        """Commit a local transaction that has only read."""
        if self._identifier is not None:
            self._do(dbapi_connection, self._preparing.leave)

    # ------------------------------------------------------------ its end

    def before_commit(self, in_doubt: bool) -> None:
        """See `Enlistment.before_commit`."""
        if not self._registered:
            return
        self.transaction.check_open()
        self.transaction.check_deadline()
        state = open_state(self.connection)
        if state is None or state.enlistments != [self]:
            raise ConfigurationError(
                "this local transaction is prepared for XA, and something else takes part with it, such as the try of a TCC "
                "action: give each a local transaction of its own"
            )
        if boot_time() >= self._too_old:
            raise DeadlinePassedError(
                f"branch {self._known.branch_id} was registered so long ago that its fence does not protect it any more "
                f"({self._known.xid}): begin anew",
                {"xid": self._known.xid},
            )
        fence.tried(self.connection, self._known.xid, self._known.branch_id, self.xa.resource.name)

    def prepare(self, dbapi_connection: Any) -> None:
        """Prepare it: the vote. Raises like `Preparing.prepare`."""
        self._sent = True
        self._do(dbapi_connection, self._preparing.prepare)
        self._prepared = True
        with contextlib.suppress(Exception):  # it is prepared, whatever becomes of the connection
            if self._preparing.keeps:
                self._take_limits_back(dbapi_connection)
            else:
                dbapi_connection.rollback()  # for drivers that count: there is no transaction any more

    def _take_limits_back(self, dbapi_connection: Any) -> None:
        state = open_state(self.connection)
        if state is not None and state.limited < float("inf"):
            cursor = dbapi_connection.cursor()
            cursor.execute(state.dialect.restore_limits)
            cursor.close()

    def abandon(self, dbapi_connection: Any) -> None:
        """Roll it back before it is prepared, where plain ROLLBACK does not; a session that cannot is given up."""
        if self._identifier is None or not self._preparing.begins:
            return
        try:
            self._do(dbapi_connection, self._preparing.abandon)
        except Exception:
            self._doubtful = self._sent
            dbapi_connection.invalidate()

    def committed(self) -> None:
        """See `Enlistment.committed`."""
        if self._prepared and self._preparing.keeps:
            self._keep()
        self._end(PhaseOne.DONE)

    def rolled_back(self) -> None:
        """See `Enlistment.rolled_back`."""
        if self._doubtful:
            self._end(PhaseOne.UNKNOWN, "whether it was prepared is not known")
        else:
            self._end(PhaseOne.FAILED, "its local transaction was rolled back")

    def unknown(self, error: BaseException) -> None:
        """See `Enlistment.unknown`."""
        self._end(PhaseOne.UNKNOWN, repr(error))

    def _end(self, result: PhaseOne, error: str = "") -> None:
        if self._registered:
            self.transaction.report(self._known.branch_id, result, error)
        self.transaction.local_ended(self)

    def _keep(self) -> None:
        """Take the session out of the application's pool, which gets another in its place."""
        raw = self.connection.connection.dbapi_connection
        loop = asyncio.get_running_loop() if self.xa.resource.database.is_async else None
        kept.keep(self._known, Session(raw, loop))
        self.connection.detach()
        self.connection.invalidate()  # of what is detached nothing is closed

    # ------------------------------------------------------------ inside

    @property
    def _known(self) -> Identifier:
        assert self._identifier is not None
        return self._identifier

    def _do(self, dbapi_connection: Any, act: Any) -> None:
        cursor = dbapi_connection.cursor()
        try:
            act(cursor, self._known)
        finally:
            with contextlib.suppress(Exception):
                cursor.close()

    def check_same(self, transaction: GlobalTransaction | None) -> None:
        """Refuse a statement in the name of another global transaction.

        Raises:
            TransactionEndedError: It is one.
        """
        if transaction is not None and transaction is not self.transaction:
            raise TransactionEndedError(
                f"this local transaction belongs to {self.transaction!r}, not to {transaction!r}: commit it first, or use "
                "another connection or session"
            )
