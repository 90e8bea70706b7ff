"""An operator's calls on the wire, for tests."""

from __future__ import annotations

from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.v1 import operator_pb2 as op
from txcoord_sdk.testing import wait_until

from tests.integration.server.participant import Participant
from tests.integration.server.stub import STOCK, Stub


class Desk(Stub):
    """An operator's calls."""

    def list(self, **fields: object) -> list[str]:
        request = op.ListRequest(**fields)  # type: ignore[arg-type]
        return [t.xid for t in self.call("List", request, op.ListReply, "Operator").transactions]

    def show(self, xid: str = "", key: str = "") -> op.ShowReply:
        return self.call("Show", pb.StatusRequest(xid=xid, key=key), op.ShowReply, "Operator")

    def retry(self, xid: str, version: int, reason: str = "") -> pb.Transaction:
        request = op.RetryRequest(xid=xid, version=version, reason=reason)
        return self.call("Retry", request, pb.StatusReply, "Operator").transaction

    def force(self, xid: str, commit: bool, version: int, reason: str = "rows were repaired") -> pb.Transaction:
        request = op.ForceRequest(xid=xid, commit=commit, version=version, reason=reason)
        return self.call("Force", request, pb.StatusReply, "Operator").transaction

    def locks(self, **fields: object) -> op.LocksReply:
        return self.call("Locks", op.LocksRequest(**fields), op.LocksReply, "Operator")  # type: ignore[arg-type]

    def overview(self) -> op.OverviewReply:
        return self.call("Overview", op.OverviewRequest(), op.OverviewReply, "Operator")

    def reaches(self, xid: str, status: int) -> pb.Transaction:
        wait_until(lambda: self.show(xid).transaction.status == status, what=f"{xid} in {pb.GlobalStatus.Name(status)}")
        return self.show(xid).transaction

    def parked(self, participant: Participant) -> pb.Transaction:
        """A committed transaction of which a branch is parked."""
        participant.result = pb.COMMAND_PARK
        xid = self.prepared(STOCK)
        self.commit(xid)
        return self.reaches(xid, pb.PARKED)
