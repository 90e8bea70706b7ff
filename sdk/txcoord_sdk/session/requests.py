"""What is asked of the coordinator, and who hears the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from txcoord_proto.status import BranchType, PhaseOne

Sink: TypeAlias = Callable[[object, BaseException | None], None]
"""Called once, in the session's thread, with the answer or the error."""


@dataclass(frozen=True, slots=True)
class Done:
    """Plain success; of commit and rollback: decided as asked.

    Args:
        settled: Of commit and rollback: whether the second phases are done as well.
    """

    settled: bool


DECIDED = Done(settled=False)
SETTLED = Done(settled=True)


@dataclass(frozen=True, slots=True)
class Registration:
    """A branch to be registered.

    Args:
        type: Kind of the branch.
        resource: Whose processes do its second phase.
        lock_keys: Global locks that it needs.
        arguments: Handed back with the second phase.
        lock_wait: Seconds that it may wait for its locks.
        branch_id: Taken for it before; 0: it takes one itself.
        done: Whether its phase one is done with the registration.
        hear_deadline: Told the transaction's deadline by `time.monotonic` before the answer, in the session's thread; None: it is
            known here. It has none if it is not told.
    """

    type: BranchType
    resource: str
    lock_keys: tuple[str, ...] = ()
    arguments: bytes = b""
    lock_wait: float = 0.0
    branch_id: int = 0
    done: bool = False
    hear_deadline: Callable[[float], None] | None = None


class Beginning:
    """What a transaction begins with, and the XID once it has one.

    Owned by the session's thread until `xid` is set; from then on it does not change.
    """

    __slots__ = ("first_begun_at", "key", "name", "timeout_ms", "traceparent", "waiting", "xid")

    def __init__(self, name: str, timeout_ms: int, key: str = "", traceparent: str = "", first_begun_at: int = 0) -> None:
        self.name = name
        self.timeout_ms = timeout_ms
        self.key = key
        self.traceparent = traceparent
        self.first_begun_at = first_begun_at
        self.xid = ""
        self.waiting: list[Callable[[], None]] | None = None
        """Set while the begin is under way: what continues when it has been answered."""


@dataclass(frozen=True, slots=True)
class Report:
    """A phase-one report that is not yet known to be durable."""

    xid: str
    result: PhaseOne
    error: str
