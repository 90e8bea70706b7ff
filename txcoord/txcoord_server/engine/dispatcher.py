"""Brings second phases to processes that can do them.

A resource has the processes that serve it, a queue of commands that are due and a heap of those that wait for their next try. Any
process that serves the resource will do; each has a bounded number of its commands in flight, so neither side drowns, and one
resource whose database hangs does not hold up another in the same process. A resource that answers UNAVAILABLE is probed, at most
`probes` times a second however many commands wait, and its first success wakes the rest. A branch that fails by itself backs off
alone and holds nobody up; only of a rollback those that wait are tried again in one command, since they may have written the same
rows one after the other. And an XA branch is first sent to the process that has prepared it.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from operator import attrgetter

from txcoord_proto.status import BranchStatus, BranchType, CommandResult, Decision

from txcoord_server.domain.retry import Schedule
from txcoord_server.domain.session import Branch, Transaction
from txcoord_server.domain.settlement import Settler
from txcoord_server.domain.transitions import ENDED_BRANCH
from txcoord_server.engine.connection import Connection, Work
from txcoord_server.engine.counters import Counters
from txcoord_server.engine.ports import Rng

log = logging.getLogger(__name__)

_BURST = 100
_NEXT_TRY = attrgetter("next_try_at")
_NOT_DUE = ENDED_BRANCH | {BranchStatus.PARKED}
"""A parked branch waits for an operator, also over a restart."""


@dataclass(frozen=True, slots=True)
class DispatchConfig:
    """Times in milliseconds.

    Attributes:
        window: Commands of one resource in flight to one process.
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

    __slots__ = ("connections", "delayed", "in_flight", "name", "next_try", "ready", "sent", "turn", "unavailable")

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections: list[Connection] = []
        self.sent: dict[Connection, dict[Work, None]] = {}
        """Commands sent and not answered, by process, the oldest first."""
        self.in_flight = 0
        """Their number."""
        self.ready: deque[Work] = deque()
        self.delayed: list[tuple[int, int, Work]] = []
        self.turn = 0
        self.unavailable = False
        self.next_try = 0
        """Before this no repeated try is sent."""

    @property
    def waiting(self) -> int:
        """Commands that are due or wait for their next try."""
        return len(self.ready) + len(self.delayed)

    @property
    def branches_waiting(self) -> int:
        """Branches whose second phase waits to be sent: exact, and as slow as there are many."""
        return sum(len(work.branches) for work in self.ready) + sum(len(work.branches) for _, _, work in self.delayed)


