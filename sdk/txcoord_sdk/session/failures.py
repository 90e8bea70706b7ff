"""The errors with which requests end that the coordinator refused, or did not answer in time."""

from __future__ import annotations

from txcoord_proto.errors import CoordinatorUnreachableError, OutcomeUnknownError, TxcoordError, from_wire
from txcoord_proto.v1 import coordinator_pb2 as pb


def typed_error(m: pb.Error) -> TxcoordError:
    """The error that the coordinator sent."""
    return from_wire(m.code, m.message, dict(m.details))


def unreachable() -> CoordinatorUnreachableError:
    """No coordinator answered."""
    return CoordinatorUnreachableError(
        "no coordinator answered in time: is `txcoord serve` running, and does TXCOORD_ADDRESS (or connect's address) name it?"
    )


def too_late(request: pb.Request) -> TxcoordError:
    """The error of a request that was not answered in time."""
    kind = request.WhichOneof("body")
    if kind in ("commit", "rollback"):
        xid = getattr(request, kind).xid
        return OutcomeUnknownError(
            f"no coordinator answered the {kind} of {xid} in time; it will be finished one way or the other: ask for its status",
            {"xid": xid},
        )
    return unreachable()
