"""Global locks: who holds which row of which resource, who waits for it, and whose wait would never end.

A key belongs to one global transaction at a time. Waiters of a key queue first in, first out, and are granted by push when the
holder leaves. Before somebody is queued, the wait-for graph over transactions is searched: where the new wait closes a circle,
the member that began last (its first attempt counts) is the victim, so that the oldest always gets through (wound-wait's order,
see Rosenkrantz, Stearns and Lewis 1978). A waiter who holds row locks in its database that it cannot give back fails at once
against a holder that is rolling back, since that rollback needs those very rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from txcoord_proto.status import Decision

from txcoord_server.domain.session import Transaction


@dataclass(frozen=True, slots=True)
class Granted:
    """All keys belong to the asking transaction now."""


GRANTED = Granted()


@dataclass(frozen=True, slots=True)
class Conflict:
    """A key is held by another transaction, and the caller would not wait."""

    key: str
    holder: Transaction


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits for its keys."""

    request: LockRequest


@dataclass(frozen=True, slots=True)
class Deadlock:
    """Waiting would close a circle; `victim` has to give way, perhaps the asking transaction itself."""

    victim: Transaction
    key: str
    holder: Transaction


LockOutcome: TypeAlias = "Granted | Conflict | Queued | Deadlock"


@dataclass(frozen=True, slots=True)
class Entry:
    """A held key, with those who wait for it in their order."""

    resource: str
    key: str
    holder: Transaction
    waiters: tuple[Transaction, ...]


class LockRequest:
    """Keys of one resource that a transaction asks for, granted together or not at all."""

    __slots__ = ("holds_row_locks", "key", "keys", "resource", "transaction", "until")

    def __init__(
        self,
        transaction: Transaction,
        resource: str,
        keys: tuple[str, ...],
        until: int = 0,
        holds_row_locks: bool = False,
    ) -> None:
        self.transaction = transaction
        self.resource = resource
        self.keys = keys
        self.until = until
        """When the wait ends, milliseconds by the store's clock; 0: no wait."""
        self.holds_row_locks = holds_row_locks
        """Whether its participant holds row locks in the database that it cannot give back."""
        self.key: str | None = None
        """The first of its keys that is not free; None: it does not wait."""


