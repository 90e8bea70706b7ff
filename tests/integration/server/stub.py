"""A plain unary client of the coordinator, for tests that speak the wire themselves."""

from __future__ import annotations

import itertools
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from txcoord_proto.errors import TxcoordError, from_wire
from txcoord_proto.headers import AUTHORIZATION, ERROR_DETAIL, SERVICE
from txcoord_proto.v1 import coordinator_pb2 as pb

R = TypeVar("R", bound=Message)

STOCK = "stock:reserve@1"
BALANCE = "balance:debit@2"


class Stub:
    """Calls methods of a coordinator as one service."""

    def __init__(self, address: str, service: str = "order", token: str = "") -> None:
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._metadata = [(SERVICE, service)] if service else []
        if token:
            self._metadata.append((AUTHORIZATION, f"Bearer {token}"))
        self._branch_ids = itertools.count(0)

    def call(self, method: str, request: Message, reply: type[R], service: str = "Coordinator", timeout: float = 10.0) -> R:
        """One call; raises the typed error that the answer carries."""
        return self.raw(f"/txcoord.v1.{service}/{method}", request.SerializeToString(), reply, timeout)

    def raw(self, path: str, data: bytes, reply: type[R], timeout: float = 10.0) -> R:
        """One call with any bytes."""
        method: Any = self._channel.unary_unary(path, response_deserializer=reply.FromString)
        try:
            answer: R = method(data, metadata=self._metadata, timeout=timeout)
        except grpc.RpcError as error:
            raise typed(error) from error
        return answer

    def begin(self, **fields: Any) -> str:
        """Begin; returns the XID."""
        return self.call("Begin", pb.BeginRequest(**{"name": "test", **fields}), pb.BeginReply).xid

    def register(self, xid: str, resource: str = STOCK, kind: pb.BranchType = pb.TCC, id: int = 0, **fields: Any) -> int:
        """Register a branch; returns its id."""
        branch = id or self.call("AllocateBranchIds", pb.AllocateBranchIdsRequest(count=1), pb.BranchIdBlock).first
        request = pb.RegisterRequest(xid=xid, branch_id=branch, type=kind, resource=resource, **fields)
        self.call("Register", request, pb.RegisterReply)
        return branch

    def report(self, xid: str, branch: int, result: pb.PhaseOne = pb.PHASE_ONE_DONE) -> None:
        """Report a phase one."""
        self.call("Report", pb.ReportRequest(xid=xid, branch_id=branch, result=result), pb.ReportReply)

    def commit(self, xid: str, wait: pb.Wait = pb.WAIT_DECIDED) -> pb.DecisionReply:
        """Commit."""
        return self.call("Commit", pb.CommitRequest(xid=xid, wait=wait), pb.DecisionReply)

    def rollback(self, xid: str, wait: pb.Wait = pb.WAIT_DECIDED) -> pb.DecisionReply:
        """Roll back."""
        return self.call("Rollback", pb.RollbackRequest(xid=xid, wait=wait), pb.DecisionReply)

    def status(self, xid: str = "", key: str = "") -> pb.Transaction:
        """A transaction."""
        return self.call("Status", pb.StatusRequest(xid=xid, key=key), pb.StatusReply).transaction

    def serving(self) -> bool:
        """What the coordinator says of its health."""
        request = health_pb2.HealthCheckRequest()
        answer = self.raw("/grpc.health.v1.Health/Check", request.SerializeToString(), health_pb2.HealthCheckResponse)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def prepared(self, *resources: str) -> str:
        """A transaction whose branches are all done; returns its XID."""
        xid = self.begin()
        for resource in resources or (STOCK, BALANCE):
            self.report(xid, self.register(xid, resource))
        return xid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._channel.close()


def typed(error: grpc.RpcError) -> TxcoordError | grpc.RpcError:
    """The typed error in the trailing metadata, or the plain one where there is none."""
    for name, value in error.trailing_metadata() or ():
        if name == ERROR_DETAIL:
            detail = pb.Error.FromString(value)
            return from_wire(detail.code, detail.message, dict(detail.details))
    return error
