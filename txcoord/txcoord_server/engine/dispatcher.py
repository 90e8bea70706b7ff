"""Brings second phases to processes that can do them.

A resource has the processes that serve it, a queue of commands that are due and a heap of those that wait for their next try. Any
process that serves the resource will do; each has a bounded number of commands in flight, so neither side drowns. A resource that
answers UNAVAILABLE is probed, at most `probes` times a second however many commands wait, and its first success wakes the rest. A
branch that fails by itself backs off alone and holds nobody up.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

from txcoord_proto.status import CommandResult, Decision

from txcoord_server.domain.retry import Schedule
from txcoord_server.domain.session import Branch, Transaction
from txcoord_server.domain.settlement import Settler
from txcoord_server.domain.transitions import ENDED_BRANCH
from txcoord_server.engine.connection import Connection, Work
from txcoord_server.engine.ports import Rng

_BURST = 100


@dataclass(frozen=True, slots=True)
class DispatchConfig:
    """Times in milliseconds.

    Attributes:
        window: Commands in flight to one process.
        probes: Tries a second on a resource that is unavailable, and repeated tries a second on any resource.
        answer_timeout: A command without an answer for so long is sent again.
        schedule: Back-off of branches that failed.
    """

    window: int = 512
    probes: int = 100
    answer_timeout: int = 30_000
    schedule: Schedule = field(default_factory=Schedule)


class Resource:
    """Who serves a resource and what waits for it."""

    __slots__ = ("connections", "delayed", "name", "next_try", "ready", "turn", "unavailable")

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections: list[Connection] = []
        self.ready: deque[Work] = deque()
        self.delayed: list[tuple[int, int, Work]] = []
        self.turn = 0
        self.unavailable = False
        self.next_try = 0
        """Before this no repeated try is sent."""


class Dispatcher:
    """Sends commands and takes their answers.

    Args:
        settler: The domain's steps of the second phase.
        config: Limits and times.
        rng: For jitter.
        now: The store's clock, milliseconds since 1970.
    """

    def __init__(self, settler: Settler, config: DispatchConfig, rng: Rng, now: Callable[[], int]) -> None:
        self._settler = settler
        self._config = config
        self._rng = rng
        self._now = now
        self._pause = 1000 // config.probes
        self._order = count()
        self.resources: dict[str, Resource] = {}
        self.retries = 0
        """Tries that were not the first, in all."""

    # ------------------------------------------------------------ processes

    def serve(self, connection: Connection, names: Iterable[str]) -> None:
        """From now on `connection` does the second phases of these resources."""
        for name in names:
            if name in connection.resources:
                continue
            connection.resources.add(name)
            resource = self._resource(name)
            resource.connections.append(connection)
            self._available(resource)

    def detach(self, connection: Connection) -> None:
        """The process is gone: what it had not answered goes to others, first in the queue."""
        for name in connection.resources:
            self.resources[name].connections.remove(connection)
        for work in reversed(connection.in_flight):
            work.connection = None
            self._resource(work.resource).ready.appendleft(work)
        connection.in_flight.clear()
        for name in connection.resources:
            self._pump(self.resources[name])

    # ------------------------------------------------------------ commands

    def dispatch(self, transaction: Transaction) -> None:
        """Start the second phase of everything in a decided transaction that is not under way."""
        waiting = [b for b in transaction.branches if b.work is None and b.status not in ENDED_BRANCH]
        if transaction.decision is Decision.ROLLBACK:
            waiting.reverse()
        by_resource: dict[str, list[Branch]] = {}
        for branch in waiting:
            by_resource.setdefault(branch.resource, []).append(branch)
        now = self._now()
        for name, branches in by_resource.items():
            work = Work(transaction, name, branches)
            for branch in branches:
                branch.work = work
            resource = self._resource(name)
            due = min(branch.next_try_at for branch in branches)
            if due > now:
                heapq.heappush(resource.delayed, (due, next(self._order), work))
            else:
                resource.ready.append(work)
                self._pump(resource)

    def resume(self, transaction: Transaction) -> None:
        """An operator wants everything that is not settled tried again, now."""
        for branch in transaction.branches:
            if isinstance(branch.work, Work) and branch.work.connection is None:
                branch.work.branches.clear()  # where it waits it is passed over
                branch.work = None
        self.dispatch(transaction)

    def done(self, branch: Branch) -> None:
        """The branch's second phase succeeded."""
        self._settler.settle(branch, self._now())
        resource = self._answered(branch)
        if resource is None:
            return
        if resource.unavailable:
            self._available(resource)
        elif resource.ready:
            self._pump(resource)

    def failed(self, branch: Branch, result: CommandResult, code: str, error: str) -> None:
        """The branch's second phase did not succeed."""
        resource = self._answered(branch)
        if resource is None:
            return
        if result is CommandResult.PARK:
            self._settler.park(branch, code, error)
        else:
            resource.unavailable = resource.unavailable or result is CommandResult.UNAVAILABLE
            self._back_off(resource, branch, code, error)
        self._pump(resource)

    def tick(self) -> None:
        """Send what has become due, and send again what nobody answered."""
        now = self._now()
        for connection in {c for r in self.resources.values() for c in r.connections}:
            self._expire(connection, now)
        for resource in self.resources.values():
            if resource.delayed or resource.ready:
                self._pump(resource)

    def waiting(self, resource: Resource) -> int:
        """Branches whose second phase waits to be sent."""
        works = [*resource.ready, *(work for _, _, work in resource.delayed)]
        return sum(len(work.branches) for work in works)

    # ------------------------------------------------------------ inside

    def _resource(self, name: str) -> Resource:
        resource = self.resources.get(name)
        if resource is None:
            resource = self.resources[name] = Resource(name)
        return resource

    def _answered(self, branch: Branch) -> Resource | None:
        """Take a branch out of its command; None when it was in none, as with an answer that came twice."""
        work = branch.work
        if not isinstance(work, Work):
            return None
        branch.work = None
        work.branches.remove(branch)
        if not work.branches and work.connection is not None:
            work.connection.in_flight.pop(work, None)
        return self.resources[work.resource]

    def _back_off(self, resource: Resource, branch: Branch, code: str, error: str) -> None:
        due = self._now() + self._config.schedule.delay(branch.attempts, self._rng.random())
        self._settler.failed(branch, code, error, due)
        branch.work = work = Work(branch.transaction, branch.resource, [branch])
        heapq.heappush(resource.delayed, (due, next(self._order), work))

    def _available(self, resource: Resource) -> None:
        """A process came, or the first success after a failure: everything that waits is due."""
        if resource.unavailable:
            resource.unavailable = False
            resource.ready.extend(work for _, _, work in sorted(resource.delayed))
            resource.delayed.clear()
        self._pump(resource)

    def _pump(self, resource: Resource) -> None:
        """Send as much as is due and may be sent."""
        if not resource.connections:
            return
        if resource.unavailable:
            self._probe(resource)
            return
        if resource.delayed:
            self._retry_due(resource)
        ready = resource.ready
        while ready:
            connection = self._free(resource)
            if connection is None:
                return
            self._send(connection, ready.popleft())

    def _probe(self, resource: Resource) -> None:
        """One try on an unavailable resource, if it is time for one."""
        now = self._now()
        if now < resource.next_try or (connection := self._free(resource)) is None:
            return
        work = next(self._due(resource, now), None)
        if work is None and resource.ready:
            work = resource.ready.popleft()
        if work is not None:
            resource.next_try = now + self._pause
            self._send(connection, work)

    def _retry_due(self, resource: Resource) -> None:
        """Repeated tries whose time has come, not faster than allowed."""
        now = self._now()
        while now >= resource.next_try:
            work = next(self._due(resource, now), None)
            if work is None:
                return
            resource.next_try = max(resource.next_try, now - _BURST) + self._pause
            resource.ready.append(work)

    @staticmethod
    def _due(resource: Resource, now: int) -> Iterator[Work]:
        while resource.delayed and resource.delayed[0][0] <= now:
            work = heapq.heappop(resource.delayed)[2]
            if work.branches:
                yield work

    def _free(self, resource: Resource) -> Connection | None:
        connections = resource.connections
        for _ in connections:
            resource.turn = (resource.turn + 1) % len(connections)
            connection = connections[resource.turn]
            if len(connection.in_flight) < self._config.window and not connection.closed:
                return connection
        return None

    def _send(self, connection: Connection, work: Work) -> None:
        if not work.branches:
            return
        now = self._now()
        for branch in work.branches:
            if branch.attempts:
                self.retries += 1
            branch.attempts += 1
            branch.executor = connection.name
            branch.next_try_at = 0
            if not branch.first_command_at:
                branch.first_command_at = now
        work.connection = connection
        work.sent_at = now
        connection.in_flight[work] = None
        connection.command(work)

    def _expire(self, connection: Connection, now: int) -> None:
        """Commands that were not answered in time: the next process gets them."""
        late = now - self._config.answer_timeout
        while connection.in_flight:
            work = next(iter(connection.in_flight))
            if work.sent_at > late:
                return
            del connection.in_flight[work]
            work.connection = None
            resource = self._resource(work.resource)
            for branch in list(work.branches):
                work.branches.remove(branch)
                self._back_off(resource, branch, "NO_ANSWER", f"{connection.name} did not answer in time")
