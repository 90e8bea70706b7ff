"""What service code imports: the client, global transactions, TCC actions, and the errors they raise.

A name is imported when it is first asked for: the pytest plugin is in this package, and pytest loads it in every test run of
every project that has txcoord installed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from txcoord_proto.errors import (
        AlreadyCommittedError,
        ConfigurationError,
        CoordinatorUnreachableError,
        DeadlinePassedError,
        DeadlockError,
        ExpiredXidError,
        ForeignXidError,
        InvalidArgumentError,
        LocalTransactionOpenError,
        LockConflictError,
        NotActiveError,
        NoTransactionError,
        OutcomeUnknownError,
        RolledBackError,
        TransactionEndedError,
        TransactionExistsError,
        TxcoordError,
        UnknownXidError,
        WrongOwnerError,
    )
    from txcoord_proto.status import GlobalStatus, Reason

    from txcoord_sdk.carriers.by_hand import acurrent_headers, current_headers, joined
    from txcoord_sdk.client import Client, connect, global_transaction
    from txcoord_sdk.config import ClientConfig, Tls
    from txcoord_sdk.context import current
    from txcoord_sdk.fence.fence import HangingTryError, RepeatedTryError, TryLostError
    from txcoord_sdk.participant import ParkError, UnavailableError
    from txcoord_sdk.tcc.branch import TccBranch, current_branch
    from txcoord_sdk.tcc.decorator import serve_object, tcc
    from txcoord_sdk.transaction.decorator import resume, suspend
    from txcoord_sdk.transaction.options import Hooks, Propagation
    from txcoord_sdk.transaction.transaction import GlobalTransaction

HOMES = {
    "txcoord_proto.errors": (
        "AlreadyCommittedError",
        "ConfigurationError",
        "CoordinatorUnreachableError",
        "DeadlinePassedError",
        "DeadlockError",
        "ExpiredXidError",
        "ForeignXidError",
        "InvalidArgumentError",
        "LocalTransactionOpenError",
        "LockConflictError",
        "NoTransactionError",
        "NotActiveError",
        "OutcomeUnknownError",
        "RolledBackError",
        "TransactionEndedError",
        "TransactionExistsError",
        "TxcoordError",
        "UnknownXidError",
        "WrongOwnerError",
    ),
    "txcoord_proto.status": ("GlobalStatus", "Reason"),
    "txcoord_sdk.carriers.by_hand": ("acurrent_headers", "current_headers", "joined"),
    "txcoord_sdk.client": ("Client", "connect", "global_transaction"),
    "txcoord_sdk.config": ("ClientConfig", "Tls"),
    "txcoord_sdk.context": ("current",),
    "txcoord_sdk.fence.fence": ("HangingTryError", "RepeatedTryError", "TryLostError"),
    "txcoord_sdk.participant": ("ParkError", "UnavailableError"),
    "txcoord_sdk.tcc.branch": ("TccBranch", "current_branch"),
    "txcoord_sdk.tcc.decorator": ("serve_object", "tcc"),
    "txcoord_sdk.transaction.decorator": ("resume", "suspend"),
    "txcoord_sdk.transaction.options": ("Hooks", "Propagation"),
    "txcoord_sdk.transaction.transaction": ("GlobalTransaction",),
}
"""Where each public name is; the imports above say the same to type checkers."""

__all__ = [  # noqa: RUF022 - grouped
    # the client
    "connect",
    "Client",
    "ClientConfig",
    "Tls",
    # global transactions
    "global_transaction",
    "GlobalTransaction",
    "Propagation",
    "Hooks",
    "current",
    "suspend",
    "resume",
    "GlobalStatus",
    "Reason",
    # headers by hand; carriers for HTTP and gRPC are in txcoord_sdk.carriers
    "current_headers",
    "acurrent_headers",
    "joined",
    # TCC
    "tcc",
    "serve_object",
    "current_branch",
    "TccBranch",
    "ParkError",
    "UnavailableError",
    "HangingTryError",
    "RepeatedTryError",
    "TryLostError",
    # errors
    "TxcoordError",
    "AlreadyCommittedError",
    "ConfigurationError",
    "CoordinatorUnreachableError",
    "DeadlinePassedError",
    "DeadlockError",
    "ForeignXidError",
    "InvalidArgumentError",
    "LocalTransactionOpenError",
    "LockConflictError",
    "NoTransactionError",
    "NotActiveError",
    "OutcomeUnknownError",
    "RolledBackError",
    "TransactionEndedError",
    "TransactionExistsError",
    "UnknownXidError",
    "ExpiredXidError",
    "WrongOwnerError",
]

_HOME = {name: module for module, names in HOMES.items() for name in names}


class Package(ModuleType):
    """This package: imports names when they are asked for."""

    @property
    def tcc(self) -> Any:
        """The decorator, although a subpackage has its name."""
        return import_module("txcoord_sdk.tcc.decorator").tcc

    @tcc.setter
    def tcc(self, subpackage: ModuleType) -> None:
        """The import system sets an attribute for each subpackage; this one stays out of the way."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(_HOME[name]), name)
        setattr(self, name, found)
        return found

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = Package
