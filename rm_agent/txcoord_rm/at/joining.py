"""Which local transactions may take part in a global one, in either mode."""

from __future__ import annotations

from txcoord_proto.errors import ConfigurationError, TransactionEndedError
from txcoord_sdk.transaction.transaction import GlobalTransaction

_SHOWN = 200


def check_same(known: GlobalTransaction, transaction: GlobalTransaction | None) -> None:
    """Refuse a statement in a local transaction of `known` in the name of another global transaction; None: in nobody's.

    Raises:
        TransactionEndedError: It is one.
    """
    if transaction not in (None, known):
        raise TransactionEndedError(
            f"this local transaction belongs to {known!r}, not to {transaction!r}: commit it first, or use another connection or "
            "session"
        )


def written_before(statement: str) -> ConfigurationError:
    """Says why a local transaction in which `statement` has run outside the global one cannot take part in it."""
    return ConfigurationError(
        f"this local transaction has written before the global one began ({statement[:_SHOWN]!r}), which a global rollback would "
        "not undo: commit it first, or begin the global transaction before it"
    )
