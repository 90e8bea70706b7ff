"""A statement on a connection that commits each by itself: it gets a local transaction of its own, with its undo record."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection
from txcoord_proto.failpoints import Mode, durable, passes
from txcoord_sdk.transaction.transaction import GlobalTransaction

from txcoord_rm.at.branch import LocalBranch
from txcoord_rm.at.resource import Resource
from txcoord_rm.capture.port import Entry, Result


class LoneBranch(LocalBranch):
    """The branch of one statement."""

    def __init__(self, resource: Resource, transaction: GlobalTransaction, connection: Connection) -> None:
        super().__init__(resource, transaction, connection, fresh=True)
        self._open = False

    def run(self, cursor: Any, work: Callable[[LocalBranch], Result]) -> Result:
        """Run the statement that `work` gives to the branch, commit it and report."""
        try:
            result = work(self)
        except BaseException:
            self._give_up(cursor)
            raise
        self._commit(cursor)
        self.committed()
        return result

    @durable("local.commit")
    def _commit(self, cursor: Any) -> None:
        try:
            self._prepare()
        except BaseException:
            self._give_up(cursor)
            raise
        try:
            self._send_commit(cursor)
        except BaseException as error:
            dialect: Any = self.connection.dialect
            if dialect._txcoord_refused(error, self.connection.connection):
                self.rolled_back()
            else:
                self.unknown(error)
            raise

    @passes(Mode.IN)
    def _prepare(self) -> None:
        self.before_commit(False)

    @passes(Mode.UNKNOWN)
    def _send_commit(self, cursor: Any) -> None:
        if self._open:
            cursor.execute("COMMIT")

    def _give_up(self, cursor: Any) -> None:
        with contextlib.suppress(Exception):  # the connection is lost: the database rolls back
            self._roll_back(cursor)
        self.rolled_back()

    def _entry(self, cursor: Any, undoes: bool) -> Entry:
        entry = super()._entry(cursor, undoes)
        if not self._open:
            cursor.execute(self.resource.capture.begin)
            self._open = True
        return entry

    def _roll_back(self, cursor: Any) -> None:
        if self._open:
            self._open = False
            cursor.execute("ROLLBACK")

    def _forget_limits(self) -> None:
        self._begun = False

    def _limit(self) -> int:
        if self._begun or self.transaction.deadline == math.inf:
            return 0
        return max(1, math.ceil((self.transaction.deadline - time.monotonic()) * 1000))
