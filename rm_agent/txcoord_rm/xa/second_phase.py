"""Phase two of XA: a prepared transaction is ended as decided, whoever has prepared it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection
from txcoord_proto.failpoints import Mode, durable, passes
from txcoord_sdk.database import Database
from txcoord_sdk.transaction.effects import Invoke, Steps

from txcoord_rm.xa.fence import fence_state, guard
from txcoord_rm.xa.identifier import Identifier
from txcoord_rm.xa.kept import kept
from txcoord_rm.xa.outcome import check_ended
from txcoord_rm.xa.port import Preparing

T = TypeVar("T")


class XaSecondPhase:
    """Of one database.

    Args:
        database: It.
        preparing: Its prepared transactions.
        resource: What it is called at the coordinator.
    """

    def __init__(self, database: Database, preparing: Preparing, resource: str) -> None:
        self._database = database
        self._preparing = preparing
        self._resource = resource

    def settle_steps(self, identifier: Identifier, commit: bool) -> Steps[None]:
        """End a branch; returning means that it has ended so, now or before.

        Raises:
            ParkError: It has ended otherwise, or what became of it is not known.
            StillPreparedError: It cannot be ended now.
            UnavailableError: The database cannot be reached.
        """
        yield from (self._commit(identifier) if commit else self._roll_back(identifier))

    def listed_steps(self) -> Steps[set[Identifier]]:
        """All prepared transactions of this database that are ours."""
        return (yield from self._bare(lambda connection: self._preparing.listed(connection, self._database.id)))

    @durable("xa.commit")
    def _commit(self, identifier: Identifier) -> Steps[None]:
        if not (yield from self._ended(identifier, True)):
            yield from self._bare(lambda connection: self._check_committed(connection, identifier))

    @durable("xa.rollback")
    def _roll_back(self, identifier: Identifier) -> Steps[None]:
        if not (yield from self._ended(identifier, False)):
            yield from self._bare(lambda connection: self._check_rolled_back(connection, identifier))

    def _ended(self, identifier: Identifier, commit: bool) -> Steps[bool]:
        """Whether it was there and has been ended."""
        if (yield from kept.end_steps(identifier, lambda cursor: self._end_kept(cursor, identifier, commit))):
            return True
        return (yield from self._bare(lambda connection: self._end(connection, identifier, commit)))

    @passes(Mode.UNKNOWN)
    def _end_kept(self, cursor: Any, identifier: Identifier, commit: bool) -> None:
        self._preparing.end_kept(cursor, identifier, commit)

    @passes(Mode.UNKNOWN)
    def _end(self, connection: Connection, identifier: Identifier, commit: bool) -> bool:
        return self._preparing.end(connection, identifier, commit)

    def _check_committed(self, connection: Connection, identifier: Identifier) -> None:
        listed = identifier in self._preparing.listed(connection, identifier.database_id)
        check_ended(identifier, True, listed, fence_state(connection, identifier))

    def _check_rolled_back(self, connection: Connection, identifier: Identifier) -> None:
        state = guard(connection, identifier, self._resource)
        listed = identifier in self._preparing.listed(connection, identifier.database_id)
        check_ended(identifier, False, listed, state)

    def _bare(self, work: Callable[[Connection], T]) -> Steps[T]:
        database: Any = self._database
        run = database.arun_alone if database.is_async else database.run_alone
        result: T = yield Invoke(lambda: run(work))
        return result
