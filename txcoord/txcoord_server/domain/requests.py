"""What a begin and a registration say."""

from __future__ import annotations

from dataclasses import dataclass

from txcoord_proto.status import BranchType


@dataclass(slots=True)
class NewTransaction:
    """What a begin says.

    Args:
        name: For people, at most 128 characters.
        timeout: Milliseconds until it is rolled back unless decided; 0: the default.
        key: Business key, may be empty.
        traceparent: W3C trace context, may be empty.
        begin_key: Repeating a begin with the same number finds the same transaction; 0: none.
        first_begun_at: Of the first attempt, where this is a retry; 0: this is the first.
    """

    name: str
    timeout: int = 0
    key: str = ""
    traceparent: str = ""
    begin_key: int = 0
    first_begun_at: int = 0


@dataclass(slots=True)
class NewBranch:
    """What a registration says.

    Args:
        id: From the client's block of branch ids.
        type: Kind of the branch.
        resource: Whose processes do its second phase.
        lock_keys: Global locks that it needs, taken all or none.
        arguments: Handed back with the second phase.
        lock_wait: Milliseconds it may wait for its locks; 0: not at all.
        holds_row_locks: Whether it holds row locks meanwhile that it cannot give back.
        done: Whether phase one is done with the registration.
        tell_timeout: Whether the answer says how long the transaction has.
    """

    id: int
    type: BranchType
    resource: str
    lock_keys: tuple[str, ...] = ()
    arguments: bytes = b""
    lock_wait: int = 0
    holds_row_locks: bool = False
    done: bool = False
    tell_timeout: bool = False
