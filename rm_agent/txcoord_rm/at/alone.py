"""A statement on a connection that commits each by itself: it gets a local transaction of its own, with its undo record."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

from txcoord_proto.failpoints import Mode, durable, passes
from txcoord_sdk.dialects import dialect_of

from txcoord_rm.at.branch import LocalBranch
from txcoord_rm.at.guard import Guard
from txcoord_rm.at.statements import Statements
from txcoord_rm.capture.port import Entry, Result


class _Alone(Statements):
    """Mixed in before statements of a local transaction: theirs is begun and ended here, for one statement."""

    _open = False

    def run(self, cursor: Any, work: Callable[[Statements], Result]) -> Result:
        """Run the statement that `work` gives to it, commit and tell."""
        try:
            try:
                result = work(self)
            except BaseException:
                self._give_up(cursor)
                raise
            self._commit(cursor)
            self.committed()
        finally:
            self._restore_limits(cursor)
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
                self._give_up(cursor)  # on SQLite it is still open, and the next COMMIT would be its own
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
        entry = super()._entry(cursor, undoes)  # type: ignore[safe-super]
        if not self._open:
            cursor.execute(self.resource.capture.begin)
            self._open = True
        return entry

    def _roll_back(self, cursor: Any) -> None:
        if self._open:
            self._open = False
            cursor.execute("ROLLBACK")

    def _restore_limits(self, cursor: Any) -> None:
        """Take back what the session was told for this one."""

    def _forget_limits(self) -> None:
        """There is nothing that knows of limits but the statement's own local transaction, which is gone."""


class LoneBranch(_Alone, LocalBranch):
    """The branch of one statement."""

    _told = False

    def _forget_limits(self) -> None:
        self.begun = False

    def _restore_limits(self, cursor: Any) -> None:
        if self._told and (statement := dialect_of(self.connection.dialect.name).restore_limits):
            with contextlib.suppress(Exception):  # the connection is lost, or it failed before it was told
                cursor.execute(statement)

    def _limit(self) -> int:
        if self.begun or self.transaction.deadline == math.inf:
            return 0
        self._told = True
        return max(1, math.ceil((self.transaction.deadline - time.monotonic()) * 1000))


class LoneGuard(_Alone, Guard):
    """One statement outside a global transaction."""