class Dispatcher:
    """Sends commands and takes their answers.

    Args:
        settler: The domain's steps of the second phase.
        config: Limits and times.
        rng: For jitter.
        now: The store's clock, milliseconds since 1970.
        counters: Counts for metrics.
    """

    def __init__(self, settler: Settler, config: DispatchConfig, rng: Rng, now: Callable[[], int], counters: Counters) -> None:
        self._settler = settler
        self._config = config
        self._rng = rng
        self._now = now
        self._pause = 1000 // config.probes
        self._order = count()
        self._counters = counters
        self.resources: dict[str, Resource] = {}

    # ------------------------------------------------------------ processes

    def serve(self, connection: Connection, names: Iterable[str]) -> None:
        """From now on `connection` does the second phases of these resources."""
        for name in names:
            if name in connection.resources:
                continue
            connection.resources.add(name)
            resource = self._resource(name)
            resource.connections.append(connection)
            resource.sent[connection] = {}
            self._available(resource)

    def detach(self, connection: Connection) -> None:
        """The process is gone: what it had not answered goes to others, first in the queue."""
        for name in connection.resources:
            resource = self.resources[name]
            resource.connections.remove(connection)
            for work in reversed(resource.sent.pop(connection)):
                work.connection = None
                resource.in_flight -= 1
                resource.ready.appendleft(work)
            self._pump(resource)
            if not (resource.connections or resource.ready or resource.delayed):
                del self.resources[name]

    # ------------------------------------------------------------ commands

    def dispatch(self, transaction: Transaction) -> None:
        """Start the second phase of everything in a decided transaction that is not under way."""
        committed = transaction.decision is Decision.COMMIT
        works: dict[str, Work] = {}
        for branch in transaction.branches if committed else reversed(transaction.branches):
            if branch.work is None and branch.status not in _NOT_DUE:
                work = works.get(branch.resource)
                if work is None:
                    work = works[branch.resource] = Work(transaction, branch.resource, [])
                work.branches.append(branch)
                branch.work = work
        now = self._now()
        for name, work in works.items():
            resource = self._resource(name)
            due = min(map(_NEXT_TRY, work.branches))
            if due > now:
                heapq.heappush(resource.delayed, (due, next(self._order), work))
            else:
                resource.ready.append(work)
                self._pump(resource)

    def resume(self, transaction: Transaction) -> None:
        """An operator acted: what waits for its next try is due, and what he declared done is not asked for any more."""
        for branch in transaction.branches:
            if isinstance(branch.work, Work) and (branch.work.connection is None or branch.status in ENDED_BRANCH):
                self._answered(branch)  # a command without branches is passed over where it waits
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
        xid = {"xid": branch.transaction.xid}
        if result is CommandResult.PARK:
            log.error("branch %d on %s is parked, a person is needed: %s: %s", branch.id, resource.name, code, error, extra=xid)
            self._settler.park(branch, code, error)
        elif result is CommandResult.UNAVAILABLE:
            if not resource.unavailable:
                log.warning("%s is unavailable and is probed: %s: %s", resource.name, code, error, extra=xid)
            resource.unavailable = True
            self._back_off(resource, branch, code, error)
        else:
            self._back_off(resource, branch, code, error)
        self._pump(resource)

    def look_for_overdue(self, transaction: Transaction) -> None:
        """A decided transaction was loaded from the store: some of its branches may have failed too often already."""
        alarm = self._config.schedule.alarm
        for branch in transaction.branches:
            if branch.attempts >= alarm and branch.status not in ENDED_BRANCH and branch.status is not BranchStatus.PARKED:
                self._settler.overdue(branch)

    def tick(self) -> None:
        """Send what has become due, and send again what nobody answered."""
        now = self._now()
        for resource in self.resources.values():
            for connection, sent in resource.sent.items():
                self._expire(resource, connection, sent, now)
            if resource.delayed or resource.ready:
                self._pump(resource)

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
        resource = self.resources[work.resource]
        if not work.branches and work.connection is not None:
            del resource.sent[work.connection][work]
            resource.in_flight -= 1
        return resource

    def _back_off(self, resource: Resource, branch: Branch, code: str, error: str) -> None:
        schedule = self._config.schedule
        due = self._now() + schedule.delay(branch.attempts, self._rng.random())
        # The first failure and the one that makes it overdue are worth a line each, the others are as many as there are tries.
        level = logging.WARNING if branch.attempts in (1, schedule.alarm) and not resource.unavailable else logging.DEBUG
        log.log(
            level, "second phase of branch %d on %s failed %d times, last with %s: %s", branch.id, resource.name,
            branch.attempts, code, error, extra={"xid": branch.transaction.xid},
        )  # fmt: skip
        self._settler.failed(branch, code, error, due)
        if branch.attempts >= schedule.alarm:
            self._settler.overdue(branch)
        branch.work = work = Work(branch.transaction, branch.resource, [branch])
        heapq.heappush(resource.delayed, (due, next(self._order), work))

    def _available(self, resource: Resource) -> None:
        """A process came, or the first success after a failure: everything that waits is due."""
        if resource.unavailable:
            resource.unavailable = False
            log.info("%s is available again, %d second phases wait for it", resource.name, resource.waiting)
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
            if self._has_room(connection, resource.name):
                return connection
        return None

    def _has_room(self, connection: Connection, name: str) -> bool:
        return len(self.resources[name].sent[connection]) < self._config.window and not connection.closed

    def _home(self, work: Work) -> Connection | None:
        """The process that has prepared an XA branch of the command; None: any process will do, this time.

        On MariaDB nobody else can end one while the session that has prepared it lives, and those know what they have kept. Tries
        go round, since branches of one command may have been prepared by several processes, and one of these may be unable.
        """
        homes = {branch.registrant: None for branch in work.branches if branch.type is BranchType.XA and branch.registrant}
        if not homes:
            return None
        name = [*homes, ""][work.branches[0].attempts % (len(homes) + 1)]
        return next((connection for connection in self.resources[work.resource].connections if connection.name == name), None)

    def _send(self, connection: Connection, work: Work) -> None:
        if not work.branches:
            return
        now = self._now()
        if work.branches[0].attempts and work.transaction.decision is Decision.ROLLBACK:
            self._gather(work)
        home = self._home(work)
        if home is not None and self._has_room(home, work.resource):
            connection = home
        work.size = 0
        for branch in work.branches:
            work.size += len(branch.arguments)
            if branch.attempts:
                self._counters.retries += 1
            branch.attempts += 1
            branch.executor = connection.name
            branch.next_try_at = 0
            if not branch.first_command_at:
                branch.first_command_at = now
        work.connection = connection
        work.sent_at = now
        resource = self.resources[work.resource]
        resource.in_flight += 1
        resource.sent[connection][work] = None
        connection.command(work)

    @staticmethod
    def _gather(work: Work) -> None:
        """Have a command name all branches of its transaction on its resource that wait, be they due or not."""
        alike = []
        for branch in reversed(work.transaction.branches):
            other = branch.work
            if isinstance(other, Work) and other.connection is None and other.resource == work.resource:
                alike.append(branch)
                branch.work = work
                other.branches = []  # it is passed over where it waits
        work.branches = alike

    def _expire(self, resource: Resource, connection: Connection, sent: dict[Work, None], now: int) -> None:
        """Commands that were not answered in time: the next process gets them."""
        late = now - self._config.answer_timeout
        while sent:
            work = next(iter(sent))
            if work.sent_at > late:
                return
            for branch in list(work.branches):
                self._answered(branch)
                self._back_off(resource, branch, "NO_ANSWER", f"{connection.name} did not answer in time")
