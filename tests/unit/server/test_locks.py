"""Global locks under every order of acquire, release and withdrawal."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from txcoord_server.domain.locks import Conflict, Deadlock, Granted, LockRequest, LockTable, Queued
from txcoord_server.domain.session import Account, Transaction

KEYS = [str(n) for n in range(5)]


class LockMachine(RuleBasedStateMachine):
    """Against a model that keeps, per key, who holds it."""

    transactions = Bundle("transactions")

    def __init__(self) -> None:
        super().__init__()
        self.table = LockTable()
        self.model: dict[str, Transaction] = {}
        self.waiting: list[LockRequest] = []
        self.number = 0

    @rule(target=transactions)
    def begin(self) -> Transaction:
        self.number += 1
        return Transaction(f"x{self.number:06d}", "n", Account("s"), self.number, 0)

    @rule(transaction=transactions, keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3), wait=st.booleans())
    def acquire(self, transaction: Transaction, keys: list[str], wait: bool) -> None:
        request = LockRequest(transaction, "r", tuple(keys), 10 if wait else 0)
        foreign = [k for k in keys if self.model.get(k, transaction) is not transaction]
        outcome = self.table.acquire(request)
        match outcome:
            case Granted():
                assert not foreign
                self.model.update(dict.fromkeys(keys, transaction))
            case Conflict(key, holder):
                assert not wait
                assert self.model[key] is holder is not transaction
            case Queued():
                assert wait
                assert foreign
                self.waiting.append(request)
            case Deadlock(victim, _, holder):
                assert wait
                assert holder is not transaction
                circle = self.reachable(holder, *(r.transaction for r in self.waiting if set(keys) & set(r.keys)))
                assert transaction in circle
                assert victim in circle

    @rule(transaction=consumes(transactions))
    def release_all(self, transaction: Transaction) -> None:
        for request in [r for r in self.waiting if r.transaction is transaction]:
            self.waiting.remove(request)
            self.granted(self.table.withdraw(request))
        keys = [k for k, holder in self.model.items() if holder is transaction]
        for key in keys:
            del self.model[key]
        self.granted(self.table.release(transaction, "r", keys))

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if self.waiting:
            request = data.draw(st.sampled_from(self.waiting))
            self.waiting.remove(request)
            self.granted(self.table.withdraw(request))

    def granted(self, requests: list[LockRequest]) -> None:
        for request in requests:
            self.waiting.remove(request)
            for key in request.keys:
                assert self.model.get(key, request.transaction) is request.transaction
                self.model[key] = request.transaction

    def reachable(self, *starts: Transaction) -> set[Transaction]:
        """Everybody for whom `starts` wait, directly or not, by holders and queues."""
        found, pending = set[Transaction](), list(starts)
        while pending:
            node = pending.pop()
            if node in found:
                continue
            found.add(node)
            for request in (r for r in self.waiting if r.transaction is node):
                for key in request.keys:
                    if key in self.model:
                        pending.append(self.model[key])
                    pending.extend(r.transaction for r in self.waiting if key in r.keys)
        return found

    @invariant()
    def table_and_model_agree(self) -> None:
        entries = {entry.key: entry.holder for entry in self.table.entries()}
        assert entries == self.model
        assert self.table.count == len(self.model)

    @invariant()
    def nobody_waits_for_free_keys(self) -> None:
        for request in self.waiting:
            assert any(self.model.get(k, request.transaction) is not request.transaction for k in request.keys)

    @rule()
    def end_circles(self) -> None:
        """As each tick does: the victims give way, and then nobody waits for himself."""
        while victims := self.table.take_victims():
            for request in [r for victim in victims for r in self.table.waits(victim)]:
                if request in self.waiting:
                    self.waiting.remove(request)
                    self.granted(self.table.withdraw(request))
        for start in {r.transaction for r in self.waiting}:
            assert start not in self.waited_for_by(start)

    def waited_for_by(self, start: Transaction) -> set[Transaction]:
        """Everybody who has to leave before `start` moves: holders of the keys it waits for, and those queued before it."""
        queues = {entry.key: entry.waiters for entry in self.table.entries()}
        found, pending = set[Transaction](), [start]
        while pending:
            node = pending.pop()
            for request in (r for r in self.waiting if r.transaction is node):
                assert request.key is not None
                queue = queues[request.key]
                ahead = {self.model[request.key], *queue[: queue.index(node)]} - found - {node}
                found |= ahead
                pending += ahead
        return found


LockMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestLocks = LockMachine.TestCase


def test_a_transaction_that_waits_twice_for_a_key_gets_it_for_both() -> None:
    table = LockTable()
    first, second, third = (Transaction(f"x{n}", "n", Account("s"), n, 0) for n in range(3))
    table.acquire(LockRequest(first, "r", ("k",)))
    waiting = [LockRequest(t, "r", ("k",), 10) for t in (second, third, second)]
    for request in waiting:
        assert table.acquire(request) == Queued(request)
    assert table.release(first, "r", ["k"]) == [waiting[0], waiting[2]]
    assert table.waits(second) == []
    assert table.release(second, "r", ["k"]) == [waiting[1]]


def test_a_circle_through_somebody_ahead_in_the_queue() -> None:
    table = LockTable()
    first, second, third = (Transaction(f"x{n}", "n", Account("s"), n, 0) for n in range(3))
    table.acquire(LockRequest(first, "r", ("a",)))
    table.acquire(LockRequest(third, "r", ("b",)))
    for key in ("a", "b"):
        request = LockRequest(second, "r", (key,), 10)
        assert table.acquire(request) == Queued(request)
    assert table.acquire(LockRequest(third, "r", ("a",), 10)) == Deadlock(third, "a", first)


def test_locks_that_somebody_waits_for_are_shown_first() -> None:
    table = LockTable()
    holder, other = (Transaction(f"x{n}", "n", Account("s"), n, 0) for n in range(2))
    table.acquire(LockRequest(holder, "r", ("a", "b", "c")))
    table.acquire(LockRequest(other, "q", ("z",)))
    table.acquire(LockRequest(other, "r", ("c",), 10))
    assert [(e.resource, e.key, e.holder, e.waiters) for e in table.entries()] == [
        ("r", "c", holder, (other,)), ("r", "a", holder, ()), ("r", "b", holder, ()), ("q", "z", other, ()),
    ]  # fmt: skip
    assert [e.key for e in table.entries("q")] == ["z"]
    assert list(table.entries("nothing")) == []
    assert [(e.key, e.holder) for e in table.entries_of(other)] == [("c", holder)], "it has no branches yet"
