"""What the engine asks of a store, in values only.

One call of `commit` is one database transaction that begins with the fence: an UPDATE of the group's row that succeeds only for
the leader of the present epoch and only for the next commit number. Nothing is durable before it returns, and its failures are
three: certainly not written (`StoreUnavailableError`), not known (`UnknownCommitError`), and no longer the leader
(`FencedError`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from txcoord_proto.errors import StoreUnavailableError, TxcoordError
from txcoord_proto.xid import Xid

from txcoord_server.domain.effects import StoredOutcome
from txcoord_server.domain.tokens import Token

Row = tuple[Any, ...]

BRANCH_ID_RESERVE = 1_000_000
"""How many branch ids a takeover reserves, and a group commit when half of them are granted."""


class FencedError(TxcoordError):
    """Another node leads, or leads again: nothing was written."""

    code = "FENCED"


class StoreBusyError(StoreUnavailableError):
    """Somebody else is writing, and has not finished in time: on SQLite one writer keeps all others out."""

    code = "STORE_BUSY"


class UnknownCommitError(TxcoordError):
    """The connection ended while COMMIT was under way: it may have happened or not."""

    code = "COMMIT_UNKNOWN"
    retryable = True


NEW_GLOBAL = (
    "xid", "grp", "status", "decision", "reason", "cause", "name", "service", "business_key", "traceparent", "begin_key",
    "begun_at", "first_begun_at", "deadline_at", "decided_at", "settled_at", "version", "once_parked", "forced", "purge_at",
    "commit_seq", "settled_branches",
)  # fmt: skip
"""Columns of a new row of txc_global, in the order of `GroupWrite.new_globals`."""

CHANGED_GLOBAL = (
    "status", "decision", "reason", "cause", "decided_at", "settled_at", "version", "once_parked", "forced", "purge_at",
    "commit_seq", "settled_branches",
)  # fmt: skip
"""Columns that change; a row of `GroupWrite.changed_globals` is (xid, status in the row before, *these)."""

NEW_BRANCH = (
    "xid", "id", "type", "resource", "status", "lock_keys", "arguments", "registered_at", "reported_at", "first_command_at",
    "settled_at", "next_try_at", "attempts", "executor", "error_code", "error",
)  # fmt: skip
"""Columns of a new row of txc_branch."""

AUDIT = ("xid", "version", "act", "at", "actor", "reason")
"""Columns of a row of txc_audit."""

CHANGED_BRANCH = (
    "status", "reported_at", "first_command_at", "settled_at", "next_try_at", "attempts", "executor", "error_code", "error",
)  # fmt: skip
"""Columns that change; a row of `GroupWrite.changed_branches` is (xid, id, *these)."""


@dataclass(frozen=True, slots=True)
class PurgeRange:
    """Committed rows of XIDs from `first` to `last`, both included, whose retention is over.

    Args:
        first, last: XIDs.
        settled_before: What settled later stays.
        keyed: Whether it is about those with a business key; else about those that leave by the common rule.
    """

    first: str
    last: str
    settled_before: int
    keyed: bool = False

    def __len__(self) -> int:
        """XIDs in it, those that never had a row included."""
        return Xid.parse(self.last).sequence - Xid.parse(self.first).sequence + 1


@dataclass(slots=True)
class GroupWrite:
    """What one group commit writes and asks.

    Attributes:
        epoch: Of the writer.
        commit_seq: Number of this commit; the row must hold the one before.
        branch_ids: Branch ids below this have been granted once this commit is durable.
        waiting: How many answers wait for it.
        new_globals, changed_globals, new_branches, changed_branches: Rows, columns as named above.
        purge_ranges: Rows that leave by the common rule, or beyond the newest ones with a business key.
        purge_xids: Further rows that leave.
        purged: The highest purged sequence, by epoch.
        audit: New rows of txc_audit.
        asked: XIDs whose outcome the store is to look up, after the writes.
    """

    epoch: int
    commit_seq: int
    branch_ids: int
    waiting: int = 0
    new_globals: list[Row] = field(default_factory=list)
    changed_globals: list[Row] = field(default_factory=list)
    new_branches: list[Row] = field(default_factory=list)
    changed_branches: list[Row] = field(default_factory=list)
    purge_ranges: list[PurgeRange] = field(default_factory=list)
    purge_xids: list[str] = field(default_factory=list)
    purged: dict[int, int] = field(default_factory=dict)
    audit: list[Row] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class GroupState:
    """The group's row as a standby sees it.

    Args:
        holder: Node that leads, empty when nobody ever has.
        address: Where clients reach it.
        epoch: Its epoch.
        age: Milliseconds since its last group commit, by the database clock.
        gone: Whether the leader's process is gone: it held the session lock, and the lock was free and is ours now.
    """

    holder: str
    address: str
    epoch: int
    age: int
    gone: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """What a takeover grants.

    Args:
        epoch: The new epoch.
        commit_seq: Number of the last group commit.
        branch_ids: First branch id that may be granted.
        branch_ids_end: One past the last that may be granted before a group commit raises it.
        now: The database clock at the takeover, milliseconds since 1970.
        outage: Milliseconds since the group commit before it: deadlines move by as much.
    """

    epoch: int
    commit_seq: int
    branch_ids: int
    branch_ids_end: int
    now: int
    outage: int


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Which transactions a listing wants; no statuses: those that are not finished."""

    statuses: tuple[str, ...] = ()
    service: str = ""
    key: str = ""
    limit: int = 50
    after: str = ""


