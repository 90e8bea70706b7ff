"""`txcoord.v1.Coordinator` over grpc.aio: the stream, and the unary methods by the same steps."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
from txcoord_proto.errors import InvalidArgumentError, TxcoordError
from txcoord_proto.status import Decision, Wait
from txcoord_proto.v1 import coordinator_pb2 as pb

from txcoord_server.domain.answers import Answer, Begun, LockState, Refused, Settlements
from txcoord_server.engine.connection import Principal
from txcoord_server.engine.engine import Engine
from txcoord_server.engine.node import Node
from txcoord_server.rpc import convert
from txcoord_server.rpc.auth import Authenticator
from txcoord_server.rpc.session import Session, checked_count, checked_xids, denied
from txcoord_server.rpc.status import abort

SERVICE_NAME = "txcoord.v1.Coordinator"
_numbers = itertools.count(1)


class UnaryCall:
    """The recipient of one unary call's answer."""

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.number = next(_numbers)
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def may(self, resource: str) -> bool:
        """Whether the caller's token covers `resource`."""
        return self.principal.covers(resource)

    def answer(self, request_id: int, answer: Answer) -> None:
        """Take the answer."""
        if not self._answer.done():
            self._answer.set_result(answer)

    async def result(self) -> Answer:
        """The answer, or the error that it is."""
        answer = await self._answer
        if isinstance(answer, Refused):
            raise answer.error
        return answer


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
        session = Session(self._node, self._authenticator, self._cap, self._spawn)
        try:
            first = await anext(batches, None)
            if first is None:
                return
            session.open(first)
        except TxcoordError as error:
            await context.write(pb.ServerBatch(events=[pb.Event(id=0, error=convert.error(error))]))
            await abort(context, error)
        reading = asyncio.ensure_future(self._read(session, batches))
        try:
            while (batch := await session.next_batch()) is not None:
                await context.write(batch)
            if reading.done():
                reading.result()
        except TxcoordError as error:
            await abort(context, error)
        finally:
            reading.cancel()
            session.close()

    @staticmethod
    async def _read(session: Session, batches: AsyncIterator[pb.ClientBatch]) -> None:
        connection = session.connection
        assert connection is not None
        try:
            async for batch in batches:
                if connection.closed:
                    return
                session.receive(batch)
        finally:
            connection.close()

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
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
        if not principal.covers(new.resource):
            raise denied(principal, new.resource)
        call = UnaryCall(principal)
        ticket = (call, call.number)
        if m.xid or not m.HasField("begin"):
            engine.transactions.register(ticket, m.xid, new, engine.now())
        else:
            begin = convert.new_transaction(m.begin)
            begin.begin_key = new.id
            engine.transactions.begin_and_register(ticket, principal.service, begin, new, engine.now())
        engine.flush()
        answer = await call.result()
        return pb.RegisterReply(xid=answer.xid if isinstance(answer, Begun) else m.xid)

    async def report(self, m: pb.ReportRequest, engine: Engine, principal: Principal) -> pb.ReportReply:
        """`Report`."""
        result = convert.PHASES.get(m.result)
        if result is None:
            raise InvalidArgumentError(f"phase one result {m.result} is not known here", {"field": "result"})
        call = UnaryCall(principal)
        engine.transactions.report((call, call.number), m.xid, m.branch_id, result, m.error, engine.now())
        engine.ledger.effects.durable = True
        engine.flush()
        await call.result()
        return pb.ReportReply()

    async def commit(self, m: pb.CommitRequest, engine: Engine, principal: Principal) -> pb.DecisionReply:
        """`Commit`."""
        call = UnaryCall(principal)
        wait = convert.WAITS.get(m.wait, Wait.SETTLED)
        engine.transactions.commit((call, call.number), principal.service, m.xid, wait, engine.now())
        engine.flush()
        return convert.decision(m.xid, Decision.COMMIT, await call.result())

    async def rollback(self, m: pb.RollbackRequest, engine: Engine, principal: Principal) -> pb.DecisionReply:
        """`Rollback`."""
        call = UnaryCall(principal)
        wait = convert.WAITS.get(m.wait, Wait.SETTLED)
        engine.transactions.rollback((call, call.number), principal.service, m.xid, wait, engine.now(), m.reason)
        engine.flush()
        return convert.decision(m.xid, Decision.ROLLBACK, await call.result())

    async def set_rollback_only(self, m: pb.RollbackOnlyRequest, engine: Engine, principal: Principal) -> pb.DecisionReply:
        """`SetRollbackOnly`."""
        call = UnaryCall(principal)
        engine.transactions.rollback_only((call, call.number), m.xid, engine.now(), m.reason)
        engine.flush()
        return convert.decision(m.xid, Decision.ROLLBACK, await call.result())

    async def status(self, m: pb.StatusRequest, engine: Engine, principal: Principal) -> pb.StatusReply:
        """`Status`."""
        return pb.StatusReply(transaction=convert.transaction(await engine.inspection.status(m.xid, m.key)))

    async def query_locks(self, m: pb.LockQuery, engine: Engine, principal: Principal) -> pb.LockReply:
        """`QueryLocks`."""
        call = UnaryCall(principal)
        engine.transactions.query_locks((call, call.number), m.resource, tuple(m.lock_keys), m.xid)
        engine.flush()
        answer = await call.result()
        assert isinstance(answer, LockState)
        return pb.LockReply(free=not answer.holder, holder=answer.holder)

    async def settled(self, m: pb.SettledQuery, engine: Engine, principal: Principal) -> pb.SettledReply:
        """`Settled`."""
        call = UnaryCall(principal)
        engine.transactions.settled((call, call.number), checked_xids(m))
        engine.flush()
        answer = await call.result()
        assert isinstance(answer, Settlements)
        return convert.settlements(answer)

    async def allocate_branch_ids(self, m: pb.AllocateBranchIdsRequest, engine: Engine, principal: Principal) -> pb.BranchIdBlock:
        """`AllocateBranchIds`."""
        first, count = engine.grant_branch_ids(checked_count(m.count))
        return pb.BranchIdBlock(first=first, count=count)
