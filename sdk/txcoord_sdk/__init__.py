"""What service code imports: the client, global transactions, TCC actions, and the errors they raise."""

from __future__ import annotations

from txcoord_proto.errors import (
    AlreadyCommittedError,
    ConfigurationError,
    CoordinatorUnreachableError,
    DeadlinePassedError,
    DeadlockError,
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
)
from txcoord_proto.status import GlobalStatus, Reason

from txcoord_sdk.client import Client, connect, global_transaction
from txcoord_sdk.config import ClientConfig, Tls
from txcoord_sdk.context import current
from txcoord_sdk.participant import ParkError, UnavailableError
from txcoord_sdk.tcc.branch import TccBranch, current_branch
from txcoord_sdk.tcc.decorator import serve_object, tcc
from txcoord_sdk.transaction.decorator import suspend
from txcoord_sdk.transaction.options import Hooks, Propagation
from txcoord_sdk.transaction.transaction import GlobalTransaction

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
    "GlobalStatus",
    "Reason",
    # TCC
    "tcc",
    "serve_object",
    "current_branch",
    "TccBranch",
    "ParkError",
    "UnavailableError",
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
]
