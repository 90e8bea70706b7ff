"""Local transactions outside global ones that respect global locks: they write no row that an unfinished global one holds.

Whoever writes such a row makes it impossible to undo: the global transaction would be parked. The question is asked once the row
is locked in the database, since nobody can take its global lock and write it from then on until the local transaction ends.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from txcoord_proto.errors import LockConflictError, LockTimeoutError
from txcoord_sdk.transaction.effects import Ask, Pause, Steps

from txcoord_rm.at.statements import Statements, shortened
from txcoord_rm.capture.port import Entry

_PAUSE, _LONGEST_PAUSE = 0.01, 0.2
_within: ContextVar[bool] = ContextVar("txcoord_global_lock", default=False)


@contextlib.contextmanager
def global_lock() -> Iterator[None]:
    """A block, or as `@global_lock()` a function, whose local transactions respect global locks although it is in no global one.

    What they write, and read FOR UPDATE, is free of unfinished global transactions, or is waited for; inside a global transaction
    that is so anyway. Decorating an `async def` function does nothing before it is awaited: use the block in its body.
    """
    token = _within.set(True)
    try:
        yield
    finally:
        _within.reset(token)


def is_within() -> bool:
    """Whether the running code is in such a block."""
    return _within.get()


class Guard(Statements):
    """Enlisted with a local transaction outside any global one."""

    def _check(self) -> None:
        self._check_kept()

    def _entry(self, cursor: Any, undoes: bool) -> Entry:
        return Entry("", 0, first=True)

    def _foreseen(self, *_: Any) -> None:
        """Asked before the rows are locked, the answer would say nothing."""

    def _lock(self, keys: Iterable[str], undoes: bool, wait: float) -> None:
        self.resource.wait(self._free(sorted(shortened(keys)), wait))

    def _free(self, keys: list[str], wait: float) -> Steps[None]:
        client, name = self.resource.client, self.resource.name
        until, pause = time.monotonic() + wait, _PAUSE
        while keys:
            reply: Any = yield Ask(lambda sink: client.query_locks(name, keys, sink))
            if reply.free:
                return
            if not wait:
                raise LockConflictError(f"{reply.holder} holds a row of this statement ({', '.join(keys)[:200]})")
            if time.monotonic() >= until:
                raise LockTimeoutError(
                    f"{reply.holder} has held a row of this statement for {wait:g} s ({', '.join(keys)[:200]}): run the local "
                    "transaction again",
                    {"holder": reply.holder},
                )
            yield Pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def before_commit(self, in_doubt: bool) -> None:
        """See `Enlistment.before_commit`."""
        self._check_kept()
        self._lock_rest(frozenset(), True)

    def committed(self) -> None:
        """See `Enlistment.committed`."""

    def rolled_back(self) -> None:
        """See `Enlistment.rolled_back`."""

    def unknown(self, error: BaseException) -> None:
        """See `Enlistment.unknown`."""
