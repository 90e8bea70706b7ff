"""`txcoord.v1.Operator` over grpc.aio: a person's questions, for any token, and acts, for operators."""

from __future__ import annotations

from importlib.metadata import version
from typing import TypeVar

from txcoord_proto.errors import InvalidArgumentError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.v1 import operator_pb2 as op

from txcoord_server.domain.operator import Act, Order
from txcoord_server.engine.connection import Principal
from txcoord_server.engine.engine import Engine
from txcoord_server.engine.inspection import ActView
from txcoord_server.engine.storage import ListFilter
from txcoord_server.rpc import convert
from txcoord_server.rpc.auth import require_operator

SERVICE_NAME = "txcoord.v1.Operator"
T = TypeVar("T")


class OperatorService:
    """Handlers of the service.

    Args:
        node: Name of this node, for people.
        store: The store's URL without its password, for people.
    """

    def __init__(self, node: str, store: str) -> None:
        self._node = node
        self._store = store

    # ------------------------------------------------------------ questions

    async def list(self, m: op.ListRequest, engine: Engine, principal: Principal) -> op.ListReply:
        """`List`."""
        limit = _limit(m.limit, 50, 500)
        wanted = ListFilter(convert.statuses(m.statuses), m.service, m.key, limit + 1, m.after)
        shown, more = _page(await engine.inspection.listing(wanted, m.overdue), limit)
        return op.ListReply(transactions=[convert.transaction(v) for v in shown], more=more)

    async def show(self, m: pb.StatusRequest, engine: Engine, principal: Principal) -> op.ShowReply:
        """`Show`."""
        shown = await engine.inspection.status(m.xid, m.key)
        acts = await engine.inspection.audit(shown.xid)
        return op.ShowReply(transaction=convert.transaction(shown), acts=[_act(a) for a in acts])

    async def locks(self, m: op.LocksRequest, engine: Engine, principal: Principal) -> op.LocksReply:
        """`Locks`."""
        limit = _limit(m.limit, 100, 1000)
        shown, more = _page(await engine.inspection.locks(m.resource, m.xid, limit + 1), limit)
        held = [op.HeldLock(resource=e.resource, key=e.key, xid=e.holder.xid, waiters=[w.xid for w in e.waiters]) for e in shown]
        return op.LocksReply(locks=held, more=more)

    async def overview(self, m: op.OverviewRequest, engine: Engine, principal: Principal) -> op.OverviewReply:
        """`Overview`."""
        seen = engine.inspection.overview()
        served = [
            op.ServedResource(resource=r.resource, sessions=r.sessions, waiting=r.waiting, unavailable=r.unavailable)
            for r in seen.resources
        ]
        return op.OverviewReply(
            version=version("txcoord"),
            group=engine.config.group,
            epoch=engine.lease.epoch,
            commit_seq=engine.commit_seq,
            node=self._node,
            store=self._store,
            transactions=seen.transactions,
            resources=served,
            locks=engine.ledger.locks.count,
            locks_waited=engine.ledger.locks.waited,
            sessions=len(engine.connections),
            now=engine.look_at_clock(),
            oldest_begun_at=seen.oldest_begun_at,
            health=engine.trouble,
            overdue=len(engine.ledger.overdue),
        )

    # ------------------------------------------------------------ acts

    async def retry(self, m: op.RetryRequest, engine: Engine, principal: Principal) -> pb.StatusReply:
        """`Retry`."""
        return await self._carry_out(Order(Act.RETRY, m.xid, m.version, principal.name, m.reason), engine, principal)

    async def force(self, m: op.ForceRequest, engine: Engine, principal: Principal) -> pb.StatusReply:
        """`Force`."""
        act = Act.FORCE_COMMIT if m.commit else Act.FORCE_ROLLBACK
        return await self._carry_out(Order(act, m.xid, m.version, principal.name, m.reason), engine, principal)

    @staticmethod
    async def _carry_out(order: Order, engine: Engine, principal: Principal) -> pb.StatusReply:
        require_operator(principal)
        call = engine.call(principal)
        transaction = engine.ledger.by_xid.get(order.xid)
        engine.operator.carry_out((call, 0), order, engine.now())
        shown = engine.inspection.view(transaction) if transaction is not None else None
        engine.flush()
        await call.result()
        assert shown is not None, "what is not in memory is refused"
        return pb.StatusReply(transaction=convert.transaction(shown))


def _limit(wanted: int, default: int, most: int) -> int:
    if wanted > most:
        raise InvalidArgumentError(f"limit {wanted}: at most {most} rows come at once; ask for the next page", {"field": "limit"})
    return wanted or default


def _page(found: list[T], limit: int) -> tuple[list[T], bool]:
    """What was asked for of one row more than that, and whether there is more."""
    return found[:limit], len(found) > limit


def _act(a: ActView) -> op.Act:
    return op.Act(version=a.version, act=a.act, at=a.at, actor=a.actor, reason=a.reason)
