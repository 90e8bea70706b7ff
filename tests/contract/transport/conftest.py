"""One client's requests over each transport: the batched stream, and the unary methods."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from txcoord_proto.errors import from_wire
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.server.stream import Stream
from tests.integration.server.stub import STOCK, Stub


@dataclass(frozen=True, slots=True)
class Ending:
    """What commit, rollback and a veto are answered with."""

    decision: str
    settled: bool
    reason: str = ""


class Transport(ABC):
    """A service's way to the coordinator. Every method raises the typed error that it is refused with."""

    @abstractmethod
    def ask(self, kind: str, message: Any) -> Any:
        """One request of `Request.body`; returns its answer's message, a text for an XID, or an `Ending`."""

    @abstractmethod
    def branch_id(self) -> int:
        """One that nobody else has."""

    @abstractmethod
    def close(self) -> None:
        """End it."""

    def begin(self, **fields: Any) -> str:
        """Begin; returns the XID."""
        return str(self.ask("begin", pb.BeginRequest(**{"name": "test", **fields})))

    def register(self, xid: str, resource: str = STOCK, kind: pb.BranchType = pb.TCC, id: int = 0, **fields: Any) -> int:
        """Register a branch; returns its id."""
        branch = id or self.branch_id()
        self.ask("register", pb.RegisterRequest(xid=xid, branch_id=branch, type=kind, resource=resource, **fields))
        return branch

    def begin_and_register(self, branch: int, **fields: Any) -> str:
        """Begin within the first registration; returns the XID."""
        request = pb.RegisterRequest(
            branch_id=branch, **{"type": pb.TCC, "resource": STOCK, "begin": pb.BeginRequest(), **fields}
        )
        return str(self.ask("register", request))

    def report(self, xid: str, branch: int, result: pb.PhaseOne = pb.PHASE_ONE_DONE, error: str = "") -> None:
        """Report a phase one; returns when it is durable."""
        self.ask("report", pb.ReportRequest(xid=xid, branch_id=branch, result=result, error=error))

    def commit(self, xid: str, wait: pb.Wait = pb.WAIT_DECIDED) -> Ending:
        """Commit."""
        ending: Ending = self.ask("commit", pb.CommitRequest(xid=xid, wait=wait))
        return ending

    def rollback(self, xid: str, wait: pb.Wait = pb.WAIT_DECIDED) -> Ending:
        """Roll back."""
        ending: Ending = self.ask("rollback", pb.RollbackRequest(xid=xid, wait=wait))
        return ending

    def veto(self, xid: str) -> Ending:
        """Mark it rollback-only."""
        ending: Ending = self.ask("rollback_only", pb.RollbackOnlyRequest(xid=xid, reason="out of stock"))
        return ending

    def status(self, xid: str = "", key: str = "") -> pb.Transaction:
        """A transaction."""
        found: pb.Transaction = self.ask("status", pb.StatusRequest(xid=xid, key=key)).transaction
        return found

    def prepared(self, *resources: str) -> str:
        """A transaction whose branches are all done; returns its XID."""
        xid = self.begin()
        for resource in resources or (STOCK,):
            self.report(xid, self.register(xid, resource))
        return xid


_METHODS: dict[str, tuple[str, Any]] = {
    "begin": ("Begin", pb.BeginReply),
    "register": ("Register", pb.RegisterReply),
    "report": ("Report", pb.ReportReply),
    "commit": ("Commit", pb.DecisionReply),
    "rollback": ("Rollback", pb.DecisionReply),
    "rollback_only": ("SetRollbackOnly", pb.DecisionReply),
    "status": ("Status", pb.StatusReply),
    "lock_query": ("QueryLocks", pb.LockReply),
    "settled": ("Settled", pb.SettledReply),
    "allocate": ("AllocateBranchIds", pb.BranchIdBlock),
}


