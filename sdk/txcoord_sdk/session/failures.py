"""The errors with which requests end that the coordinator refused, or did not answer."""

from __future__ import annotations

from txcoord_proto.errors import (
    CoordinatorUnreachableError,
    MessageTooLargeError,
    OutcomeUnknownError,
    TxcoordError,
    from_wire,
)
from txcoord_proto.v1 import coordinator_pb2 as pb


def typed_error(m: pb.Error) -> TxcoordError:
    """The error that the coordinator sent."""
    return from_wire(m.code, m.message, dict(m.details))


def unreachable(met: str = "") -> CoordinatorUnreachableError:
    """No coordinator answered.

    Args:
        met: What the last attempt ended with.
    """
    last = f" (the last attempt: {met})" if met else ""
    return CoordinatorUnreachableError(
        "no coordinator answered in time: is `txcoord serve` running, and does TXCOORD_ADDRESS (or connect's address) name "
        f"it?{last}"
    )


def closed() -> CoordinatorUnreachableError:
    """The client was closed meanwhile."""
    return CoordinatorUnreachableError("the client was closed before an answer came")


def too_large(size: int, most: int) -> MessageTooLargeError:
    """A request does not fit into a batch."""
    return MessageTooLargeError(
        f"a request of {size} bytes: at most {most} are allowed; pass a key, and keep the data in your own table"
    )


def unanswered(request: pb.Request, error: TxcoordError) -> TxcoordError:
    """What it means for `request` that it ended with `error`: of a decision it may be that it was taken."""
    kind = request.WhichOneof("body")
    if isinstance(error, CoordinatorUnreachableError) and kind in ("commit", "rollback"):
        xid = getattr(request, kind).xid
        return OutcomeUnknownError(
            f"the {kind} of {xid} was not answered ({error}): it will be finished one way or the other, ask for its status",
            {"xid": xid},
        )
    return error
