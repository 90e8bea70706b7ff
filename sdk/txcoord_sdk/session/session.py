"""The client's side of the stream: what is asked, what is answered, and what survives its breaking.

Everything here runs in one thread and one event loop and knows no gRPC: the simulation runs the same code. Requests that have not
been answered are sent again, unchanged, over the next stream, since each is idempotent by its natural key. Phase-one reports are
kept until the coordinator says that they are durable. A coordinator of an older epoch than one that was heard of is not listened
to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from txcoord_proto.errors import (
    NotLeaderError,
    NotReadyError,
    ProtocolError,
    StoreUnavailableError,
    TxcoordError,
    UnauthenticatedError,
)
from txcoord_proto.status import CommandResult, PhaseOne, Wait
from txcoord_proto.v1 import coordinator_pb2 as pb

from txcoord_sdk.config import ClientConfig
from txcoord_sdk.participant import BranchCommand, Command
from txcoord_sdk.session.failures import too_late, typed_error, unreachable
from txcoord_sdk.session.outbox import Outbox
from txcoord_sdk.session.requests import DECIDED, SETTLED, Beginning, Registration, Report, Sink
from txcoord_sdk.session.transport import Rng, Stream, StreamBrokenError, Transport

log = logging.getLogger(__name__)

PROTOCOL = 1
_DIAL_SECONDS = 3.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_SERVER_WAIT = 15.0
_REFUSED = (NotLeaderError, NotReadyError, StoreUnavailableError)
_MISCONFIGURED = (UnauthenticatedError, ProtocolError)
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
        self._transport = transport
        self._rng = rng
        self._on_command = on_command
        self._outbox = Outbox()
        self._pending: dict[int, Pending] = {}
        self._reports: dict[int, Report] = {}
        self._resources: dict[str, None] = {}
        self._greeted = 0
        """How many of them the last hello named."""
        self._next_id = 0
        self._branch_ids = range(0)
        self._allocating = False
        self._need_branch_id: list[tuple[Callable[[], None], Sink, float]] = []
        self._epoch = 0
        self._commit_seq = 0
        self._leader = ""
        self._welcomed = False
        self._closed = False
        self.connected = asyncio.Event()

    # ------------------------------------------------------------ requests

    def begin(self, beginning: Beginning, sink: Sink) -> None:
        """Get an XID; the sink hears it."""
        if beginning.xid:
            sink(beginning.xid, None)
        elif beginning.waiting is not None:
            beginning.waiting.append(lambda error: self.begin(beginning, sink))
        else:
            beginning.waiting = []
            self._with_branch_id(lambda: self._begin(beginning, sink), _both(sink, beginning))

    def _begin(self, beginning: Beginning, sink: Sink) -> None:
        request = self._request()
        request.begin.CopyFrom(_begin_message(beginning, self._take_branch_id()))
        self._ask(request, sink, None, beginning)

    def register(self, beginning: Beginning, registration: Registration, sink: Sink) -> None:
        """Register a branch, beginning the transaction with it if it has no XID yet; the sink hears the branch id."""
        if beginning.waiting is not None:
            beginning.waiting.append(lambda error: self.register(beginning, registration, sink))
            return
        if not beginning.xid:
            beginning.waiting = []
            failed = _both(sink, beginning)
        else:
            failed = sink
        self._with_branch_id(lambda: self._register(beginning, registration, sink), failed)

    def _register(self, beginning: Beginning, registration: Registration, sink: Sink) -> None:
        branch_id = self._take_branch_id()
        request = self._request()
        message = request.register
        message.branch_id = branch_id
        message.type = registration.type.value  # type: ignore[assignment]
        message.resource = registration.resource
        message.arguments = registration.arguments
        if registration.lock_keys:
            message.lock_keys.extend(registration.lock_keys)
            message.lock_wait_ms = int(registration.lock_wait * 1000)
        message.done = registration.done
        if beginning.xid:
            message.xid = beginning.xid
            self._ask(request, sink, branch_id)
        else:
            message.begin.CopyFrom(_begin_message(beginning, 0))
            self._ask(request, sink, branch_id, beginning)

    def report(self, xid: str, branch_id: int, result: PhaseOne, error: str) -> None:
        """Report a phase one; kept until it is durable."""
        self._reports[branch_id] = report = Report(xid, result, error)
        self._send_report(branch_id, report)

    def _send_report(self, branch_id: int, report: Report) -> None:
        if report.result is PhaseOne.DONE:
            self._outbox.report(report.xid, branch_id)
            return
        request = self._request()
        request.report.xid = report.xid
        request.report.branch_id = branch_id
        request.report.result = _PHASES[report.result]
        request.report.error = report.error
        self._outbox.request(request)

    def commit(self, xid: str, wait: Wait, sink: Sink) -> None:
        """Ask for commit; the sink hears `Done` or a `DecisionReply`."""
        request = self._request()
        request.commit.xid = xid
        request.commit.wait = _WAITS[wait]
        self._ask(request, sink)

    def rollback(self, xid: str, wait: Wait, reason: str, sink: Sink) -> None:
        """Ask for rollback; the sink hears `Done` or a `DecisionReply`."""
        request = self._request()
        request.rollback.xid = xid
        request.rollback.wait = _WAITS[wait]
        request.rollback.reason = reason
        self._ask(request, sink)

    def rollback_only(self, xid: str, reason: str, sink: Sink) -> None:
        """Veto; the sink hears `Done` or a `DecisionReply`."""
        request = self._request()
        request.rollback_only.xid = xid
        request.rollback_only.reason = reason
        self._ask(request, sink)

    def status(self, xid: str, key: str, sink: Sink) -> None:
        """Ask for a transaction; the sink hears its `Transaction` message."""
        request = self._request()
        request.status.xid = xid
        request.status.key = key
        self._ask(request, sink)

    def settled(self, xids: list[str], sink: Sink) -> None:
        """Ask which transactions are settled; the sink hears a `SettledReply`."""
        request = self._request()
        request.settled.xids.extend(xids)
        self._ask(request, sink)

    def serve(self, resource: str) -> None:
        """From now on this process does the second phases of `resource`."""
        if resource in self._resources:
            return
        self._resources[resource] = None
        if self._welcomed:
            self._announce([resource])

    def _announce(self, resources: list[str]) -> None:
        request = self._request()
        request.serve.resources.extend(resources)
        self._ask(request, _ignore)

    def done(self, xid: str, branch_id: int) -> None:
        """Answer a command: its second phase is done."""
        self._outbox.done(xid, branch_id)

    def failed(self, xid: str, branch_id: int, result: CommandResult, code: str, error: str) -> None:
        """Answer a command: its second phase did not succeed."""
        request = self._request()
        answer = request.answer
        answer.xid, answer.branch_id, answer.code, answer.error = xid, branch_id, code, error
        answer.result = _RESULTS[result]
        self._outbox.request(request)

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting to be sent, answered or made durable."""
        return not self._pending and not self._reports and not self._outbox

    # ------------------------------------------------------------ the stream

    async def run(self) -> None:
        """Keep a stream open until cancelled."""
        expiring = asyncio.ensure_future(self._expire_loop())
        pause, turn = _FIRST_PAUSE, 0
        try:
            while not self._closed:
                address = self._leader or self._config.addresses[turn % len(self._config.addresses)]
                hinted, self._leader = bool(self._leader), ""
                healthy = await self._connect(address)
                pause = _FIRST_PAUSE if healthy else min(_LONGEST_PAUSE, pause * 2)
                turn += not hinted
                if not self._leader:
                    await asyncio.sleep(pause * (0.5 + self._rng.random()))
        finally:
            expiring.cancel()

    async def _connect(self, address: str) -> bool:
        """One stream from its opening to its end; True when the coordinator served us."""
        try:
            stream = await asyncio.wait_for(self._transport.open(address), _DIAL_SECONDS)
        except (StreamBrokenError, TimeoutError) as error:
            log.debug("cannot reach the coordinator at %s: %s", address, error)
            return False
        try:
            batch = await asyncio.wait_for(self._greet(stream), _DIAL_SECONDS)
            self._welcome(batch.events[0].welcome)
            log.info("connected to the coordinator at %s, epoch %d", address, self._epoch)
            self._receive(batch)  # commands may have come with the welcome
            await self._exchange(stream)
        except _REFUSED as error:
            self._follow(error)
        except _MISCONFIGURED as error:
            log.error("the coordinator refuses this client: %s", error)
            self._fail_all(error)
        except (StreamBrokenError, TimeoutError, TxcoordError) as error:
            log.warning("the stream to the coordinator at %s ended: %s", address, error)
        finally:
            healthy, self._welcomed = self._welcomed, False
            self.connected.clear()
            await stream.close()
        return healthy

    async def _greet(self, stream: Stream) -> pb.ServerBatch:
        request = self._request()
        hello = request.hello
        hello.protocol_min = hello.protocol_max = PROTOCOL
        hello.service = self._config.service
        hello.instance = self._config.name()
        hello.token = self._config.token
        hello.resources.extend(self._resources)
        self._greeted = len(self._resources)
        hello.epoch_seen = self._epoch
        hello.commit_seq_seen = self._commit_seq
        await stream.write(pb.ClientBatch(requests=[request]))
        batch = await stream.read()
        first = batch.events[0] if batch.events else pb.Event()
        if first.HasField("error"):
            raise typed_error(first.error)
        if not first.HasField("welcome"):
            raise StreamBrokenError("the coordinator stepped down before it could welcome this client")
        if first.welcome.epoch < self._epoch:
            raise NotLeaderError("the coordinator is of an older epoch than one that was heard of")
        return batch

    def _welcome(self, welcome: pb.Welcome) -> None:
        """A new stream: everything that is not answered goes over it again."""
        if welcome.epoch > self._epoch:
            self._epoch, self._commit_seq = welcome.epoch, 0
        block = welcome.branch_ids
        self._branch_ids = range(block.first, block.first + block.count)
        self._allocating = False
        self._outbox.restart(welcome.max_batch)
        for branch_id, report in self._reports.items():
            self._send_report(branch_id, report)
        for pending in list(self._pending.values()):
            if pending.request.HasField("allocate"):
                del self._pending[pending.request.id]
            else:
                self._outbox.request(pending.request)
        self._welcomed = True
        if late := list(self._resources)[self._greeted :]:
            self._announce(late)  # registered while the hello was under way
        self.connected.set()
        self._serve_need()

    async def _exchange(self, stream: Stream) -> None:
        writing = asyncio.ensure_future(self._write_loop(stream))
        reading = asyncio.ensure_future(self._read_loop(stream))
        try:
            ended, _ = await asyncio.wait((writing, reading), return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in (writing, reading):
                task.cancel()
            await asyncio.gather(writing, reading, return_exceptions=True)

    async def _write_loop(self, stream: Stream) -> None:
        while True:
            await stream.write(await self._outbox.take())

    async def _read_loop(self, stream: Stream) -> None:
        while True:
            self._receive(await stream.read())

    def _follow(self, error: TxcoordError) -> None:
        """Go where NOT_LEADER points, but never to an older epoch."""
        leader, epoch = error.details.get("leader", ""), error.details.get("epoch", "0")
        if leader and epoch.isdigit() and int(epoch) >= self._epoch:
            self._leader = leader

    # ------------------------------------------------------------ answers

    def _receive(self, batch: pb.ServerBatch) -> None:
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
        for event in batch.events:
            self._event(event)
        for m in batch.commands:
            branches = tuple(map(BranchCommand, m.branch_ids, m.arguments))
            self._on_command(Command(m.xid, m.resource, m.commit, branches))

    def _begun(self, asked: Pending, xid: str) -> None:
        beginning = asked.beginning
        assert beginning is not None
        beginning.xid = xid
        asked.sink(xid if asked.value is None else asked.value, None)
        _go_on(beginning, None)

    def _event(self, event: pb.Event) -> None:
        kind = event.WhichOneof("body")
        if kind == "moved":
            self._leader = event.moved.leader
            raise StreamBrokenError("the coordinator stepped down")
        asked = self._pending.pop(event.id, None)
        if asked is None:
            return
        if kind == "error":
            error = typed_error(event.error)
            asked.sink(None, error)
            if asked.beginning is not None:
                _go_on(asked.beginning, error)
        elif kind == "branch_ids":
            self._branch_ids = range(event.branch_ids.first, event.branch_ids.first + event.branch_ids.count)
            self._allocating = False
            self._serve_need()
        elif kind == "status":
            asked.sink(event.status.transaction, None)
        else:
            asked.sink(getattr(event, kind or ""), None)

    # ------------------------------------------------------------ inside

    def _request(self) -> pb.Request:
        self._next_id += 1
        return pb.Request(id=self._next_id)

    def _ask(self, request: pb.Request, sink: Sink, value: object = None, beginning: Beginning | None = None) -> None:
        expires = asyncio.get_running_loop().time() + self._config.failover_wait + _SERVER_WAIT
        self._pending[request.id] = Pending(request, sink, expires, value, beginning)
        if self._welcomed:
            self._outbox.request(request)

    def _with_branch_id(self, act: Callable[[], None], failed: Sink) -> None:
        """Do `act` when there is a branch id to take."""
        if self._branch_ids and self._welcomed and not self._need_branch_id:
            act()
        else:
            expires = asyncio.get_running_loop().time() + self._config.failover_wait
            self._need_branch_id.append((act, failed, expires))
            self._serve_need()

    def _take_branch_id(self) -> int:
        taken, self._branch_ids = self._branch_ids[0], self._branch_ids[1:]
        if len(self._branch_ids) <= 2048:
            self._allocate()
        return taken

    def _allocate(self) -> None:
        if not self._allocating and self._welcomed:
            self._allocating = True
            request = self._request()
            request.allocate.count = 4096
            self._ask(request, _ignore)

    def _serve_need(self) -> None:
        while self._need_branch_id and self._welcomed:
            if not self._branch_ids:
                self._allocate()
                return
            self._need_branch_id.pop(0)[0]()

    async def _expire_loop(self) -> None:
        """Fail requests that waited too long: nobody waits for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.5)
            now = loop.time()
            for pending in [p for p in self._pending.values() if p.expires <= now]:
                del self._pending[pending.request.id]
                self._fail(pending, too_late(pending.request))
            for need in [n for n in self._need_branch_id if n[2] <= now]:
                self._need_branch_id.remove(need)
                need[1](None, unreachable())

    def _fail_all(self, error: TxcoordError) -> None:
        pending, self._pending = self._pending, {}
        needs, self._need_branch_id = self._need_branch_id, []
        for asked in pending.values():
            self._fail(asked, error)
        for _, failed, _ in needs:
            failed(None, error)

    @staticmethod
    def _fail(asked: Pending, error: TxcoordError) -> None:
        asked.sink(None, error)
        if asked.beginning is not None:
            _go_on(asked.beginning, error)


def _begin_message(beginning: Beginning, begin_key: int) -> pb.BeginRequest:
    return pb.BeginRequest(
        name=beginning.name,
        timeout_ms=beginning.timeout_ms,
        key=beginning.key,
        traceparent=beginning.traceparent,
        begin_key=begin_key,
        first_begun_at=beginning.first_begun_at,
    )


def _go_on(beginning: Beginning, error: BaseException | None) -> None:
    """The begin has been answered: those that waited for it go on, and begin anew themselves where it failed."""
    waiting, beginning.waiting = beginning.waiting or [], None
    for continuation in waiting:
        continuation(error)


def _both(sink: Sink, beginning: Beginning) -> Sink:
    def failed(value: object, error: BaseException | None) -> None:
        sink(value, error)
        _go_on(beginning, error)

    return failed


def _ignore(value: Any, error: BaseException | None) -> None:
    if error is not None:
        log.debug("a request that nobody waits for failed: %s", error)
