"""What waits to be sent to one client process.

Frequent answers gather in columns, the rare ones as objects; while one batch is being written the next gathers. A client that
stops reading does not grow the coordinator: past a bound on what is queued its stream is ended, and it finds everything again
when it comes back.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from txcoord_server.domain.answers import OK, SETTLED, Answer, Begun, Reported
from txcoord_server.domain.session import Branch, Transaction

MAX_QUEUED = 50_000
_EVENT = 4
"""What an answer that is an object counts, beside those that are a number in a column."""
MAX_BYTES = 2 << 20
"""Of the arguments in one batch of commands; one that is larger goes alone."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is at the other end.

    Args:
        service: Name of its service.
        name: What the audit calls it.
        resources: Shell patterns of the resources it may serve and register for.
        operator: Whether it may retry and force.
    """

    service: str
    name: str
    resources: tuple[str, ...] = ("*",)
    operator: bool = False

    def covers(self, resource: str) -> bool:
        """Whether one of its patterns matches `resource`."""
        return any(fnmatchcase(resource, pattern) for pattern in self.resources)


class Work:
    """One command of the second phase: branches of one transaction on one resource."""

    __slots__ = ("branches", "connection", "resource", "sent_at", "size", "transaction")

    def __init__(self, transaction: Transaction, resource: str, branches: list[Branch]) -> None:
        self.transaction = transaction
        self.resource = resource
        self.branches = branches
        self.connection: Connection | None = None
        self.sent_at = 0
        self.size = 0
        """Bytes of arguments when it was sent last."""


@dataclass(slots=True)
class Outgoing:
    """Contents of one batch to a client."""

    ok: list[int] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    begun_xids: list[str] = field(default_factory=list)
    reported: list[int] = field(default_factory=list)
    events: list[tuple[int, object]] = field(default_factory=list)
    commands: list[Work] = field(default_factory=list)


class Connection:
    """One client process's stream, seen from the engine.

    Args:
        principal: Who it is.
        instance: Which start of that process, for `executor` columns.
    """

    def __init__(self, principal: Principal, instance: str) -> None:
        self.principal = principal
        self.name = instance
        self.resources: set[str] = set()
        self._allowed: set[str] = set()
        self.closed = False
        self.overflowed = asyncio.Event()
        """Set when the client does not read what is sent to it: it gets nothing any more."""
        self._outgoing = Outgoing()
        self._queued = 0
        self._weight = 0
        self._bytes = 0
        self.sendable = asyncio.Event()
        """Set while something is queued, and when the stream is to end."""

    def may(self, resource: str) -> bool:
        """Whether the principal may register for `resource` and settle it."""
        if resource in self._allowed:
            return True
        if not self.principal.covers(resource):
            return False
        self._allowed.add(resource)
        return True

    def answer(self, request_id: int, answer: Answer) -> None:
        """Queue the answer to a request of this client."""
        out = self._outgoing
        if answer is OK:
            out.ok.append(request_id)
        elif answer is SETTLED:
            out.settled.append(request_id)
        elif type(answer) is Reported:
            out.reported.append(answer.branch_id)
        elif type(answer) is Begun:
            out.begun.append(request_id)
            out.begun_xids.append(answer.xid)
        else:
            out.events.append((request_id, answer))
            self._weight += _EVENT
        self._added()

    def reply(self, request_id: int, event: object) -> None:
        """Queue an answer that is no answer of the domain; with request id 0 it answers nothing."""
        self._outgoing.events.append((request_id, event))
        self._weight += _EVENT
        self._added()

    def command(self, work: Work) -> None:
        """Queue a command of the second phase."""
        self._outgoing.commands.append(work)
        self._bytes += work.size
        self._added()

    def _added(self) -> None:
        self._queued += 1
        if self._queued == 1:
            self.sendable.set()
        elif self._queued + self._weight > MAX_QUEUED:
            self._forget()
            self.overflowed.set()
            self.close()

    def _forget(self) -> None:
        self._outgoing, self._queued, self._weight, self._bytes = Outgoing(), 0, 0, 0
        if not self.closed:
            self.sendable.clear()

    def close(self) -> None:
        """End it: the writer stops once it has seen this."""
        self.closed = True
        self.sendable.set()

    def take(self, cap: int) -> Outgoing | None:
        """Once it is sendable: what to send next, at most `cap` of each kind (0: any number) and MAX_BYTES of commands.

        None: the stream ends.
        """
        if not self._queued:
            assert self.closed, "or a stream would end that is not to end"
            return None
        out = self._outgoing
        if self._bytes <= MAX_BYTES and (not cap or self._queued <= cap):
            self._forget()
            return out
        cap = cap or self._queued
        commands = self._fitting(cap)
        part = Outgoing(
            out.ok[:cap], out.settled[:cap], out.begun[:cap], out.begun_xids[:cap], out.reported[:cap], out.events[:cap], commands
        )
        columns: tuple[list[object], ...] = (
            out.ok, out.settled, out.begun, out.begun_xids, out.reported, out.events
        )  # type: ignore[assignment]  # fmt: skip
        for column in columns:
            del column[:cap]
        del out.commands[: len(commands)]
        self._queued = sum(len(column) for column in columns) - len(out.begun_xids) + len(out.commands)
        self._weight = _EVENT * len(out.events)
        self._bytes -= sum(work.size for work in commands)
        if not self._queued:
            self._forget()
        return part

    def _fitting(self, cap: int) -> list[Work]:
        """The first of the queued commands, at most `cap`, that fit into a batch."""
        size = 0
        for place, work in enumerate(self._outgoing.commands[:cap]):
            size += work.size
            if place and size > MAX_BYTES:
                return self._outgoing.commands[:place]
        return self._outgoing.commands[:cap]