class Store(Protocol):
    """A database that keeps one or several groups. All times are milliseconds since 1970 by its clock."""

    batch_cap: int
    """Messages in one batch on the wire that suit this store; 0: any number."""

    async def start(self) -> None:
        """Connect, check the durability settings, create or migrate the schema.

        Raises:
            StoreError: It is not fit to be used.
            StoreUnavailableError: It cannot be reached.
        """

    async def look(self) -> GroupState:
        """Who leads, for a node that does not."""

    async def take_over(self, seen_epoch: int, min_age: int, how: str) -> Lease | None:
        """Become the leader if the row still says `seen_epoch` and is `min_age` ms old or older; None: another was faster."""

    async def commit(self, write: GroupWrite) -> dict[str, StoredOutcome]:
        """Write a group; returns what is stored of the asked XIDs.

        Raises:
            FencedError: This node no longer leads.
            UnknownCommitError: Whether it was written is not known.
            StoreUnavailableError: Certainly not written; the same group may be tried again.
        """

    def unfinished(self) -> AsyncIterator[tuple[Sequence[Row], Sequence[Row]]]:
        """Stream what is not finished, in chunks of (rows of txc_global, rows of all their branches), columns NEW_*."""

    async def epochs(self) -> dict[int, int]:
        """All epochs of the group with their highest purged sequence."""

    async def purgeable(self, now: int, committed_before: int, below: str, limit: int) -> list[str]:
        """XIDs whose retention is over.

        Their `purge_at` has passed, or they were committed by the common rule before `committed_before` in an earlier epoch
        (their XIDs are smaller than `below`; empty: those are not looked for, which takes reading through all that is kept).
        """

    async def older(self, below: str, newest: int) -> str:
        """An XID: the committed transactions smaller than it are not among the `newest` of those smaller than `below`.

        Only what leaves by the common rule counts; empty: there are no more than `newest`.
        """

    async def find(self, xid: str) -> tuple[Row, Sequence[Row]] | None:
        """One transaction with its branches, finished or not."""

    async def listing(self, wanted: ListFilter) -> tuple[Sequence[Row], Sequence[Row]]:
        """Rows of txc_global, newest first, and the rows of all their branches; columns NEW_*."""

    async def audit(self, xid: str) -> list[Row]:
        """An operator's acts on a transaction, the oldest first; columns AUDIT."""

    async def tokens(self) -> list[Token]:
        """All tokens."""

    async def add_token(self, token: Token) -> None:
        """Keep a new token."""

    async def drop_token(self, name: str) -> int:
        """Forget the tokens of that name; returns how many there were."""

    async def release(self) -> None:
        """Give the leader's session lock back, so that a standby need not wait for the lease to run out."""

    async def stop(self) -> None:
        """Close all connections."""
