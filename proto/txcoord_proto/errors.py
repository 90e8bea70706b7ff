"""Every error that txcoord raises or sends, each with a stable code.

One root; a subclass registers its code by being defined. An error says in its text what the reader can do next, says whether the
same call may succeed later (`retryable`), survives pickling, and crosses the wire as code, text and details.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

_BY_CODE: dict[str, type[TxcoordError]] = {}


class TxcoordError(Exception):
    """Root of all errors of txcoord.

    Args:
        message: What happened and what to do next.
        details: Further facts by name, as text (for instance `holder`, `leader`, `retry_after_ms`).
    """

    code: ClassVar[str] = "INTERNAL"
    """Stable name of the kind of error."""
    retryable: ClassVar[bool] = False
    """Whether the same call, or a new transaction, may succeed later."""

    def __init__(self, message: str, details: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, str] = dict(details or {})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" in cls.__dict__:
            known = _BY_CODE.setdefault(cls.code, cls)
            if known.__qualname__ != cls.__qualname__:
                raise TypeError(f"{cls.__name__} takes the code {cls.code} of {known.__name__}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.details)


def from_wire(code: str, message: str, details: Mapping[str, str]) -> TxcoordError:
    """The error that the other side sent; a code that this version does not know becomes a plain `TxcoordError`."""
    kind = _BY_CODE.get(code)
    if kind is None:
        return TxcoordError(f"{message} [{code}]", details)
    return kind(message, details)


def known_codes() -> dict[str, type[TxcoordError]]:
    """All codes that have been defined so far, with their classes."""
    return dict(_BY_CODE)


# ---------------------------------------------------------------- bad input


class InvalidArgumentError(TxcoordError):
    """An argument is outside its range; nothing was changed."""

    code = "INVALID_ARGUMENT"


class MalformedXidError(InvalidArgumentError):
    """The text is not an XID."""

    code = "XID_MALFORMED"

    @classmethod
    def of(cls, text: str) -> Self:
        """The error for `text`."""
        return cls(
            f"{text[:80]!r} is not an XID: pass on the XID exactly as the coordinator gave it, "
            "in the txcoord-xid header or by hand"
        )


class MessageTooLargeError(InvalidArgumentError):
    """A message exceeds the size limit."""

    code = "MESSAGE_TOO_LARGE"


class ProtocolError(TxcoordError):
    """The peer does not keep to the protocol, or speaks no version of it that this side speaks."""

    code = "PROTOCOL"


class MissingExtraError(TxcoordError, ImportError):
    """A feature needs a package that is not installed."""

    code = "MISSING_EXTRA"

    @classmethod
    def of(cls, feature: str, extra: str) -> Self:
        """The error for a feature that needs `extra`."""
        return cls(f"{feature} needs more packages: pip install 'txcoord[{extra}]'", {"extra": extra})


class ConfigurationError(TxcoordError):
    """A setting or the way the library is used is wrong."""

    code = "CONFIGURATION"


class UnsupportedSqlError(TxcoordError):
    """A statement in a global transaction could not be undone for certain: it has no effect. Details: `statement`, `reason`."""

    code = "UNSUPPORTED_SQL"


# ---------------------------------------------------------------- the transaction's state


class UnknownXidError(TxcoordError):
    """The coordinator has no such transaction: it was never begun, or it ended without branches and is taken as rolled back."""

    code = "XID_UNKNOWN"
    retryable = True


class ExpiredXidError(TxcoordError):
    """The transaction finished long ago; its outcome is no longer kept."""

    code = "XID_EXPIRED"
    retryable = True


class UnknownEpochError(TxcoordError):
    """The XID belongs to an epoch that the store does not know: nothing can be said of it, a person has to look."""

    code = "XID_EPOCH_UNKNOWN"


class NotActiveError(TxcoordError):
    """The transaction is already decided: no branch can register any more."""

    code = "NOT_ACTIVE"
    retryable = True


class AlreadyCommittedError(TxcoordError):
    """Rollback was asked for, but commit is decided; a decision never changes."""

    code = "ALREADY_COMMITTED"


class BranchMismatchError(TxcoordError):
    """The branch id is registered with other contents, or is not a branch of that transaction."""

    code = "BRANCH_MISMATCH"


class VersionChangedError(TxcoordError):
    """The transaction has changed since the operator looked at it."""

    code = "VERSION_CHANGED"


class CannotForceError(TxcoordError):
    """An operator's order would change a decision or commit what is not done."""

    code = "CANNOT_FORCE"


# ---------------------------------------------------------------- global locks


class LockConflictError(TxcoordError):
    """Another global transaction holds the row."""

    code = "LOCK_CONFLICT"
    retryable = True


