"""What does the second phase of a resource, as the session and the runner see it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from txcoord_proto.errors import TxcoordError


@dataclass(frozen=True, slots=True)
class BranchCommand:
    """One branch of a command.

    Args:
        branch_id: Its id.
        arguments: As they were registered.
    """

    branch_id: int
    arguments: bytes


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the second phase: one per transaction and resource.

    Args:
        xid: The transaction.
        resource: Whose branches.
        commit: Commit or rollback.
        branches: In the order in which they are to be done.
    """

    xid: str
    resource: str
    commit: bool
    branches: tuple[BranchCommand, ...]


class ParkError(TxcoordError):
    """The second phase of this branch needs a person; it is not tried again by itself."""

    code = "PARK"


class UnavailableError(TxcoordError):
    """The resource cannot be reached; nothing was tried."""

    code = "RESOURCE_UNAVAILABLE"
    retryable = True


class Bounded(Protocol):
    """What bounds second phases: the database in which they work."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def connections(self) -> int:
        """How many there may be at a time."""


class Participant(Protocol):
    """Does the second phases of one resource."""

    @property
    def database(self) -> Bounded | None:
        """Where it works; None: nowhere that others work, too. Nobody waits in a queue for another database's second phases."""

    def is_async(self, command: Command) -> bool:
        """Whether `settle` gives something to await for this command, so that it runs in an event loop."""

    def settle(self, command: Command, branch: BranchCommand) -> Awaitable[None] | None:
        """Do the second phase of `branch`; returning means done.

        Raises:
            ParkError: A person has to look at it.
            UnavailableError: The resource cannot be reached.
            Exception: Anything else: it is tried again later.
        """


@runtime_checkable
class BatchParticipant(Protocol):
    """Does the second phases of one resource by whole commands: commits of many transactions at a time, a rollback in one piece.

    Of its commits that gather for the same time one batch is under way at a time, and what comes meanwhile is the next one.
    Rollbacks do not wait for it.
    """

    def gathers(self, command: Command) -> float:
        """Seconds for which a commit waits for others that do, to be one batch with them; 0: somebody waits for it."""

    @property
    def database(self) -> Bounded:
        """See `Participant.database`."""

    def is_async(self, command: Command) -> bool:
        """Whether `commit` and `rollback` give something to await; the same for all commands."""

    def commit(self, commands: Sequence[Command]) -> Awaitable[None] | None:
        """Do the second phases of all branches of these commands; returning means that all are done.

        Raises:
            UnavailableError: The resource cannot be reached.
            Exception: Anything else: nothing is done; of several commands each is tried by itself.
        """

    def rollback(self, command: Command) -> Awaitable[None] | None:
        """Do the second phases of all branches of this command; returning means that all are done, raising that none is.

        Raises:
            ParkError: A person has to look at it.
            UnavailableError: The resource cannot be reached.
            Exception: Anything else: it is tried again later.
        """
