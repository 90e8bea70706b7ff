"""Transactions with a recorder of what is told, for tests of the domain."""

from __future__ import annotations

from txcoord_proto.status import BranchType, PhaseOne, Wait
from txcoord_server.domain.answers import Answer, Begun, Refused
from txcoord_server.domain.effects import Effects
from txcoord_server.domain.limits import Limits
from txcoord_server.domain.requests import NewBranch, NewTransaction
from txcoord_server.domain.session import Branch, Transaction
from txcoord_server.domain.transactions import Transactions

EPOCH = 1_790_000_000_000
STOCK = "stock:reserve@1"
BALANCE = "balance:debit@2"


class Caller:
    """A recipient that remembers what it was told."""

    def __init__(self, allowed: bool = True, name: str = "") -> None:
        self.name = name
        self.told: dict[int, Answer] = {}
        self.allowed = allowed

    def may(self, resource: str) -> bool:
        return self.allowed

    def answer(self, request_id: int, answer: Answer) -> None:
        assert request_id not in self.told, "nobody is answered twice"
        self.told[request_id] = answer


class Books:
    """The domain, driven as the engine drives it: steps, then `commit_group`, which tells what was held back."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.t = Transactions("default", EPOCH, limits or Limits())
        self.caller = Caller()
        self.now = 1_000_000
        self.groups: list[Effects] = []
        self._requests = 0
        self._branches = 0

    def ticket(self) -> tuple[Caller, int]:
        self._requests += 1
        return self.caller, self._requests

    def commit_group(self) -> Effects:
        effects = self.t.ledger.take_effects()
        self.groups.append(effects)
        for transaction in effects.transactions:
            transaction.stored_status = transaction.status
        for (recipient, number), answer in effects.answers:
            recipient.answer(number, answer)
        return effects

    def told(self, request: int) -> Answer | None:
        return self.caller.told.get(request)

    def begin(self, service: str = "order", **kwargs: object) -> Transaction:
        return self.t.begin(service, NewTransaction("place_order", **kwargs), self.now)  # type: ignore[arg-type]

    def register(
        self, xid: str, resource: str = STOCK, kind: BranchType = BranchType.TCC, id: int = 0, **kwargs: object
    ) -> tuple[int, int]:
        """Returns request id and branch id."""
        if not id:
            self._branches += 1
            id = self._branches
        caller, number = self.ticket()
        self.t.register((caller, number), xid, NewBranch(id, kind, resource, **kwargs), self.now)  # type: ignore[arg-type]
        return number, id

    def report(self, xid: str, branch: int, result: PhaseOne = PhaseOne.DONE) -> int:
        caller, number = self.ticket()
        self.t.report((caller, number), xid, branch, result, "", self.now)
        return number

    def commit(self, xid: str, wait: Wait = Wait.SETTLED, service: str = "order") -> int:
        caller, number = self.ticket()
        self.t.commit((caller, number), service, xid, wait, self.now)
        return number

    def rollback(self, xid: str, wait: Wait = Wait.SETTLED, service: str = "order", cause: str = "") -> int:
        caller, number = self.ticket()
        self.t.rollback((caller, number), service, xid, wait, self.now, cause)
        return number

    def prepared(self, *resources: str, kind: BranchType = BranchType.TCC) -> Transaction:
        """A transaction whose branches are all DONE and durable."""
        transaction = self.begin()
        for resource in resources or (STOCK, BALANCE):
            _, branch = self.register(transaction.xid, resource, kind)
            self.report(transaction.xid, branch)
        self.commit_group()
        return transaction

    def settle(self, branch: Branch) -> None:
        self.t.settler.settle(branch, self.now)

    def error(self, request: int) -> str:
        answer = self.told(request)
        assert isinstance(answer, Refused), f"{answer} is no refusal"
        return answer.error.code


def begun_xid(answer: Answer | None) -> str:
    assert isinstance(answer, Begun)
    return answer.xid
