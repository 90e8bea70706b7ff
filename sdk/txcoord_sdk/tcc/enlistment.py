"""What a try's local transaction tells its branch."""

from __future__ import annotations

from sqlalchemy import Connection
from txcoord_proto.errors import DeadlinePassedError, LocalTransactionOpenError
from txcoord_proto.status import PhaseOne

from txcoord_sdk.fence import fence
from txcoord_sdk.fence.retention import boot_time
from txcoord_sdk.tcc.branch import TccBranch
from txcoord_sdk.transaction.transaction import GlobalTransaction


class BranchEnlistment:
    """A branch that is reported when its local transaction ends.

    Args:
        transaction: Its global transaction.
        branch: It.
        connection: On which the try works.
        has_row: Whether its fence row is written in this local transaction, so that both stand or fall together.
        too_old: `boot_time` from which on the fence does not protect it any more.
    """

    def __init__(
        self, transaction: GlobalTransaction, branch: TccBranch, connection: Connection, has_row: bool, too_old: float
    ) -> None:
        self._transaction = transaction
        self._branch = branch
        self._connection = connection
        self._has_row = has_row
        self._too_old = too_old
        self._in_doubt = False
        self.failure: BaseException | None = None
        """Set when the try raised: the local transaction must not be committed with half of it."""
        transaction.local_opened(self, f"{branch.resource}, branch {branch.branch_id}")

    def before_commit(self, in_doubt: bool) -> None:
        """See `Enlistment.before_commit`."""
        if self.failure is not None:
            raise LocalTransactionOpenError(
                f"the try {self._branch.resource} failed ({self.failure!r}) in this local transaction, which may hold half of "
                "it: roll it back, or call the try within begin_nested() to go on without it"
            )
        self._transaction.check_deadline()
        if boot_time() >= self._too_old:
            raise DeadlinePassedError(
                f"the branch was registered so long ago that its fence does not protect it any more ({self._branch.xid}): "
                "begin anew",
                {"xid": self._branch.xid},
            )
        self._in_doubt = in_doubt
        if in_doubt and self._has_row and not fence.is_tried(self._connection, self._branch.xid, self._branch.branch_id):
            raise fence.TryLostError(
                "an error made the database roll this local transaction back although the connection stayed open; what was "
                "done since stands alone and is rolled back too: let such errors end the transaction",
                {"xid": self._branch.xid},
            )

    def committed(self) -> None:
        """See `Enlistment.committed`: without a row nobody can look whether a failed statement took the try back."""
        lost = self._in_doubt and not self._has_row
        self._end(PhaseOne.UNKNOWN if lost else PhaseOne.DONE, "a statement failed in its local transaction" if lost else "")

    def rolled_back(self) -> None:
        """See `Enlistment.rolled_back`: without a row in it, the try may have had effects elsewhere."""
        why = repr(self.failure) if self.failure is not None else "its local transaction was rolled back"
        self._end(PhaseOne.FAILED if self._has_row else PhaseOne.UNKNOWN, why)

    def unknown(self, error: BaseException) -> None:
        """See `Enlistment.unknown`."""
        self._end(PhaseOne.UNKNOWN, repr(error))

    def _end(self, result: PhaseOne, error: str = "") -> None:
        self._transaction.report(self._branch.branch_id, result, error)
        self._transaction.local_ended(self)


class IntentEnlistment:
    """What a failure of an intent's local transaction means: a row that may have been committed needs its cancel."""

    def __init__(self) -> None:
        self.failed_as = PhaseOne.FAILED

    def before_commit(self, in_doubt: bool) -> None:
        """See `Enlistment.before_commit`."""

    def committed(self) -> None:
        """See `Enlistment.committed`."""
        self.failed_as = PhaseOne.UNKNOWN

    def rolled_back(self) -> None:
        """See `Enlistment.rolled_back`."""

    def unknown(self, error: BaseException) -> None:
        """See `Enlistment.unknown`."""
        self.failed_as = PhaseOne.UNKNOWN
