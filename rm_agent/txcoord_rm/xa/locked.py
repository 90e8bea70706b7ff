"""A local transaction that is prepared, on a database where AT mode is used as well: it takes the same global locks.

What an AT branch has written is committed, and only its global locks keep others away from it until its transaction is decided.
So a branch of XA may not touch such rows without these locks either. Its statements are captured as those of AT are, for the keys
of the rows; the undo records that come with that are deleted before it is prepared.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete
from txcoord_proto.errors import ConfigurationError
from txcoord_proto.status import BranchType, PhaseOne
from txcoord_sdk.local_transaction import OWN
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.transaction.effects import Steps
from txcoord_sdk.transaction.transaction import GlobalTransaction

from txcoord_rm.at.branch import LocalBranch
from txcoord_rm.undo.log import undo_log
from txcoord_rm.xa.branch import ARGUMENTS
from txcoord_rm.xa.preparation import Preparation
from txcoord_rm.xa.resource import XaResource


class LockedXaBranch(LocalBranch):
    """Enlisted with a connection's local transaction, or with the savepoint in which it first wrote; see `LocalBranch`.

    Args:
        xa: The engine.
        transaction: The global transaction.
        connection: With the local one.
        fresh: Whether nothing has run in the local transaction yet.

    Raises:
        ConfigurationError: The two modes cannot be mixed on this database.
    """

    def __init__(self, xa: XaResource, transaction: GlobalTransaction, connection: Connection, fresh: bool) -> None:
        if xa.preparing.begins:
            raise ConfigurationError(
                f"XA mode on a database where this process uses AT mode as well is not supported on {connection.dialect.name}: "
                "enrol all engines of this database in one mode"
            )
        super().__init__(xa.resource, transaction, connection, fresh)
        self.preparation = Preparation(xa, transaction, connection)

    @property
    def writes(self) -> bool:
        """See `XaBranch.writes`."""
        return self._registered

    def _foreseen_at_level(self, cursor: Any, *rest: Any) -> frozenset[str] | None:
        if not self._registered:
            self.preparation.registering(cursor)
        return super()._foreseen_at_level(cursor, *rest)

    def _registration(self, keys: tuple[str, ...], wait: float) -> Registration:
        return Registration(BranchType.XA, self.resource.name, keys, ARGUMENTS, lock_wait=wait, branch_id=self._id)

    def _lock_steps(self, keys: list[str], undoes: bool, wait: float) -> Steps[None]:
        yield from super()._lock_steps(keys, undoes, wait)
        if self._registered:
            self.preparation.registered(self._id)

    def before_commit(self, in_doubt: bool) -> None:
        """See `Enlistment.before_commit`."""
        super().before_commit(in_doubt)
        if not self._registered:
            return
        mine = undo_log.c.branch_id == self._id, undo_log.c.xid == self.transaction.known_xid
        self.connection.execute(delete(undo_log).where(*mine), execution_options=OWN)
        self.preparation.fence(self)

    def committed(self) -> None:
        """See `Enlistment.committed`."""
        self.preparation.keep()
        super().committed()

    def rolled_back(self) -> None:
        """See `Enlistment.rolled_back`."""
        if self.preparation.doubtful:
            self._end(PhaseOne.UNKNOWN, "whether it was prepared is not known")
        else:
            super().rolled_back()

    def unknown(self, error: BaseException) -> None:
        """See `Enlistment.unknown`."""
        self.preparation.let_go()
        super().unknown(error)
