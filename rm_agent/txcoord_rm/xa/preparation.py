"""Preparing one local transaction: what it is called, its fence row, and how it ends in the database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection
from txcoord_proto.errors import ConfigurationError, DeadlinePassedError
from txcoord_sdk.fence import fence
from txcoord_sdk.fence.retention import boot_time
from txcoord_sdk.local_state import Enlistment
from txcoord_sdk.local_transaction import open_state
from txcoord_sdk.transaction.transaction import GlobalTransaction

from txcoord_rm.xa.identifier import Identifier
from txcoord_rm.xa.kept import Session, kept
from txcoord_rm.xa.resource import XaResource


class Preparation:
    """Of the local transaction on a connection.

    Args:
        xa: The engine.
        transaction: The global transaction.
        connection: With the local one.
    """

    def __init__(self, xa: XaResource, transaction: GlobalTransaction, connection: Connection) -> None:
        self._xa = xa
        self._preparing = xa.preparing
        self._transaction = transaction
        self._connection = connection
        self._identifier: Identifier | None = None
        self._too_old = 0.0
        """`boot_time` from which on a guard may have been forgotten."""
        self._sent = self._prepared = False
        self.doubtful = False
        """Whether it may have been prepared although its rollback was asked for."""

    @property
    def branch_id(self) -> int:
        """Of the branch that it was begun as; 0: it was not."""
        return 0 if self._identifier is None else self._identifier.branch_id

    def start(self, cursor: Any) -> None:
        """Begin the local transaction, where the database has to be told that it may be prepared."""
        if self._preparing.begins:
            self._xa.check(cursor)
            branch_id = self._xa.resource.wait(self._transaction.branch_id_steps())
            identifier = self._xa.identifier(self._transaction.known_xid, branch_id)
            self._preparing.start(cursor, identifier)
            self._identifier = identifier

    def registering(self, cursor: Any) -> None:
        """Its branch is about to be registered.

        Raises:
            ConfigurationError: The database prepares no transactions.
        """
        self._xa.check(cursor)
        self._too_old = boot_time() + self._xa.resource.database.fence_retention / 2

    def registered(self, branch_id: int) -> None:
        """Its branch is registered."""
        self._identifier = self._xa.identifier(self._transaction.known_xid, branch_id)

    def leave(self, dbapi_connection: Any) -> None:
        """Commit a local transaction that has only read, where plain COMMIT does not."""
        if self._identifier is not None:
            self._do(dbapi_connection, self._preparing.leave)

    # ------------------------------------------------------------ the vote

    def fence(self, enlistment: Enlistment) -> None:
        """Write the fence row, as the last statement.

        Args:
            enlistment: The only one that may take part in the local transaction.

        Raises:
            ConfigurationError: Another one does.
            DeadlinePassedError: Its registration is too old.
            HangingTryError: It has been rolled back before.
        """
        state, known = open_state(self._connection), self._known
        if state is None or state.enlistments != [enlistment]:
            raise ConfigurationError(
                "this local transaction is prepared for XA, and something else takes part with it, such as the try of a TCC "
                "action: give each a local transaction of its own"
            )
        if boot_time() >= self._too_old:
            raise DeadlinePassedError(
                f"branch {known.branch_id} was registered so long ago that its fence does not protect it any more ({known.xid}): "
                "begin anew",
                {"xid": known.xid},
            )
        fence.tried(self._connection, known.xid, known.branch_id, self._xa.resource.name)

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
        state = open_state(self._connection)
        if state is not None and state.limited < float("inf"):
            cursor = dbapi_connection.cursor()
            cursor.execute(state.dialect.restore_limits)
            cursor.close()

    def keep(self) -> None:
        """Take the session that has prepared it out of the application's pool, where it has to end it, too."""
        if not self._prepared or not self._preparing.keeps:
            return
        raw = self._connection.connection.dbapi_connection
        database = self._xa.resource.database
        loop = asyncio.get_running_loop() if database.is_async else None
        kept.keep(self._known, Session(raw, loop, database))
        self._connection.detach()
        self._connection.invalidate()  # of what is detached nothing is closed

    def let_go(self) -> None:
        """End the session of what is perhaps prepared: as long as it lives, MariaDB lets nobody else end it."""
        with contextlib.suppress(Exception):  # it is gone already
            self._connection.invalidate()

    def abandon(self, dbapi_connection: Any) -> None:
        """Roll it back before it is prepared, where plain ROLLBACK does not; a session that cannot is given up."""
        if self._identifier is None or not self._preparing.begins:
            return
        try:
            self._do(dbapi_connection, self._preparing.abandon)
        except Exception:
            self.doubtful = self._sent
            dbapi_connection.invalidate()

    # ------------------------------------------------------------ inside

    @property
    def _known(self) -> Identifier:
        assert self._identifier is not None
        return self._identifier

    def _do(self, dbapi_connection: Any, act: Callable[[Any, Identifier], None]) -> None:
        cursor = dbapi_connection.cursor()
        try:
            act(cursor, self._known)
        finally:
            with contextlib.suppress(Exception):
                cursor.close()
