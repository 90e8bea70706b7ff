"""A local transaction that is prepared: one branch of a global transaction.

It is registered before its first statement that changes or locks something. At its commit it writes its fence row and is prepared
instead, which is its vote; from then on only the decision ends it. One that has only read is committed, and is no branch.

The fence row is written last: nobody has to wait for it while the application works, and that it can be written shows that the
database has not rolled back what came before it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from txcoord_proto.status import BranchType, PhaseOne
from txcoord_sdk.local_transaction import limit
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.transaction.transaction import GlobalTransaction

from txcoord_rm.xa.preparation import Preparation
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
        self.transaction = transaction
        self.preparation = Preparation(xa, transaction, connection)
        self._resource = xa.resource
        self._connection = connection
        self._registered = False

    @property
    def writes(self) -> bool:
        """Whether it has changed or locked something, or may have."""
        return self._registered

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
        self.preparation.registering(cursor)
        registration = Registration(BranchType.XA, self._resource.name, arguments=ARGUMENTS, branch_id=self.preparation.branch_id)
        self.preparation.registered(self._resource.wait(transaction.register_steps(registration)))
        self._registered = True
        transaction.local_opened(self, self._resource.where)
        limit(self._connection, transaction.deadline)

    # ------------------------------------------------------------ its end

    def before_commit(self, in_doubt: bool) -> None:
        """See `Enlistment.before_commit`."""
        if self._registered:
            self.transaction.check_open()
            self.transaction.check_deadline()
            self.preparation.fence(self)

    def committed(self) -> None:
        """See `Enlistment.committed`."""
        self.preparation.keep()
        self._end(PhaseOne.DONE)

    def rolled_back(self) -> None:
        """See `Enlistment.rolled_back`."""
        if self.preparation.doubtful:
            self._end(PhaseOne.UNKNOWN, "whether it was prepared is not known")
        else:
            self._end(PhaseOne.FAILED, "its local transaction was rolled back")

    def unknown(self, error: BaseException) -> None:
        """See `Enlistment.unknown`."""
        self.preparation.let_go()
        self._end(PhaseOne.UNKNOWN, repr(error))

    def _end(self, result: PhaseOne, error: str = "") -> None:
        if self._registered:
            self.transaction.report(self.preparation.branch_id, result, error)
        self.transaction.local_ended(self)
