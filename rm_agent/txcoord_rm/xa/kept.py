"""Sessions that have prepared a transaction and are kept, out of the application's pool, to end it.

For databases in which nobody else can while the session lives. One that is lost is no loss: then anybody can.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.util import greenlet_spawn
from txcoord_sdk.database import Database
from txcoord_sdk.transaction.effects import Invoke, Steps

from txcoord_rm.xa.identifier import Identifier


@dataclass(frozen=True, slots=True)
class Session:
    """One that is kept.

    Args:
        raw: The DB-API connection.
        loop: In which an asynchronous driver uses it; None: the driver is synchronous.
        database: Whose it is.
    """

    raw: Any
    loop: asyncio.AbstractEventLoop | None
    database: Database


class KeptSessions:
    """Those of this process, by branch."""

    def __init__(self) -> None:
        self._sessions: dict[Identifier, Session] = {}
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def keep(self, identifier: Identifier, session: Session) -> None:
        """Keep a session that has prepared a branch."""
        with self._lock:
            if self._pid != os.getpid():
                self._sessions.clear()  # they are the parent's
                self._pid = os.getpid()
            self._sessions[identifier] = session

    def end_steps(self, identifier: Identifier, end: Callable[[Any], None]) -> Steps[bool]:
        """End a branch in its session, and the session.

        Args:
            identifier: The branch.
            end: Does so with the session's cursor.

        Returns:
            Whether that was possible; if not the session is not here, or gone now.
        """
        with self._lock:
            session = self._sessions.pop(identifier, None) if self._pid == os.getpid() else None
        if session is None:
            return False
        ended: bool = yield Invoke(lambda: _in_its_world(session, lambda: _end(session.raw, end)))
        return ended

    def close(self, database: Database) -> None:
        """Let go of those of a database: this process does not end their branches any more, and now others can."""
        with self._lock:
            if self._pid != os.getpid():
                return  # they are the parent's
            mine = [identifier for identifier, session in self._sessions.items() if session.database is database]
            sessions = [self._sessions.pop(identifier) for identifier in mine]
        for session in sessions:
            with contextlib.suppress(Exception):  # it, or its loop, is gone already
                if session.loop is None:
                    session.raw.close()
                elif session.loop is asyncio._get_running_loop():
                    session.raw.terminate()
                else:
                    session.loop.call_soon_threadsafe(session.raw.terminate)


def _in_its_world(session: Session, work: Callable[[], bool]) -> Any:
    """Do `work` in the thread or loop in which the session's driver works; awaitable where a loop is running here."""
    here = asyncio._get_running_loop()
    if session.loop is None:
        return work()
    if session.loop is here:
        return greenlet_spawn(work)
    if not session.loop.is_running():
        return False  # the driver cannot be used any more
    there = asyncio.run_coroutine_threadsafe(greenlet_spawn(work), session.loop)
    return there.result() if here is None else asyncio.wrap_future(there)


def _end(raw: Any, end: Callable[[Any], None]) -> bool:
    try:
        cursor = raw.cursor()
        end(cursor)
        cursor.close()
    except Exception:
        ended = False
    else:
        ended = True
    with contextlib.suppress(Exception):
        raw.close()
    return ended


kept = KeptSessions()
"""Of this process."""
