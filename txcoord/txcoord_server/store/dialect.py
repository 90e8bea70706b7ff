"""What differs between databases: one small class each, never an `if` in the logic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any, ClassVar

from sqlalchemy import Connection, Engine

from txcoord_server.domain.effects import StoredOutcome
from txcoord_server.engine.storage import GroupWrite


class Dialect(ABC):
    """Group commits and session locks of one kind of database; `raw` is a connection of its driver."""

    embedded: ClassVar[bool] = False
    """Whether it works in our own process: then a group commit is mostly computing, and a thread has to wait for the disk. Else a
    driver waits for the server in the event loop, and what uses a connection is awaited."""
    batch_cap: ClassVar[int] = 0
    """Messages in one batch on the wire that suit it; 0: any number."""

    def __init__(self, group: str) -> None:
        self.group = group

    @abstractmethod
    def risks(self, connection: Connection) -> list[str]:
        """Settings of the database under which an acknowledged commit can be lost, each with its remedy.

        Raises:
            StoreError: It cannot be a store at all.
        """

    @abstractmethod
    def connect(self, engine: Engine) -> Any:
        """A connection for group commits alone, in a session set up for them."""

    @abstractmethod
    def close(self, raw: Any) -> Awaitable[None] | None:
        """Close it; never raises."""

    @abstractmethod
    def usable(self, raw: Any) -> bool:
        """Whether the connection can take another group commit after one that failed."""

    def busy(self, error: BaseException | None) -> bool:
        """Whether a statement failed since somebody else is writing."""
        return False

    @abstractmethod
    def write(self, raw: Any, write: GroupWrite, locked: bool) -> dict[str, StoredOutcome] | Awaitable[dict[str, StoredOutcome]]:
        """One group commit, saying whether its writer holds the session lock; see `Store.commit` for what it raises."""

    @abstractmethod
    def try_lock(self, raw: Any) -> bool | Awaitable[bool]:
        """Take the leader's session lock if it is free, or is ours already."""

    @abstractmethod
    def unlock(self, raw: Any) -> Awaitable[None] | None:
        """Give the leader's session lock back; does nothing when it is not ours."""
