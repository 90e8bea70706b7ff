"""What an operator may order: try a second phase again now, or decide and declare done by his word.

An order carries the version that he saw; it is refused, and changes nothing, when the transaction has changed since. A decision
never changes, and commit is never decided over a branch that has not reported DONE. Every order that is carried out leaves a row
of the audit in the same group commit, and is answered after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from txcoord_proto.errors import CannotForceError, InvalidArgumentError, TxcoordError, VersionChangedError
from txcoord_proto.status import Decision, Reason

from txcoord_server.domain import limits as bounds
from txcoord_server.domain.answers import OK, Ticket
from txcoord_server.domain.effects import AbsentQuestion
from txcoord_server.domain.session import Transaction
from txcoord_server.domain.transactions import Transactions


class Act(StrEnum):
    """What an operator can do to a transaction; the name is kept in the audit."""

    RETRY = "RETRY"
    """Try every branch that is parked or waits for its next try, now."""
    FORCE_COMMIT = "FORCE_COMMIT"
    """Decide commit; of one that is decided so, declare done what has not settled."""
    FORCE_ROLLBACK = "FORCE_ROLLBACK"
    """Decide rollback; of one that is decided so, declare done what has not settled."""


_FORCED = {Act.FORCE_COMMIT: Decision.COMMIT, Act.FORCE_ROLLBACK: Decision.ROLLBACK}


@dataclass(frozen=True, slots=True)
class Order:
    """An operator's order.

    Args:
        act: What he wants.
        xid: Of which transaction.
        version: Of the transaction when he looked at it.
        actor: Who he is, for the audit.
        reason: Why, for the audit; a force needs one.
    """

    act: Act
    xid: str
    version: int
    actor: str
    reason: str = ""

    def check(self) -> None:
        """Refuse an order that is incomplete.

        Raises:
            InvalidArgumentError: Something is missing or too long.
        """
        if not self.version:
            raise InvalidArgumentError(
                "an order carries the version of the transaction that you saw: `txcoord show XID` prints it", {"field": "version"}
            )
        bounds.check_text("reason", self.reason, bounds.MAX_REASON)
        if self.act in _FORCED and not self.reason.strip():
            raise InvalidArgumentError("say why you force it: the audit keeps the reason", {"field": "reason"})


class Operator:
    """Carries out orders.

    Args:
        transactions: The group's transactions.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._ledger = transactions.ledger

    def carry_out(self, ticket: Ticket, order: Order, now: int) -> None:
        """Do what is ordered; answered with Ok after the group commit that also holds the audit, or refused."""
        try:
            order.check()
            transaction = self._ledger.by_xid.get(order.xid)
            if transaction is None:
                self._ledger.ask_store(AbsentQuestion(ticket, "order", (order.xid,)))
                return
            self._carry_out(transaction, order, now)
        except TxcoordError as error:
            self._ledger.refuse(ticket, error)
            return
        row = (order.xid, order.version, order.act.value, now, order.actor[: bounds.MAX_NAME], order.reason)
        self._ledger.effects.audit.append(row)
        self._ledger.answer(ticket, OK)

    def _carry_out(self, transaction: Transaction, order: Order, now: int) -> None:
        if transaction.revision != order.version:
            raise _changed(transaction, order)
        decision = _FORCED.get(order.act)
        if decision is None:
            self._retry(transaction, now)
        elif transaction.decision is None:
            self._decide(transaction, decision, now, order.reason)
        elif transaction.decision is decision:
            self._transactions.settler.force(transaction, now)
        else:
            raise CannotForceError(
                f"{order.xid} is decided {transaction.decision}, and a decision never changes: repair the data by hand so that "
                f"it agrees with {transaction.decision}, then `txcoord force-{transaction.decision.lower()} {order.xid}`"
            )

    def _retry(self, transaction: Transaction, now: int) -> None:
        if transaction.decision is None:
            raise CannotForceError(
                f"{transaction.xid} is not decided, so it has no second phase to retry: its initiator decides it, or its "
                f"deadline; `txcoord force-rollback {transaction.xid}` rolls it back now"
            )
        self._transactions.settler.retry(transaction, now)

    def _decide(self, transaction: Transaction, decision: Decision, now: int, why: str) -> None:
        if decision is Decision.COMMIT and transaction.unreported:
            raise CannotForceError(
                f"{transaction.unreported} of {len(transaction.branches)} branches of {transaction.xid} have not reported that "
                "their phase one is done, so commit could lose their part: wait for the reports, or "
                f"`txcoord force-rollback {transaction.xid}`"
            )
        self._transactions.decide(transaction, decision, Reason.FORCED, now, why)


def _changed(transaction: Transaction, order: Order) -> VersionChangedError:
    xid, version, status = transaction.xid, transaction.revision, transaction.status
    return VersionChangedError(
        f"{xid} has changed since you looked: you saw version {order.version}, it is version {version} and {status} now; look "
        f"again with `txcoord show {xid}`",
        {"version": str(version), "status": status},
    )
