"""The client's side of the stream: what is asked, what is answered, and what survives its breaking.

Everything here runs in one thread and one event loop and knows no gRPC: the simulation runs the same code. Requests that have not
been answered are sent again, unchanged, over the next stream, since each is idempotent by its natural key. Phase-one reports are
kept until the coordinator says that they are durable. A coordinator of an older epoch than one that was heard of is not listened
to.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from copy import copy
from itertools import groupby
from operator import itemgetter
from typing import Any

from txcoord_proto.errors import (
    NotLeaderError,
    NotReadyError,
    StoreUnavailableError,
    TxcoordError,
)
from txcoord_proto.status import BranchType, CommandResult, PhaseOne, Wait
from txcoord_proto.v1 import coordinator_pb2 as pb

from txcoord_sdk.config import ClientConfig
from txcoord_sdk.participant import BranchCommand, Command
from txcoord_sdk.session.branch_ids import BranchIds, Need
from txcoord_sdk.session.failures import closed, too_large, typed_error, unanswered, unreachable
from txcoord_sdk.session.link import Link, MovedError
from txcoord_sdk.session.outbox import Outbox
from txcoord_sdk.session.requests import DECIDED, SETTLED, Beginning, Registration, Report, Sink
from txcoord_sdk.session.transport import Rng, Transport

log = logging.getLogger(__name__)

PROTOCOL = 1
_SERVER_WAIT = 15.0
_EXPIRY_PERIOD = 0.5
_AGAIN_SECONDS = 0.5
_MAX_ERROR = 500
_TYPES: dict[BranchType, Any] = {kind: pb.BranchType.Value(kind.value) for kind in BranchType}
_WAITS = {Wait.SETTLED: pb.WAIT_SETTLED, Wait.DECIDED: pb.WAIT_DECIDED}
_PHASES = {PhaseOne.FAILED: pb.PHASE_ONE_FAILED, PhaseOne.UNKNOWN: pb.PHASE_ONE_UNKNOWN}
_RESULTS = {
    CommandResult.RETRY: pb.COMMAND_RETRY,
    CommandResult.UNAVAILABLE: pb.COMMAND_UNAVAILABLE,
    CommandResult.PARK: pb.COMMAND_PARK,
}


class Pending:
    """A request that has not been answered."""

    __slots__ = ("beginning", "expires", "request", "sink", "value")

    def __init__(self, request: pb.Request, sink: Sink, expires: float, value: object, beginning: Beginning | None) -> None:
        self.request = request
        self.sink = sink
        self.expires = expires
        self.value = value
        """What plain success means to the caller, where it is not the answer itself."""
        self.beginning = beginning
        """Set when the answer brings this transaction's XID."""


