"""Names of the headers in which a global transaction travels, the same for HTTP, gRPC metadata and messages."""

from __future__ import annotations

XID = "txcoord-xid"
"""The XID of the transaction that the call belongs to."""
TIMEOUT = "txcoord-timeout-ms"
"""Milliseconds that were left of the transaction when the call was sent."""
ISOLATION = "txcoord-isolation"
"""At which level it reads in AT mode: `read_committed`, `serializable`; where the caller has said so."""
TRACEPARENT = "traceparent"
"""W3C trace context."""
AUTHORIZATION = "authorization"
"""`Bearer TOKEN`, on unary calls to the coordinator."""
SERVICE = "txcoord-service"
"""Name of the calling service, on unary calls to the coordinator without tokens."""
ERROR_DETAIL = "txcoord-error-bin"
"""Trailing metadata of a failed unary call: a serialised `txcoord.v1.Error`."""