class LockTable:
    """All global locks of a group of coordinators."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, Transaction]] = {}
        self._queues: dict[tuple[str, str], deque[LockRequest]] = {}
        self._waiting: dict[Transaction, list[LockRequest]] = {}
        self._victims: dict[Transaction, None] = {}
        self.count = 0
        """Number of keys held."""
        self.waiters = 0
        """Number of requests that wait."""

    def acquire(self, request: LockRequest) -> LockOutcome:
        """Take all keys of `request`, or queue for the first that is not free, or say why not.

        Taking a key again that the transaction holds already succeeds. Nobody overtakes a queue, since a key with waiters is
        always held by somebody.
        """
        blocked = self._blocked(request)
        if blocked is None:
            self._take(request)
            return GRANTED
        key, holder = blocked
        hopeless = request.holds_row_locks and holder.decision is Decision.ROLLBACK
        if hopeless or not request.until:
            return Conflict(key, holder)
        victim = self._victim(request, key, holder)
        if victim is not None:
            return Deadlock(victim, key, holder)
        self._enqueue(request, key)
        return Queued(request)

    def hold(self, transaction: Transaction, resource: str, keys: Iterable[str]) -> None:
        """Enter locks that are known to be held, when the state is loaded from the store."""
        held = self._held.setdefault(resource, {})
        before = len(held)
        for key in keys:
            held.setdefault(key, transaction)
        self.count += len(held) - before

    def release(self, transaction: Transaction, resource: str, keys: Iterable[str]) -> list[LockRequest]:
        """Give keys back; returns the waiting requests that hold all of theirs now, in the order of their grants."""
        held = self._held.get(resource)
        if held is None:
            return []
        granted: list[LockRequest] = []
        for key in keys:
            if held.get(key) is transaction:
                del held[key]
                self.count -= 1
                if self._queues:
                    granted += self._advance(resource, key)
        if not held:
            del self._held[resource]
        return granted

    def withdraw(self, request: LockRequest) -> list[LockRequest]:
        """End a wait (time-out, victim, connection lost); returns requests behind it that are granted thereby."""
        if request.key is None:
            return []
        key = request.key
        self._leave(request, key)
        return self._advance(request.resource, key)

    def waits(self, transaction: Transaction) -> list[LockRequest]:
        """The requests with which `transaction` waits."""
        return list(self._waiting.get(transaction, ()))

    def take_victims(self) -> list[Transaction]:
        """The youngest members of circles that were closed by a waiter's going on to another of its keys."""
        victims, self._victims = list(self._victims), {}
        return [victim for victim in victims if victim in self._waiting]

    def held_up(self, request: LockRequest) -> tuple[str, Transaction]:
        """The key for which a waiting request waits, and who holds it now."""
        assert request.key is not None
        return request.key, self._held[request.resource][request.key]

    def in_the_way_of(self, transaction: Transaction) -> list[LockRequest]:
        """Requests that wait for `transaction` and hold row locks meanwhile, which its rollback may need."""
        if not self._queues:
            return []
        keys = [(branch.resource, key) for branch in transaction.branches for key in branch.lock_keys]
        return [
            request
            for resource, key in dict.fromkeys(keys)
            if self._held.get(resource, {}).get(key) is transaction
            for request in self._queues.get((resource, key), ())
            if request.holds_row_locks
        ]

    def free_for(self, transaction: Transaction | None, resource: str, keys: Iterable[str]) -> Transaction | None:
        """A holder of one of `keys` other than `transaction`, or None; takes nothing."""
        held = self._held.get(resource, {})
        return next((held[key] for key in keys if key in held and held[key] is not transaction), None)

    def expired(self, now: int) -> list[LockRequest]:
        """Waiting requests whose time is over."""
        return [r for requests in self._waiting.values() for r in requests if r.until <= now]

    @property
    def waited(self) -> int:
        """Number of keys that somebody waits for."""
        return len(self._queues)

    def entries(self, resource: str = "") -> Iterator[Entry]:
        """Every held key, of one resource or of all; those that somebody waits for first."""
        yield from (self._entry(*place) for place in self._queues if not resource or place[0] == resource)
        for name in [resource] if resource else self._held:
            yield from (self._entry(name, key) for key in self._held.get(name, ()) if (name, key) not in self._queues)

    def entries_of(self, transaction: Transaction) -> Iterator[Entry]:
        """What a transaction waits for, then what it holds."""
        for request in self._waiting.get(transaction, ()):
            if request.key is not None:
                yield self._entry(request.resource, request.key)
        places = {(branch.resource, key): None for branch in transaction.branches for key in branch.lock_keys}
        yield from (self._entry(*place) for place in places if self._held.get(place[0], {}).get(place[1]) is transaction)

    def _entry(self, resource: str, key: str) -> Entry:
        waiters = tuple(request.transaction for request in self._queues.get((resource, key), ()))
        return Entry(resource, key, self._held[resource][key], waiters)

    # ------------------------------------------------------------ inside

    def _blocked(self, request: LockRequest) -> tuple[str, Transaction] | None:
        held = self._held.get(request.resource)
        for key in request.keys:
            holder = held.get(key) if held is not None else None
            if holder is request.transaction:
                continue
            if holder is not None:
                return key, holder
        return None

    def _take(self, request: LockRequest) -> None:
        held = self._held.setdefault(request.resource, {})
        before = len(held)
        for key in request.keys:
            held[key] = request.transaction
        self.count += len(held) - before

    def _enqueue(self, request: LockRequest, key: str) -> None:
        request.key = key
        self._queues.setdefault((request.resource, key), deque()).append(request)
        self._waiting.setdefault(request.transaction, []).append(request)
        self.waiters += 1

    def _leave(self, request: LockRequest, key: str) -> None:
        place = (request.resource, key)
        queue = self._queues[place]
        queue.remove(request)
        if not queue:
            del self._queues[place]
        request.key = None
        requests = self._waiting[request.transaction]
        requests.remove(request)
        self.waiters -= 1
        if not requests:
            del self._waiting[request.transaction]

    def _advance(self, resource: str, key: str) -> list[LockRequest]:
        """Grant from the head of a queue for as long as the key is free, and then what else its new holder waits for there."""
        granted: list[LockRequest] = []
        place = (resource, key)
        while queue := self._queues.get(place):
            holder = self._held.get(resource, {}).get(key)
            head = queue[0] if holder is None else self._own_wait(holder, place)
            if head is None:
                break
            blocked = self._blocked(head)
            self._leave(head, key)
            if blocked is None:
                self._take(head)
                granted.append(head)
            else:
                # It goes on waiting, for another of its keys; the one that came free is the next one's.
                if (victim := self._victim(head, *blocked)) is not None:
                    self._victims[victim] = None
                self._enqueue(head, blocked[0])
        return granted

    def _own_wait(self, holder: Transaction, place: tuple[str, str]) -> LockRequest | None:
        """A request with which `holder` waits for a key that has become its own."""
        waiting = self._waiting.get(holder, ())
        return next((r for r in waiting if (r.resource, r.key) == place), None)

    def _victim(self, request: LockRequest, key: str, holder: Transaction) -> Transaction | None:
        """The youngest member of the circle that `request` would close by waiting for `key`, or None.

        It waits for the holder and for everybody in the queue; of these only those matter that wait elsewhere too.
        """
        transaction, waiting = request.transaction, self._waiting
        queue = self._queues.get((request.resource, key), ())
        pending = [holder, *(r.transaction for r in queue if len(waiting[r.transaction]) > 1)]
        came_from: dict[Transaction, Transaction] = {t: transaction for t in pending if t is not transaction}
        pending = list(came_from)
        while pending:
            node = pending.pop()
            if node is transaction:
                return self._youngest(came_from, transaction)
            for request in self._waiting.get(node, ()):
                for blocker in self._blockers(request):
                    if blocker not in came_from:
                        came_from[blocker] = node
                        pending.append(blocker)
        return None

    @staticmethod
    def _youngest(came_from: dict[Transaction, Transaction], start: Transaction) -> Transaction:
        circle = [start]
        node = came_from[start]
        while node is not start:
            circle.append(node)
            node = came_from[node]
        return max(circle, key=lambda t: (t.first_begun_at, t.xid))

    def _blockers(self, request: LockRequest) -> Iterator[Transaction]:
        """Everybody that has to leave before a waiting request moves: the holder of its key and those before it in the queue."""
        key = request.key
        assert key is not None
        holder = self._held.get(request.resource, {}).get(key)
        if holder is not None:
            yield holder
        for other in self._queues[request.resource, key]:
            if other is request:
                return
            if other.transaction is not request.transaction:
                yield other.transaction
