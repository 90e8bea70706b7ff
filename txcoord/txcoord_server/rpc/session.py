"""One client's stream: batches in, batches out, with no gRPC in it, so that the simulation runs the same code.

The first message of the first batch is the hello: version, service, token, resources served. After it, requests are steps of the
engine; answers come back through the connection's queue.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from txcoord_proto.errors import (
    InvalidArgumentError,
    NotLeaderError,
    ProtocolError,
    ResourceDeniedError,
    TxcoordError,
)
from txcoord_proto.status import CommandResult, PhaseOne, Wait
from txcoord_proto.v1 import coordinator_pb2 as pb

from txcoord_server.domain.answers import OK, Begun, Refused
from txcoord_server.domain.limits import MAX_INSTANCE, MAX_RESOURCE, check_resource, clean_text
from txcoord_server.engine.connection import Connection, Principal
from txcoord_server.engine.engine import Engine
from txcoord_server.engine.node import Node
from txcoord_server.rpc import convert
from txcoord_server.rpc.auth import Authenticator

log = logging.getLogger(__name__)

PROTOCOL = 1
MAX_MESSAGE_BYTES = 4 << 20
MAX_IDS = 1 << 17  # far less than the store reserves at once
MAX_SETTLED = 10_000
MAX_RESOURCES = 1_000


class Session:
    """One stream.

    Args:
        node: Whose engine serves it.
        authenticator: Says who is calling.
        batch_cap: Messages in one batch to the client; 0: any number.
        answer_later: Awaits the answer to a rare request, one that reads the store, beside the stream, and queues it.
    """

    def __init__(
        self,
        node: Node,
        authenticator: Authenticator,
        batch_cap: int,
        answer_later: Callable[[Engine, Connection, int, Awaitable[object]], None],
    ) -> None:
        self._node = node
        self._authenticator = authenticator
        self._cap = batch_cap
        self._answer_later = answer_later
        self._connection: Connection | None = None
        self._engine: Engine | None = None
        self._handlers: dict[str, Callable[[int, Any], None]] = {
            "begin": self._begin,
            "register": self._register,
            "report": self._report,
            "commit": self._commit,
            "rollback": self._rollback,
            "rollback_only": self._rollback_only,
            "status": self._status,
            "lock_query": self._lock_query,
            "settled": self._settled,
            "allocate": self._allocate,
            "serve": self._serve,
            "answer": self._answer,
        }

    # ------------------------------------------------------------ the stream

    def open(self, first: pb.ClientBatch) -> Connection:
        """Take the first batch, which begins with the hello.

        Raises:
            TxcoordError: The client is refused; nothing was changed.
        """
        if not first.requests or first.requests[0].WhichOneof("body") != "hello":
            raise ProtocolError("the first message of a session must be its hello: use a client of txcoord")
        request_id, hello = first.requests[0].id, first.requests[0].hello
        if not hello.protocol_min <= PROTOCOL <= hello.protocol_max:
            raise ProtocolError(
                f"the client speaks protocol {hello.protocol_min} to {hello.protocol_max}, this coordinator {PROTOCOL}: "
                "upgrade the older of the two"
            )
        principal = self._authenticator.principal(hello.token, hello.service)
        engine = self._node.require_engine()
        if hello.epoch_seen > engine.lease.epoch:
            raise NotLeaderError(
                f"the client has heard of epoch {hello.epoch_seen}, this coordinator leads in {engine.lease.epoch}: it is "
                "being replaced",
                {"epoch": str(hello.epoch_seen)},
            )
        self._check_witness(engine, hello)
        resources = self._checked(principal, hello.resources)
        first_id, count = engine.grant_branch_ids()
        self._engine = engine
        self._connection = connection = Connection(principal, clean_text(hello.instance, MAX_INSTANCE))
        engine.attach(connection)
        welcome = pb.Welcome(
            protocol=PROTOCOL,
            group=engine.config.group,
            epoch=engine.lease.epoch,
            branch_ids=pb.BranchIdBlock(first=first_id, count=count),
            max_batch=self._cap,
            max_message_bytes=MAX_MESSAGE_BYTES,
        )
        connection.reply(request_id, welcome)
        engine.dispatcher.serve(connection, resources)
        del first.requests[0]
        self.receive(first)
        return connection

    @property
    def room(self) -> asyncio.Event:
        """Set while a batch may be taken; until then nothing is to be read, so that the client has to wait too."""
        return self._open[0].room

    def receive(self, batch: pb.ClientBatch) -> None:
        """Take a batch of requests.

        Raises:
            ProtocolError: It is none; nothing of it was done.
            Exception: A defect, because of which the engine ends.
        """
        engine, connection = self._open
        if len(batch.reported_xids) != len(batch.reported_branches) or len(batch.done_xids) != len(batch.done_branches):
            raise ProtocolError("columns of one batch have different lengths: each XID stands beside its branch")
        transactions, now = engine.transactions, engine.look_at_clock()
        ticket = (connection, 0)
        try:
            for xid, branch_id in zip(batch.reported_xids, batch.reported_branches):
                transactions.report(ticket, xid, branch_id, PhaseOne.DONE, "", now)
            for xid, branch_id in zip(batch.done_xids, batch.done_branches):
                engine.done(connection, xid, branch_id)
        except Exception as defect:
            engine.fail(defect)
            raise
        for request in batch.requests:
            kind = request.WhichOneof("body") or ""
            handler = self._handlers.get(kind)
            try:
                if handler is None or not request.id:
                    raise ProtocolError("a request without an id, or of a kind that this coordinator does not know")
                handler(request.id, getattr(request, kind))
            except TxcoordError as error:
                engine.ledger.refuse((connection, request.id), error)
            except Exception as defect:
                connection.answer(request.id, Refused(internal(defect)))  # at once: sent again it would do the same
                engine.fail(defect)
                return
        engine.flush()

    def next_batch(self) -> pb.ServerBatch | None:
        """What goes to the client next, once the connection is ready; None: the stream ends."""
        engine, connection = self._open
        outgoing = connection.take(self._cap)
        return None if outgoing is None else convert.batch(engine.lease.epoch, engine.commit_seq, outgoing)

    def close(self) -> None:
        """The stream has ended."""
        if self._connection is not None and self._engine is not None:
            self._engine.detach(self._connection)

    # ------------------------------------------------------------ requests

    def _begin(self, request_id: int, m: pb.BeginRequest) -> None:
        engine, connection = self._open
        transaction = engine.transactions.begin(connection.principal.service, convert.new_transaction(m), engine.now())
        connection.answer(request_id, Begun(transaction.xid))  # from memory: an XID without a row protects nothing

    def _register(self, request_id: int, m: pb.RegisterRequest) -> None:
        engine, connection = self._open
        new = convert.new_branch(m)
        new.resource = sys.intern(new.resource)
        if not connection.may(new.resource):
            raise denied(connection.principal, new.resource)
        if m.xid or not m.HasField("begin"):
            engine.transactions.register((connection, request_id), m.xid, new, engine.now())
            return
        begin = convert.new_transaction(m.begin)
        begin.begin_key = new.id
        engine.transactions.begin_and_register((connection, request_id), connection.principal.service, begin, new, engine.now())

    def _report(self, request_id: int, m: pb.ReportRequest) -> None:
        engine, connection = self._open
        result = convert.PHASES.get(m.result)
        if result is None:
            raise InvalidArgumentError(f"phase one result {m.result} is not known here", {"field": "result"})
        ticket = (connection, request_id)
        engine.transactions.report(ticket, m.xid, m.branch_id, result, m.error, engine.now())

    def _commit(self, request_id: int, m: pb.CommitRequest) -> None:
        engine, connection = self._open
        wait = convert.WAITS.get(m.wait, Wait.SETTLED)
        engine.transactions.commit((connection, request_id), connection.principal.service, m.xid, wait, engine.now())

    def _rollback(self, request_id: int, m: pb.RollbackRequest) -> None:
        engine, connection = self._open
        wait = convert.WAITS.get(m.wait, Wait.SETTLED)
        ticket = (connection, request_id)
        engine.transactions.rollback(ticket, connection.principal.service, m.xid, wait, engine.now(), m.reason)

    def _rollback_only(self, request_id: int, m: pb.RollbackOnlyRequest) -> None:
        engine, connection = self._open
        engine.transactions.rollback_only((connection, request_id), m.xid, engine.now(), m.reason)

    def _status(self, request_id: int, m: pb.StatusRequest) -> None:
        engine, connection = self._open
        self._answer_later(engine, connection, request_id, engine.inspection.status(m.xid, m.key))

    def _lock_query(self, request_id: int, m: pb.LockQuery) -> None:
        engine, connection = self._open
        engine.transactions.query_locks((connection, request_id), m.resource, tuple(m.lock_keys), m.xid)

    def _settled(self, request_id: int, m: pb.SettledQuery) -> None:
        engine, connection = self._open
        engine.transactions.settled((connection, request_id), checked_xids(m))

    def _allocate(self, request_id: int, m: pb.AllocateBranchIdsRequest) -> None:
        engine, connection = self._open
        first, count = engine.grant_branch_ids(checked_count(m.count))
        connection.reply(request_id, pb.BranchIdBlock(first=first, count=count))

    def _serve(self, request_id: int, m: pb.ServeRequest) -> None:
        engine, connection = self._open
        resources = self._checked(connection.principal, m.resources, len(connection.resources))
        connection.answer(request_id, OK)
        engine.dispatcher.serve(connection, resources)

    def _answer(self, request_id: int, m: pb.AnswerRequest) -> None:
        engine, connection = self._open
        result = convert.RESULTS.get(m.result)
        if result is None:
            raise InvalidArgumentError(f"command result {m.result} is not known here", {"field": "result"})
        if result is CommandResult.DONE:
            engine.done(connection, m.xid, m.branch_id)
        else:
            engine.failed(connection, m.xid, m.branch_id, result, m.code, m.error)
        connection.answer(request_id, OK)

    # ------------------------------------------------------------ inside

    @property
    def _open(self) -> tuple[Engine, Connection]:
        assert self._engine is not None
        assert self._connection is not None
        return self._engine, self._connection

    @staticmethod
    def _checked(principal: Principal, names: Any, already: int = 0) -> list[str]:
        if already + len(names) > MAX_RESOURCES:
            raise InvalidArgumentError(
                f"{already + len(names)} resources of one process: at most {MAX_RESOURCES} are allowed", {"field": "resources"}
            )
        for name in names:
            check_resource(name)
            if not principal.covers(name):
                raise denied(principal, name)
        return [sys.intern(name) for name in names]

    @staticmethod
    def _check_witness(engine: Engine, hello: pb.Hello) -> None:
        """A client that saw a higher commit number than the store had by the end of that epoch is witness of lost commits."""
        last = engine.commit_seq if hello.epoch_seen == engine.lease.epoch else engine.lease.commit_seq
        if hello.commit_seq_seen > last:
            log.critical(
                "a client has seen group commit %d of epoch %d, the store had got to %d: it has lost acknowledged commits; was "
                "it restored from a backup? Stop the services, and see the page on production",
                hello.commit_seq_seen, hello.epoch_seen, last,
            )  # fmt: skip


def internal(defect: Exception) -> TxcoordError:
    """The error for a request on which the coordinator failed."""
    return TxcoordError(f"the coordinator failed on this request, which is a defect of txcoord, please report it: {defect!r}")


def denied(principal: Principal, resource: str) -> ResourceDeniedError:
    """The error for a resource that the principal's token does not cover."""
    return ResourceDeniedError.of(resource[:MAX_RESOURCE], principal.name)


def checked_xids(m: pb.SettledQuery) -> tuple[str, ...]:
    """The XIDs of a settled query.

    Raises:
        InvalidArgumentError: There are too many.
    """
    if len(m.xids) > MAX_SETTLED:
        raise InvalidArgumentError(f"{len(m.xids)} XIDs in one question, at most {MAX_SETTLED} are allowed", {"field": "xids"})
    return tuple(m.xids)


def checked_count(count: int) -> int:
    """A number of branch ids that may be asked for at once.

    Raises:
        InvalidArgumentError: It is not.
    """
    if not 0 < count <= MAX_IDS:
        raise InvalidArgumentError(f"{count} branch ids: 1 to {MAX_IDS} can be asked for at once", {"field": "count"})
    return count