class Session:
    """The session of one process with the coordinator.

    Args:
        config: What the client is told.
        transport: The way out.
        rng: For jitter.
        on_command: Called with each command of the second phase.
    """

    def __init__(self, config: ClientConfig, transport: Transport, rng: Rng, on_command: Callable[[Command], None]) -> None:
        self._config = config
        self._on_command = on_command
        self.outbox = Outbox()
        self.link = Link(config.addresses, transport, rng, self)
        self._branch_ids = BranchIds(self._allocate)
        self._allocating = False
        self._pending: dict[int, Pending] = {}
        self._reports: dict[int, Report] = {}
        self._resources: dict[str, None] = {}
        self._greeted = 0
        """How many of them the last hello named."""
        self._next_id = 0
        self._epoch = 0
        self._commit_seq = 0
        self._most_bytes = 4 << 20
        self._now = 0.0
        """Seconds that it has waited for answers, to half a second."""
        self._welcomed = False
        self._welcomed_at = 0.0
        """By `time.monotonic`: what was asked before is sent over this stream since then."""
        self._closed = False
        self.connected = asyncio.Event()

    # ------------------------------------------------------------ requests

    def begin(self, beginning: Beginning, sink: Sink) -> None:
        """Get an XID; the sink hears it."""
        if beginning.xid:
            sink(beginning.xid, None)
        elif beginning.waiting is not None:
            beginning.waiting.append(lambda: self.begin(beginning, sink))
        else:
            beginning.waiting = []
            if self._branch_ids.available:
                self._begin(beginning, sink)
            else:
                self._need_branch_id(lambda: self._begin(beginning, sink), sink, beginning)

    def _begin(self, beginning: Beginning, sink: Sink) -> None:
        request = self._request()
        request.begin.CopyFrom(_begin_message(beginning, self._branch_ids.take()))
        self._ask(request, sink, None, beginning)

    def branch_id(self, beginning: Beginning, sink: Sink) -> None:
        """Get an id for a branch that is registered later, and the XID; the sink hears the id."""
        if not beginning.xid:
            self.begin(beginning, lambda _, error: sink(None, error) if error is not None else self.branch_id(beginning, sink))
        elif self._branch_ids.available:
            sink(self._branch_ids.take(), None)
        else:
            self._need_branch_id(lambda: sink(self._branch_ids.take(), None), sink, None)

    def register(self, beginning: Beginning, registration: Registration, sink: Sink) -> None:
        """Register a branch, beginning the transaction with it if it has no XID yet; the sink hears the branch id."""
        if beginning.waiting is not None:
            beginning.waiting.append(lambda: self.register(beginning, registration, sink))
            return
        begins = None if beginning.xid else beginning
        if begins is not None:
            begins.waiting = []
        if registration.branch_id or self._branch_ids.available:
            self._register(beginning, registration, sink)
        else:
            self._need_branch_id(lambda: self._register(beginning, registration, sink), sink, begins)

    def _register(self, beginning: Beginning, registration: Registration, sink: Sink) -> None:
        branch_id = registration.branch_id or self._branch_ids.take()
        begins = None if beginning.xid else beginning
        message = pb.RegisterRequest(
            xid=beginning.xid,
            branch_id=branch_id,
            type=_TYPES[registration.type],
            resource=registration.resource,
            lock_keys=registration.lock_keys,
            arguments=registration.arguments,
            begin=_begin_message(beginning, 0) if begins else None,
            lock_wait_ms=int(registration.lock_wait * 1000),
            done=registration.done,
        )
        if (hear_deadline := registration.hear_deadline) is not None:
            message.tell_timeout = True
            sink = self._hearing(hear_deadline, branch_id, sink)
        request = self._request(register=message)
        self._ask(request, sink, branch_id, begins, registration.lock_wait)

    def _hearing(self, hear_deadline: Callable[[float], None], branch_id: int, sink: Sink) -> Sink:
        """A sink that takes a `RegisterReply`, and the deadline from it, for `sink`, which hears the branch id."""
        asked_at = time.monotonic()

        def hear(value: object, error: BaseException | None) -> None:
            if isinstance(value, pb.RegisterReply):
                if value.timeout_left_ms:
                    # Counted from when it was sent over this stream, which is before the coordinator counted.
                    hear_deadline(max(asked_at, self._welcomed_at) + value.timeout_left_ms / 1000)
                value = branch_id
            sink(value, error)

        return hear

    def report(self, xid: str, branch_id: int, result: PhaseOne, error: str) -> None:
        """Report a phase one; kept until it is durable."""
        self._reports[branch_id] = report = Report(xid, result, error[:_MAX_ERROR])
        self._send_report(branch_id, report)

    def _send_report(self, branch_id: int, report: Report) -> None:
        if report.result is PhaseOne.DONE:
            self.outbox.report(report.xid, branch_id)
        else:
            message = pb.ReportRequest(xid=report.xid, branch_id=branch_id, result=_PHASES[report.result], error=report.error)
            self.outbox.request(self._request(report=message))

    def commit(self, xid: str, wait: Wait, sink: Sink) -> None:
        """Ask for commit; the sink hears `Done` or a `DecisionReply`."""
        self._ask(self._request(commit=pb.CommitRequest(xid=xid, wait=_WAITS[wait])), sink)

    def rollback(self, xid: str, wait: Wait, reason: str, sink: Sink) -> None:
        """Ask for rollback; the sink hears `Done` or a `DecisionReply`."""
        message = pb.RollbackRequest(xid=xid, wait=_WAITS[wait], reason=reason[:_MAX_ERROR])
        self._ask(self._request(rollback=message), sink)

    def rollback_only(self, xid: str, reason: str, sink: Sink) -> None:
        """Veto; the sink hears `Done` or a `DecisionReply`."""
        message = pb.RollbackOnlyRequest(xid=xid, reason=reason[:_MAX_ERROR])
        self._ask(self._request(rollback_only=message), sink)

    def status(self, xid: str, key: str, sink: Sink) -> None:
        """Ask for a transaction; the sink hears its `Transaction` message."""
        self._ask(self._request(status=pb.StatusRequest(xid=xid, key=key)), sink)

    def query_locks(self, resource: str, keys: list[str], sink: Sink) -> None:
        """Ask whether rows are free of unfinished global transactions; the sink hears a `LockReply`."""
        self._ask(self._request(lock_query=pb.LockQuery(resource=resource, lock_keys=keys)), sink)

    def settled(self, xids: list[str], sink: Sink) -> None:
        """Ask which transactions are settled; the sink hears a `SettledReply`."""
        self._ask(self._request(settled=pb.SettledQuery(xids=xids)), sink)

    def serve(self, resource: str) -> None:
        """From now on this process does the second phases of `resource`."""
        if resource in self._resources:
            return
        self._resources[resource] = None
        if self._welcomed:
            self._announce([resource])

    def _announce(self, resources: list[str]) -> None:
        self._ask(self._request(serve=pb.ServeRequest(resources=resources)), _complain)

    def done(self, xid: str, branch_id: int) -> None:
        """Answer a command: its second phase is done."""
        self.outbox.done(xid, branch_id)

    def failed(self, xid: str, branch_id: int, result: CommandResult, code: str, error: str) -> None:
        """Answer a command: its second phase did not succeed."""
        message = pb.AnswerRequest(xid=xid, branch_id=branch_id, result=_RESULTS[result], code=code, error=error[:_MAX_ERROR])
        self.outbox.request(self._request(answer=message))

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting to be sent, answered or made durable."""
        return not self._pending and not self._reports and not self.outbox

    # ------------------------------------------------------------ life

    async def run(self) -> None:
        """Keep a stream open, and nobody waiting for ever, until cancelled."""
        expiring = asyncio.ensure_future(self._expire())
        try:
            await self.link.run()
        finally:
            expiring.cancel()

    def close(self) -> None:
        """Nothing will be answered any more: fail what waits, and whatever is asked from now on."""
        self._closed = True
        self._fail_all(closed())

    # ------------------------------------------------------------ the stream

    def hello(self) -> pb.ClientBatch:
        """See `Peer.hello`."""
        self._greeted = len(self._resources)
        hello = pb.Hello(
            protocol_min=PROTOCOL,
            protocol_max=PROTOCOL,
            service=self._config.service,
            instance=self._config.name(),
            token=self._config.token,
            resources=list(self._resources),
            epoch_seen=self._epoch,
            commit_seq_seen=self._commit_seq,
        )
        return pb.ClientBatch(requests=[self._request(hello=hello)])

    def welcomed(self, batch: pb.ServerBatch) -> None:
        """See `Peer.welcomed`; everything that is not answered goes over the new stream again."""
        first = batch.events[0] if batch.events else pb.Event()
        if first.HasField("error"):
            error = typed_error(first.error)
            if isinstance(error, (NotLeaderError, NotReadyError, StoreUnavailableError)):
                raise self._moved(error.message, error.details.get("leader", ""), error.details.get("epoch", ""))
            raise error
        if not first.HasField("welcome"):
            raise MovedError("it stepped down before it could welcome this client")
        welcome = first.welcome
        if welcome.epoch < self._epoch:
            raise MovedError("it is of an older epoch than one that was heard of")
        if welcome.epoch > self._epoch:
            self._epoch, self._commit_seq = welcome.epoch, 0
        self._welcomed_at = time.monotonic()
        self._most_bytes = welcome.max_message_bytes or self._most_bytes
        self._allocating = False
        self.outbox.restart(welcome.max_batch, self._most_bytes)
        for branch_id, report in self._reports.items():
            self._send_report(branch_id, report)
        for pending in list(self._pending.values()):
            if pending.request.HasField("allocate"):
                del self._pending[pending.request.id]
            else:
                self.outbox.request(pending.request)
        self._welcomed = True
        if late := list(self._resources)[self._greeted :]:
            self._announce(late)  # registered while the hello was under way
        self.connected.set()
        self._branch_ids.granted(welcome.branch_ids.first, welcome.branch_ids.count)
        self.receive(batch)  # commands may have come with the welcome

    def _moved(self, why: str, leader: str, epoch: str) -> MovedError:
        """To where the coordinator sends us, unless that is the past."""
        return MovedError(why, leader if epoch.isdigit() and int(epoch) >= self._epoch else "")

    def lost(self) -> None:
        """See `Peer.lost`."""
        self._welcomed = False
        self.connected.clear()

    def refused(self, error: TxcoordError) -> None:
        """See `Peer.refused`: waiting does not help, so nobody is left waiting."""
        log.error("the coordinator refuses this client: %s", error)
        self._fail_all(error)

    # ------------------------------------------------------------ answers

    def receive(self, batch: pb.ServerBatch) -> None:
        """See `Peer.receive`."""
        self._commit_seq = max(self._commit_seq, batch.commit_seq)
        pending = self._pending
        for request_id, xid in zip(batch.begun, batch.begun_xids):
            if (asked := pending.pop(request_id, None)) is not None:
                self._begun(asked, xid)
        for request_id in batch.ok:
            if (asked := pending.pop(request_id, None)) is not None:
                asked.sink(DECIDED if asked.value is None else asked.value, None)
        for request_id in batch.settled:
            if (asked := pending.pop(request_id, None)) is not None:
                asked.sink(SETTLED, None)
        for branch_id in batch.reported:
            self._reports.pop(branch_id, None)
        moved: MovedError | None = None
        for event in batch.events:
            told = self._event(event)
            moved = moved if moved is not None and moved.leader else told or moved
        for m in batch.commands:
            rows = zip(m.xids, map(BranchCommand, m.branch_ids, m.arguments))
            for xid, branches in groupby(rows, itemgetter(0)):
                self._on_command(Command(xid, m.resource, m.commit, tuple(branch for _, branch in branches)))
        if moved is not None:
            raise moved

    def _begun(self, asked: Pending, xid: str) -> None:
        beginning = asked.beginning
        assert beginning is not None
        beginning.xid = xid
        asked.sink(xid if asked.value is None else asked.value, None)
        _go_on(beginning)

    def _event(self, event: pb.Event) -> MovedError | None:
        kind = event.WhichOneof("body")
        if kind == "moved":
            return MovedError("it stepped down")
        if kind == "error":
            return self._refusal(event.id, typed_error(event.error))
        asked = self._pending.pop(event.id, None)
        if kind == "branch_ids":
            self._allocating = False
            self._branch_ids.granted(event.branch_ids.first, event.branch_ids.count)
        elif asked is not None:
            asked.sink(event.status.transaction if kind == "status" else getattr(event, kind or ""), None)
        return None

    def _refusal(self, request_id: int, error: TxcoordError) -> MovedError | None:
        asked = self._pending.get(request_id)
        if asked is None:
            self._report_refused(error)
        elif isinstance(error, StoreUnavailableError):  # nothing was done: it is asked again until its time is up
            asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._again, request_id)
        elif isinstance(error, (NotLeaderError, NotReadyError)):
            return self._moved(error.message, error.details.get("leader", ""), error.details.get("epoch", ""))
        else:
            self._fail(self._pending.pop(request_id), error)
        return None

    def _report_refused(self, error: TxcoordError) -> None:
        """Nobody waits for a report; one that is refused for good would be sent again over each stream."""
        branch = error.details.get("branch_id", "")
        report = self._reports.get(int(branch)) if branch.isdigit() else None
        if report is None or error.retryable:
            log.debug("the coordinator refused something that nobody waits for: %s", error)
            return
        del self._reports[int(branch)]
        log.warning(
            "%s: the coordinator refuses the report that phase one of branch %s is %s, so the transaction is rolled back: %s",
            report.xid,
            branch,
            report.result,
            error,
            extra={"xid": report.xid},
        )

    def _again(self, request_id: int) -> None:
        asked = self._pending.get(request_id)
        if asked is not None and self._welcomed:
            self.outbox.request(asked.request)

    # ------------------------------------------------------------ inside

    def _request(self, **body: Any) -> pb.Request:
        self._next_id += 1
        return pb.Request(id=self._next_id, **body)

    def _ask(
        self, request: pb.Request, sink: Sink, value: object = None, beginning: Beginning | None = None, longer: float = 0.0
    ) -> None:
        expires = self._now + self._config.failover_wait + _SERVER_WAIT + longer
        asked = Pending(request, sink, expires, value, beginning)
        if self._closed:
            self._fail(asked, closed())
        elif (size := request.ByteSize()) > self._most_bytes // 2:
            self._fail(asked, too_large(size, self._most_bytes // 2))
        else:
            self._pending[request.id] = asked
            if self._welcomed:
                self.outbox.request(request, size)

    def _need_branch_id(self, act: Callable[[], None], sink: Sink, begins: Beginning | None) -> None:
        """Do `act`, which begins `begins` if that is given, when there is a branch id to take."""

        def fail(error: BaseException) -> None:
            sink(None, error)
            if begins is not None:
                _go_on(begins)

        if self._closed:
            fail(closed())
        else:
            self._branch_ids.when_available(Need(act, fail, self._now + self._config.failover_wait))

    def _allocate(self) -> None:
        if not self._allocating and self._welcomed:
            self._allocating = True
            self._ask(self._request(allocate=pb.AllocateBranchIdsRequest(count=BranchIds.size)), self._not_allocated)

    def _not_allocated(self, value: object, error: BaseException | None) -> None:
        self._allocating = False
        log.warning("the coordinator granted no branch ids: %s", error)

    async def _expire(self) -> None:
        """Fail requests that have waited too long."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(_EXPIRY_PERIOD)
            # What is past is counted, not read: a process that stood still has not waited for anybody meanwhile.
            now = loop.time()
            self._now += min(now - before, 2 * _EXPIRY_PERIOD)
            before = now
            for asked in [asked for asked in self._pending.values() if asked.expires <= self._now]:
                del self._pending[asked.request.id]
                self._fail(asked, unreachable(self.link.met))
            self._branch_ids.fail(lambda: unreachable(self.link.met), self._now)

    def _fail_all(self, error: TxcoordError) -> None:
        pending, self._pending = self._pending, {}
        for asked in pending.values():
            self._fail(asked, copy(error))
        self._branch_ids.fail(lambda: copy(error))

    @staticmethod
    def _fail(asked: Pending, error: TxcoordError) -> None:
        asked.sink(None, unanswered(asked.request, error))
        if asked.beginning is not None:
            _go_on(asked.beginning)


def _begin_message(beginning: Beginning, begin_key: int) -> pb.BeginRequest:
    return pb.BeginRequest(
        name=beginning.name,
        timeout_ms=beginning.timeout_ms,
        key=beginning.key,
        traceparent=beginning.traceparent,
        begin_key=begin_key,
        first_begun_at=beginning.first_begun_at,
    )


def _go_on(beginning: Beginning) -> None:
    """The begin has been answered: those that waited for it go on, and begin anew themselves where it failed."""
    waiting, beginning.waiting = beginning.waiting or [], None
    for continuation in waiting:
        continuation()


def _complain(value: object, error: BaseException | None) -> None:
    if error is not None:
        log.error("second phases are not sent to this process: %s", error)