class LockTimeoutError(LockConflictError):
    """The row did not come free within the lock wait."""

    code = "LOCK_TIMEOUT"


class DeadlockError(LockConflictError):
    """The transaction was chosen to end a deadlock of global locks."""

    code = "DEADLOCK"


# ---------------------------------------------------------------- who may do what


class UnauthenticatedError(TxcoordError):
    """The token is missing or unknown."""

    code = "UNAUTHENTICATED"


class ResourceDeniedError(TxcoordError):
    """The token does not cover the resource."""

    code = "RESOURCE_DENIED"

    @classmethod
    def of(cls, resource: str, token: str = "") -> Self:
        """The error for `resource`, and the name of the token where it is known."""
        named = f"the token {token!r}" if token else "the caller's token"
        return cls(
            f"{named} does not cover resource {resource!r}: give it a pattern that does, with `txcoord token add --resource`",
            {"resource": resource},
        )


class WrongOwnerError(TxcoordError):
    """Only the service that began a transaction may commit it or roll it back."""

    code = "WRONG_OWNER"

    @classmethod
    def of(cls, xid: str, owner: str, act: str) -> Self:
        """The error for somebody else who wants to `commit` or `rollback` a transaction of service `owner`."""
        return cls(
            f"{xid} was begun by service {owner}, and only that service may {act} it; a participant that wants it undone raises "
            "an error, or marks it rollback-only"
        )


class RoleDeniedError(TxcoordError):
    """The token lacks the role `operator`."""

    code = "ROLE_DENIED"


# ---------------------------------------------------------------- the coordinator's condition


class TooManyTransactionsError(TxcoordError):
    """A limit on unfinished transactions is reached, of this client or in all."""

    code = "TOO_MANY_TRANSACTIONS"
    retryable = True


class ClientTooSlowError(TxcoordError):
    """A client does not read what it is sent; its stream is ended, so that it does not fill the coordinator's memory."""

    code = "CLIENT_TOO_SLOW"
    retryable = True


class NotLeaderError(TxcoordError):
    """This node does not lead; `details` name the one that does, if it is known."""

    code = "NOT_LEADER"
    retryable = True


class NotReadyError(TxcoordError):
    """The node is taking over or loading; ask again shortly."""

    code = "NOT_READY"
    retryable = True


class StoreUnavailableError(TxcoordError):
    """The coordinator cannot write to its store, so nothing durable can be answered."""

    code = "STORE_UNAVAILABLE"
    retryable = True


class StoreError(TxcoordError):
    """The store is not fit to be used: an unknown schema version, not our tables."""

    code = "STORE_UNFIT"


class UnsafeStoreError(StoreError):
    """The database's settings can lose acknowledged commits; `--unsafe-store` accepts that."""

    code = "STORE_UNSAFE"


# ---------------------------------------------------------------- what the SDK's callers meet


class RolledBackError(TxcoordError):
    """The global transaction was rolled back; `details` hold the XID and the reason."""

    code = "GLOBAL_ROLLED_BACK"
    retryable = True

    @property
    def xid(self) -> str:
        """The XID, empty when it never had one."""
        return self.details.get("xid", "")

    @property
    def reason(self) -> str:
        """Why, as a `Reason`."""
        return self.details.get("reason", "")


class OutcomeUnknownError(TxcoordError):
    """Whether commit was decided is not known here; the coordinator finishes the transaction: ask for its status by XID."""

    code = "OUTCOME_UNKNOWN"

    @property
    def xid(self) -> str:
        """The XID to ask for."""
        return self.details.get("xid", "")


class CoordinatorUnreachableError(TxcoordError):
    """No coordinator answered in time; nothing that depends on its answer was done."""

    code = "COORDINATOR_UNREACHABLE"
    retryable = True


class TransactionEndedError(TxcoordError):
    """The transaction object has been committed or rolled back already."""

    code = "TRANSACTION_ENDED"


class NoTransactionError(TxcoordError):
    """A global transaction is needed and there is none."""

    code = "NO_TRANSACTION"


class TransactionExistsError(TxcoordError):
    """A global transaction exists where none may be (propagation NEVER)."""

    code = "TRANSACTION_EXISTS"


class LocalTransactionOpenError(TxcoordError):
    """Commit was asked for while a local transaction of this global transaction is open in this process."""

    code = "LOCAL_TRANSACTION_OPEN"


class DeadlinePassedError(TxcoordError):
    """The global transaction's deadline passed before its local work was done."""

    code = "DEADLINE_PASSED"
    retryable = True


class ForeignXidError(TxcoordError):
    """An XID came from a caller from whom this service takes none."""

    code = "FOREIGN_XID"
