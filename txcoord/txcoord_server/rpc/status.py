"""Errors as gRPC status, with the typed error in the trailing metadata."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from txcoord_proto import errors
from txcoord_proto.headers import ERROR_DETAIL

from txcoord_server.rpc import convert

_STATUS: tuple[tuple[type[errors.TxcoordError], grpc.StatusCode], ...] = (
    (errors.MessageTooLargeError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ProtocolError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (errors.ResourceDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.WrongOwnerError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.RoleDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.UnknownXidError, grpc.StatusCode.NOT_FOUND),
    (errors.ExpiredXidError, grpc.StatusCode.NOT_FOUND),
    (errors.UnknownEpochError, grpc.StatusCode.NOT_FOUND),
    (errors.ClientTooSlowError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.TooManyTransactionsError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.LockConflictError, grpc.StatusCode.ABORTED),
    (errors.NotLeaderError, grpc.StatusCode.UNAVAILABLE),
    (errors.NotReadyError, grpc.StatusCode.UNAVAILABLE),
    (errors.StoreUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (errors.TxcoordError, grpc.StatusCode.FAILED_PRECONDITION),
)


def status_of(error: errors.TxcoordError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: errors.TxcoordError) -> NoReturn:
    """End a call with an error."""
    detail = convert.error(error).SerializeToString()
    await context.abort(status_of(error), error.message, ((ERROR_DETAIL, detail),))
    raise AssertionError("abort returned")
