"""What is known of one open local transaction: who waits for its end, and how long it may go on."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import os
import re
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from txcoord_proto.errors import ConfigurationError, DeadlinePassedError
from txcoord_proto.failpoints import Mode, passes

from txcoord_sdk.dialects import Dialect, sqlite_connection

log = logging.getLogger(__name__)

_WORDS = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*([A-Za-z]+)(?:\s+([A-Za-z]+))?", re.DOTALL)
_AGAIN_SECONDS = 0.05
_ENDS = frozenset({"COMMIT", "ROLLBACK", "BEGIN", "START", "END", "ABORT"})


class Enlistment(Protocol):
    """Somebody who has to know how a local transaction ends. Exactly one of the last three is called, once."""

    def before_commit(self, in_doubt: bool) -> None:
        """COMMIT is about to be sent; raising rolls back instead.

        Args:
            in_doubt: A statement has failed since: what was done before it may be gone although the connection is open.
        """

    def committed(self) -> None:
        """COMMIT returned."""

    def rolled_back(self) -> None:
        """It is certain that nothing of it stays."""

    def unknown(self, error: BaseException) -> None:
        """COMMIT was sent and not answered."""


class LocalState:
    """Of one connection with a local transaction open.

    Args:
        dbapi_connection: Kept, so that no other connection gets its identity meanwhile.
        dialect: Of its database.
    """

    __slots__ = (
        "__weakref__",
        "_ended",
        "_expired",
        "busy",
        "contended",
        "dbapi_connection",
        "deadline",
        "dialect",
        "enlistments",
        "in_doubt",
        "limited",
        "lock",
        "savepoints",
    )

    def __init__(self, dbapi_connection: object, dialect: Dialect) -> None:
        self.dbapi_connection = dbapi_connection
        self.dialect = dialect
        self.enlistments: list[Enlistment] = []
        self.savepoints: list[tuple[str, int]] = []
        self.in_doubt = False
        self.deadline = math.inf
        """From when on it takes no more statements, by `time.monotonic`."""
        self.limited = math.inf
        """The deadline that the database was told."""
        self.lock = threading.Lock()
        """Held while it is being ended."""
        self.busy = False
        """Whether a statement is running."""
        self.contended = False
        """Whether `expire` was at work when it was closed, and may still be: nobody else must get the connection."""
        self._ended = self._expired = False

    @passes(Mode.IN)
    def before_commit(self) -> None:
        """Ask the enlistments."""
        for enlistment in self.enlistments:
            enlistment.before_commit(self.in_doubt)

    def end(self, tell: Callable[[Enlistment], None], first: int = 0) -> None:
        """Tell the enlistments from `first` on, and forget them."""
        ended, self.enlistments = self.enlistments[first:], self.enlistments[:first]
        for enlistment in ended:
            tell(enlistment)

    def leave_savepoint(self, name: str) -> int | None:
        """Forget a savepoint and those inside it; returns how many had enlisted before it."""
        for place, (known, before) in enumerate(self.savepoints):
            if known == name:
                del self.savepoints[place:]
                return before
        return None

    def check(self, statement: str) -> None:
        """Refuse a statement after the deadline, and one that would end the transaction without anybody being told.

        Raises:
            DeadlinePassedError: It comes too late.
            ConfigurationError: It ends the transaction.
        """
        found = _WORDS.match(statement)
        words = (found[1].upper(), (found[2] or "").upper()) if found else ("", "")
        back = words[0] == "ROLLBACK" and re.search(r"\bTO\b", statement, re.IGNORECASE) is not None
        if back:
            self.in_doubt = True  # it may take back what somebody enlisted for, who is not told
        elif self._is_end(*words):
            raise ConfigurationError(
                f"{statement[:60]!r} ends a local transaction that takes part in a global one, unseen: use commit() and "
                "rollback() of the connection or session, and keep statements that commit by themselves out of it"
            )
        elif words[0] != "RELEASE" and time.monotonic() >= self.deadline:
            raise _too_late()
        self.busy = True

    def _is_end(self, first: str, second: str) -> bool:
        if first in _ENDS or (first, second) == ("PREPARE", "TRANSACTION"):
            return True
        return first in self.dialect.commits_unseen and second != "TEMPORARY"

    def check_alive(self) -> None:
        """Refuse COMMIT of what `expire` has rolled back; under the lock.

        Raises:
            DeadlinePassedError: It has.
        """
        if self._expired:
            raise _too_late()

    def closed(self) -> None:
        """It has ended, or is ending: nobody else ends it any more."""
        free = self.lock.acquire(blocking=False)  # not waited for: this may be an event loop
        self._ended = True
        self.contended = not free
        if free:
            self.lock.release()

    def expire(self) -> bool:
        """Roll it back from another thread, where no database server does so; an SQLite connection bears that while it is idle.

        Returns:
            Whether that is all; False: a statement is running, which is interrupted and has to end first.
        """
        with self.lock:
            if self._ended:
                return True
            self._expired = True
            try:
                connection = sqlite_connection(self.dbapi_connection)
                if self.busy:
                    connection.interrupt()
                    return False
                connection.rollback()
            except Exception as error:
                log.warning("a local transaction is open beyond its deadline and cannot be rolled back from here: %s", error)
            return True


def _too_late() -> DeadlinePassedError:
    return DeadlinePassedError(
        "the global transaction has passed its deadline, so this local transaction does not go on: roll it back, and raise the "
        "timeout or do less in it"
    )


class Reaper:
    """Ends local transactions at their deadline, in a thread that lives while there are any."""

    def __init__(self) -> None:
        self._forked()

    def _forked(self) -> None:
        self._pid = os.getpid()
        self._change = threading.Condition()
        self._due: list[tuple[float, int, weakref.ref[LocalState]]] = []
        self._numbers = itertools.count()
        self._runs = False

    def watch(self, state: LocalState, deadline: float) -> None:
        """End `state` at `deadline` unless it has ended by then."""
        if self._pid != os.getpid():
            self._forked()
        with self._change:
            heapq.heappush(self._due, (deadline, next(self._numbers), weakref.ref(state)))
            self._change.notify()
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="txcoord-deadlines", daemon=True).start()

    def _run(self) -> None:
        while (state := self._next()) is not None:
            if (open_state := state()) is not None and not open_state.expire():
                self.watch(open_state, time.monotonic() + _AGAIN_SECONDS)

    def _next(self) -> weakref.ref[LocalState] | None:
        """The next one that is due; waits for it. None: there is nothing left, and the thread ends."""
        with self._change:
            while self._due:
                while self._due and self._due[0][2]() is None:
                    heapq.heappop(self._due)
                if self._due and self._due[0][0] <= time.monotonic():
                    return heapq.heappop(self._due)[2]
                if self._due:
                    self._change.wait(self._due[0][0] - time.monotonic())
            self._runs = False
            return None


reaper = Reaper()
"""Of this process."""