class Unary(Transport):
    """The unary methods."""

    def __init__(self, address: str, service: str) -> None:
        self._stub = Stub(address, service)

    def ask(self, kind: str, message: Any) -> Any:
        """See `Transport`."""
        method, reply = _METHODS[kind]
        answer = self._stub.call(method, message, reply, timeout=20)
        match answer:
            case pb.BeginReply() | pb.RegisterReply():
                return answer.xid
            case pb.DecisionReply():
                return Ending(answer.decision, answer.settled, answer.reason)
        return answer

    def branch_id(self) -> int:
        """See `Transport`."""
        block: pb.BranchIdBlock = self.ask("allocate", pb.AllocateBranchIdsRequest(count=1))
        return block.first

    def close(self) -> None:
        """See `Transport`."""
        self._stub.__exit__(None, None, None)


class Batched(Transport):
    """The stream: most answers are numbers in columns."""

    def __init__(self, address: str, service: str) -> None:
        self._stream = Stream(address, service=service)
        self._ids = itertools.count(1 << 32)

    def ask(self, kind: str, message: Any) -> Any:
        """See `Transport`."""
        number = next(self._ids)
        self._stream.send(number, **{kind: message})
        while True:
            answer = self._answer(self._stream.read(), number, kind, message)
            if answer is not None:
                return answer

    @staticmethod
    def _answer(batch: pb.ServerBatch, number: int, kind: str, message: Any) -> Any:
        if number in batch.begun:
            return batch.begun_xids[list(batch.begun).index(number)]
        if kind == "report" and message.branch_id in batch.reported:
            return True
        asked = "COMMIT" if kind == "commit" else "ROLLBACK"
        if number in batch.settled:
            return Ending(asked, True)
        if number in batch.ok:
            return Ending(asked, False) if kind in ("commit", "rollback", "rollback_only") else message.xid
        for event in batch.events:
            if event.id == number:
                if event.HasField("error"):
                    raise from_wire(event.error.code, event.error.message, dict(event.error.details))
                if event.HasField("decision"):
                    return Ending(event.decision.decision, event.decision.settled, event.decision.reason)
                return getattr(event, event.WhichOneof("body") or "")
        return None

    def branch_id(self) -> int:
        """See `Transport`."""
        return next(self._stream.branch_ids)

    def close(self) -> None:
        """See `Transport`."""
        self._stream.__exit__(None, None, None)


_numbers = itertools.count(1)


def fresh(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}{next(_numbers)}"


Connect = Callable[[str], Transport]


@pytest.fixture(scope="module")
def coordinator() -> Iterator[CoordinatorProcess]:
    """A real one."""
    with CoordinatorProcess() as running:
        yield running


@pytest.fixture(params=[Batched, Unary], ids=["stream", "unary"])
def connect(request: pytest.FixtureRequest, coordinator: CoordinatorProcess) -> Iterator[Connect]:
    """Connects a service."""
    with ExitStack() as stack:

        def make(service: str) -> Transport:
            transport: Transport = request.param(coordinator.address, service)
            stack.callback(transport.close)
            return transport

        yield make


@pytest.fixture
def order(connect: Connect) -> Transport:
    """The service that begins."""
    return connect("order")


class Participant:
    """A process that does second phases when it is told to.

    Args:
        address: Of the coordinator.
        resources: What it serves.
    """

    def __init__(self, address: str, *resources: str) -> None:
        self._stream = Stream(address, service="participant", resources=resources)

    def commands(self) -> pb.Commands:
        """The next commands."""
        while not (batch := self._stream.read()).commands:
            pass
        assert len(batch.commands) == 1
        return batch.commands[0]

    def done(self, commands: pb.Commands) -> None:
        """Their second phases are done."""
        self._stream.write(pb.ClientBatch(done_xids=commands.xids, done_branches=commands.branch_ids))

    def failed(self, commands: pb.Commands, result: pb.CommandResult) -> None:
        """The second phase of the first did not succeed."""
        xid, branch_id = commands.xids[0], commands.branch_ids[0]
        answer = pb.AnswerRequest(xid=xid, branch_id=branch_id, result=result, code="DIRTY", error="no stock")
        self._stream.send(answer=answer)

    def __enter__(self) -> Participant:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.__exit__(None, None, None)
