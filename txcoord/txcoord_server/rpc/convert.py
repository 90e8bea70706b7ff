"""Between the wire's messages and the domain's values. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Iterable

from txcoord_proto.errors import InvalidArgumentError, TxcoordError
from txcoord_proto.status import BranchType, CommandResult, Decision, GlobalStatus, PhaseOne, Wait
from txcoord_proto.v1 import coordinator_pb2 as pb

from txcoord_server.domain.answers import (
    Answer,
    Begun,
    Decided,
    LockState,
    Ok,
    Refused,
    Registered,
    Reported,
    Settled,
    Settlements,
)
from txcoord_server.domain.requests import NewBranch, NewTransaction
from txcoord_server.domain.view import BranchView, TransactionView
from txcoord_server.engine.connection import Outgoing, Work
from txcoord_server.engine.node import Moved

BRANCH_TYPES: dict[int, BranchType] = {pb.BranchType.Value(t): t for t in BranchType}
WAITS: dict[int, Wait] = {pb.WAIT_SETTLED: Wait.SETTLED, pb.WAIT_DECIDED: Wait.DECIDED}
PHASES: dict[int, PhaseOne] = {
    pb.PHASE_ONE_DONE: PhaseOne.DONE,
    pb.PHASE_ONE_FAILED: PhaseOne.FAILED,
    pb.PHASE_ONE_UNKNOWN: PhaseOne.UNKNOWN,
}
RESULTS: dict[int, CommandResult] = {
    pb.COMMAND_DONE: CommandResult.DONE,
    pb.COMMAND_RETRY: CommandResult.RETRY,
    pb.COMMAND_UNAVAILABLE: CommandResult.UNAVAILABLE,
    pb.COMMAND_PARK: CommandResult.PARK,
}


def new_branch(m: pb.RegisterRequest) -> NewBranch:
    """What a registration says.

    Raises:
        InvalidArgumentError: The type is unknown to this version.
    """
    kind = BRANCH_TYPES.get(m.type)
    if kind is None:
        raise InvalidArgumentError(f"branch type {m.type} is not known here: upgrade the coordinator first", {"field": "type"})
    return NewBranch(
        m.branch_id, kind, m.resource, tuple(m.lock_keys), m.arguments, m.lock_wait_ms, m.holds_row_locks, m.done, m.tell_timeout
    )


def new_transaction(m: pb.BeginRequest) -> NewTransaction:
    """What a begin says."""
    return NewTransaction(m.name, m.timeout_ms, m.key, m.traceparent, m.begin_key, m.first_begun_at)


def statuses(values: Iterable[int]) -> tuple[str, ...]:
    """Names of statuses.

    Raises:
        InvalidArgumentError: One is unknown to this version.
    """
    try:
        return tuple(GlobalStatus(pb.GlobalStatus.Name(value)) for value in values)
    except ValueError as error:
        raise InvalidArgumentError(f"{error}: upgrade the coordinator first", {"field": "statuses"}) from error


def error(e: TxcoordError) -> pb.Error:
    """An error for the wire."""
    return pb.Error(code=e.code, message=e.message, retryable=e.retryable, details=e.details)


def decision(xid: str, wanted: Decision, answer: Answer) -> pb.DecisionReply:
    """The answer to commit or rollback in full, as unary callers get it."""
    committed = wanted is Decision.COMMIT
    match answer:
        case Ok():
            status = GlobalStatus.COMMITTING if committed else GlobalStatus.ROLLING_BACK
            return pb.DecisionReply(xid=xid, status=status, decision=wanted)
        case Settled():
            status = GlobalStatus.COMMITTED if committed else GlobalStatus.ROLLED_BACK
            return pb.DecisionReply(xid=xid, status=status, settled=True, decision=wanted)
        case Decided():
            return _decided(answer)
        case _:
            raise AssertionError(f"{answer} is no answer to commit or rollback")


def _decided(d: Decided) -> pb.DecisionReply:
    return pb.DecisionReply(
        xid=d.xid,
        status=d.status,
        reason=d.reason,
        settled=d.settled,
        explanation=d.explanation,
        decision=d.decision,
    )


def settlements(answer: Settlements) -> pb.SettledReply:
    """The answer to a settled query."""
    return pb.SettledReply(settlements=answer.settlements)


def event(request_id: int, answer: object) -> pb.Event:
    """An answer that does not travel as a column, or something pushed."""
    match answer:
        case Refused(e):
            return pb.Event(id=request_id, error=error(e))
        case Registered(xid, left):
            return pb.Event(id=request_id, registered=pb.RegisterReply(xid=xid, timeout_left_ms=left))
        case Decided():
            return pb.Event(id=request_id, decision=_decided(answer))
        case LockState(holder):
            return pb.Event(id=request_id, lock=pb.LockReply(free=not holder, holder=holder))
        case Settlements():
            return pb.Event(id=request_id, settled=settlements(answer))
        case TransactionView():
            return pb.Event(id=request_id, status=pb.StatusReply(transaction=transaction(answer)))
        case pb.Welcome():
            return pb.Event(id=request_id, welcome=answer)
        case pb.BranchIdBlock():
            return pb.Event(id=request_id, branch_ids=answer)
        case Moved():
            return pb.Event(moved=pb.Moved())
        case Begun() | Ok() | Settled() | Reported():
            raise AssertionError(f"{answer} travels as a column")
        case _:
            raise AssertionError(f"no event for {answer!r}")


def batch(epoch: int, commit_seq: int, out: Outgoing) -> pb.ServerBatch:
    """A batch to a client."""
    return pb.ServerBatch(
        epoch=epoch,
        commit_seq=commit_seq,
        events=[event(request_id, answer) for request_id, answer in out.events],
        ok=out.ok,
        settled=out.settled,
        begun=out.begun,
        begun_xids=out.begun_xids,
        reported=out.reported,
        commands=commands(out.commands),
    )


def commands(works: Iterable[Work]) -> list[pb.Commands]:
    """Second phases: one message per resource and decision, since making a message costs as much as filling many rows."""
    columns: dict[tuple[str, Decision | None], tuple[list[str], list[int], list[bytes]]] = {}
    for work in works:
        xid, key = work.transaction.xid, (work.resource, work.transaction.decision)
        xids, ids, arguments = columns.get(key) or columns.setdefault(key, ([], [], []))
        for branch in work.branches:
            xids.append(xid)
            ids.append(branch.id)
            arguments.append(branch.arguments)
    return [
        pb.Commands(resource=resource, commit=decision is Decision.COMMIT, xids=xids, branch_ids=ids, arguments=arguments)
        for (resource, decision), (xids, ids, arguments) in columns.items()
    ]


def transaction(v: TransactionView) -> pb.Transaction:
    """A transaction as it is shown."""
    return pb.Transaction(
        xid=v.xid, status=v.status, decision=v.decision, reason=v.reason, name=v.name, service=v.service,
        key=v.key, traceparent=v.traceparent, begun_at=v.begun_at, deadline_at=v.deadline_at, decided_at=v.decided_at,
        settled_at=v.settled_at, version=v.version, branches=[_branch(b) for b in v.branches],
        explanation_code=v.explanation.code, explanation=v.explanation.text,
        next_events=[pb.NextEvent(at=e.at, code=e.code, text=e.text) for e in v.next_events],
        overdue=v.overdue, forced=v.forced,
    )  # fmt: skip


def _branch(b: BranchView) -> pb.Branch:
    return pb.Branch(
        id=b.id, type=b.type, resource=b.resource, status=b.status, lock_keys=b.lock_keys,
        attempts=b.attempts, executor=b.executor, error_code=b.error_code, error=b.error, registered_at=b.registered_at,
        reported_at=b.reported_at, first_command_at=b.first_command_at, settled_at=b.settled_at, next_try_at=b.next_try_at,
    )  # fmt: skip
