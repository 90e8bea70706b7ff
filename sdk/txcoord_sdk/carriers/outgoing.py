"""One outgoing call that carries the current global transaction."""

from __future__ import annotations

import math
import time

from txcoord_proto import headers

from txcoord_sdk.context import current
from txcoord_sdk.transaction.isolation import Isolation, chosen
from txcoord_sdk.transaction.transaction import GlobalTransaction


class OutgoingCall:
    """A call that belongs to the current global transaction, if there is one.

    Args:
        what: It, for people: `POST http://stock/reservations`.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._transaction = current()

    def headers(self) -> dict[str, str]:
        """What to send along; begins the transaction if that has not happened (blocks). Empty: there is none.

        Raises:
            TransactionEndedError: The current transaction has ended; `with suspend():` is the way to call without it.
            DeadlinePassedError: Its deadline has passed.
            CoordinatorUnreachableError: It could not be begun.
        """
        return {} if self._transaction is None else _of(self._transaction, self._transaction.xid())

    async def aheaders(self) -> dict[str, str]:
        """What to send along; begins the transaction if that has not happened. Raises like `headers`."""
        return {} if self._transaction is None else _of(self._transaction, await self._transaction.axid())

    def unanswered(self, error: BaseException) -> None:
        """It was sent and got no answer: what the other side has done is not known, so the transaction must not commit."""
        if self._transaction is not None:
            self._transaction.set_rollback_only(f"{self._what} got no answer: {error!r}")


def _of(transaction: GlobalTransaction, xid: str) -> dict[str, str]:
    transaction.check_open()
    transaction.check_deadline()
    found = {headers.XID: xid}
    if (level := chosen.get() or transaction.isolation) and level != Isolation.READ_UNCOMMITTED:
        found[headers.ISOLATION] = str(level)
    if transaction.deadline < math.inf:  # else who is called asks the coordinator, as we would
        found[headers.TIMEOUT] = str(max(1, int((transaction.deadline - time.monotonic()) * 1000)))
    return found
