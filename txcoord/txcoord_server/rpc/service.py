"""`txcoord.v1.Coordinator` over grpc.aio: the stream, and the unary methods by the same steps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
from txcoord_proto.errors import ClientTooSlowError, InvalidArgumentError, TxcoordError
from txcoord_proto.status import Decision, Wait
from txcoord_proto.v1 import coordinator_pb2 as pb

from txcoord_server.domain.answers import LockState, Refused, Registered, Settlements
from txcoord_server.engine.connection import Connection, Principal
from txcoord_server.engine.engine import Engine
from txcoord_server.engine.node import Node
from txcoord_server.rpc import convert
from txcoord_server.rpc.auth import Authenticator
from txcoord_server.rpc.session import Session, checked_count, checked_xids, denied, internal
from txcoord_server.rpc.status import abort

log = logging.getLogger(__name__)

SERVICE_NAME = "txcoord.v1.Coordinator"


class CoordinatorService:
    """Handlers of the service.

    Args:
        node: Whose engine answers.
        authenticator: Says who is calling.
        batch_cap: Messages in one batch on the stream; 0: any number.
    """

    def __init__(self, node: Node, authenticator: Authenticator, batch_cap: int) -> None:
        self._node = node
        self._authenticator = authenticator
        self._cap = batch_cap
        self._tasks: set[asyncio.Task[Any]] = set()

    # ------------------------------------------------------------ the stream

    async def session(self, batches: AsyncIterator[pb.ClientBatch], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """`Session`."""
        session = Session(self._node, self._authenticator, self._cap, self._answer_later)
        try:
            first = await anext(batches, None)
            if first is None:
                return
            connection = session.open(first)
        except TxcoordError as error:
            session.close()
            await context.write(pb.ServerBatch(events=[pb.Event(id=0, error=convert.error(error))]))
            await abort(context, error)
        reading = asyncio.ensure_future(self._read(session, connection, batches))
        writing = asyncio.ensure_future(self._write(session, connection, context))
        overflowed = asyncio.ensure_future(connection.overflowed.wait())
        try:
            await asyncio.wait((writing, overflowed), return_when=asyncio.FIRST_COMPLETED)
            if overflowed.done():
                raise ClientTooSlowError(
                    f"{connection.name} does not read what it is sent, so its stream ends: it finds everything over the next"
                )
            writing.result()
            if reading.done():
                reading.result()
        except TxcoordError as error:
            log.warning("the stream of %s ends: %s", connection.name, error)
            await abort(context, error)
        finally:
            for task in (reading, writing, overflowed):
                task.cancel()
            session.close()

    @staticmethod
    async def _write(session: Session, connection: Connection, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await connection.sendable.wait()
        while (batch := session.next_batch()) is not None:
            await context.write(batch)
            await connection.sendable.wait()

    @staticmethod
    async def _read(session: Session, connection: Connection, batches: AsyncIterator[pb.ClientBatch]) -> None:
        try:
            async for batch in batches:
                while not session.room.is_set():  # another stream may have filled it before this one went on
                    await session.room.wait()
                if connection.closed:
                    return
                session.receive(batch)
        finally:
            connection.close()

    def _answer_later(self, engine: Engine, connection: Connection, request_id: int, question: Awaitable[object]) -> None:
        task = asyncio.ensure_future(_tell(engine, connection, request_id, question))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------ unary

    async def begin(self, m: pb.BeginRequest, engine: Engine, principal: Principal) -> pb.BeginReply:
        """`Begin`."""
        begun = engine.transactions.begin(principal.service, convert.new_transaction(m), engine.now())
        return pb.BeginReply(xid=begun.xid)

    async def register(self, m: pb.RegisterRequest, engine: Engine, principal: Principal) -> pb.RegisterReply:
        """`Register`."""
        new = convert.new_branch(m)
        new.tell_timeout = True
        if not principal.covers(new.resource):
            raise denied(principal, new.resource)
        call = engine.call(principal)
        ticket = (call, 0)
        if m.xid or not m.HasField("begin"):
            engine.transactions.register(ticket, m.xid, new, engine.now())
        else:
            begin = convert.new_transaction(m.begin)
            begin.begin_key = new.id
            engine.transactions.begin_and_register(ticket, principal.service, begin, new, engine.now())
        engine.flush()
        answer = await call.result()
        assert isinstance(answer, Registered)
        return pb.RegisterReply(xid=answer.xid, timeout_left_ms=answer.timeout_left)

    async def report(self, m: pb.ReportRequest, engine: Engine, principal: Principal) -> pb.ReportReply:
        """`Report`."""
        result = convert.PHASES.get(m.result)
        if result is None:
            raise InvalidArgumentError(f"phase one result {m.result} is not known here", {"field": "result"})
        call = engine.call(principal)
        engine.transactions.report((call, 0), m.xid, m.branch_id, result, m.error, engine.now(), at_once=True)
        engine.ledger.effects.durable = True
        engine.flush()
        await call.result()
        return pb.ReportReply()

    async def commit(self, m: pb.CommitRequest, engine: Engine, principal: Principal) -> pb.DecisionReply:
        """`Commit`."""
        call = engine.call(principal)
        wait = convert.WAITS.get(m.wait, Wait.SETTLED)
        engine.transactions.commit((call, 0), principal.service, m.xid, wait, engine.now())
        engine.flush()
        return convert.decision(m.xid, Decision.COMMIT, await call.result())

    async def rollback(self, m: pb.RollbackRequest, engine: Engine, principal: Principal) -> pb.DecisionReply:
        """`Rollback`."""
        call = engine.call(principal)
        wait = convert.WAITS.get(m.wait, Wait.SETTLED)
        engine.transactions.rollback((call, 0), principal.service, m.xid, wait, engine.now(), m.reason)
        engine.flush()
        return convert.decision(m.xid, Decision.ROLLBACK, await call.result())

    async def set_rollback_only(self, m: pb.RollbackOnlyRequest, engine: Engine, principal: Principal) -> pb.DecisionReply:
        """`SetRollbackOnly`."""
        call = engine.call(principal)
        engine.transactions.rollback_only((call, 0), m.xid, engine.now(), m.reason)
        engine.flush()
        return convert.decision(m.xid, Decision.ROLLBACK, await call.result())

    async def status(self, m: pb.StatusRequest, engine: Engine, principal: Principal) -> pb.StatusReply:
        """`Status`."""
        return pb.StatusReply(transaction=convert.transaction(await engine.inspection.status(m.xid, m.key)))

    async def query_locks(self, m: pb.LockQuery, engine: Engine, principal: Principal) -> pb.LockReply:
        """`QueryLocks`."""
        call = engine.call(principal)
        engine.transactions.query_locks((call, 0), m.resource, tuple(m.lock_keys), m.xid)
        engine.flush()
        answer = await call.result()
        assert isinstance(answer, LockState)
        return pb.LockReply(free=not answer.holder, holder=answer.holder)

    async def settled(self, m: pb.SettledQuery, engine: Engine, principal: Principal) -> pb.SettledReply:
        """`Settled`."""
        call = engine.call(principal)
        engine.transactions.settled((call, 0), checked_xids(m))
        engine.flush()
        answer = await call.result()
        assert isinstance(answer, Settlements)
        return convert.settlements(answer)

    async def allocate_branch_ids(self, m: pb.AllocateBranchIdsRequest, engine: Engine, principal: Principal) -> pb.BranchIdBlock:
        """`AllocateBranchIds`."""
        first, count = engine.grant_branch_ids(checked_count(m.count))
        return pb.BranchIdBlock(first=first, count=count)


async def _tell(engine: Engine, connection: Connection, request_id: int, question: Awaitable[object]) -> None:
    try:
        connection.reply(request_id, await question)
    except TxcoordError as error:
        connection.answer(request_id, Refused(error))
    except Exception as defect:
        connection.answer(request_id, Refused(internal(defect)))
        engine.fail(defect)
