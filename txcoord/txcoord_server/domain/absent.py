"""What to answer about XIDs that are not in memory, from what the store keeps: pure rules.

An XID without a row is taken as rolled back only where that is proven: its epoch is known to the store, and retention has not
passed it. Finished long ago is EXPIRED; an epoch that the store does not know means that nothing can be said.
"""

from __future__ import annotations

from collections.abc import Mapping

from txcoord_proto.errors import (
    AlreadyCommittedError,
    CannotForceError,
    ExpiredXidError,
    MalformedXidError,
    NotActiveError,
    TxcoordError,
    UnknownEpochError,
    UnknownXidError,
    WrongOwnerError,
)
from txcoord_proto.status import Decision, GlobalStatus, Reason, Settlement
from txcoord_proto.xid import Xid

from txcoord_server.domain.answers import SETTLED, Answer, Decided, Refused, Settlements
from txcoord_server.domain.effects import AbsentQuestion, StoredOutcome
from txcoord_server.domain.explain import explain_finished
from txcoord_server.domain.transitions import FINAL


class History:
    """The epochs that the store knows, with the highest purged sequence of each.

    Args:
        group: Name of the group.
        purged: Highest purged sequence by epoch; 0: none.
    """

    def __init__(self, group: str, purged: Mapping[int, int]) -> None:
        self.group = group
        self.purged = dict(purged)

    def why_absent(self, text: str) -> TxcoordError:
        """The error about an XID that has no row."""
        try:
            xid = Xid.parse(text)
        except MalformedXidError as error:
            return error
        purged = self.purged.get(xid.epoch) if xid.group == self.group else None
        if purged is None:
            return UnknownEpochError(
                f"{text} was begun in epoch {xid.epoch} of group {xid.group}, which this store does not know: check that the "
                "client and the coordinator use the same store; was it restored from a backup?"
            )
        if xid.sequence <= purged:
            return ExpiredXidError(f"{text} finished long ago and its outcome is no longer kept: begin a new transaction")
        return UnknownXidError(
            f"{text} is not known: it was rolled back, or never had a branch; begin a new transaction",
            {"presumed": GlobalStatus.ROLLED_BACK},
        )


def answer_absent(question: AbsentQuestion, found: Mapping[str, StoredOutcome], history: History) -> Answer:
    """The answer to a question about XIDs that are not in memory.

    Args:
        question: What was asked.
        found: What the store keeps of its XIDs.
        history: For those of which it keeps nothing.
    """
    if question.kind == "settled":
        return Settlements(
            tuple(known or _settlement(xid, found, history) for xid, known in zip(question.xids, question.known, strict=True))
        )
    (xid,) = question.xids
    outcome = found.get(xid)
    if outcome is None:
        error = history.why_absent(xid)
        if question.kind == "rollback" and isinstance(error, UnknownXidError):
            return SETTLED  # presumed abort: nothing of it can ever be committed
        return Refused(error)
    if question.service and question.service != outcome.service:
        return Refused(WrongOwnerError.of(xid, outcome.service, question.kind))
    if question.kind == "register":
        return Refused(
            NotActiveError(
                f"{xid} is {outcome.status} ({outcome.reason}): a branch can no longer register; roll the local transaction "
                "back and begin a new global transaction",
                {"status": outcome.status, "reason": outcome.reason},
            )
        )
    if question.kind == "order":
        return Refused(CannotForceError(f"{xid} is {outcome.status}: it is finished, there is nothing left to retry or force"))
    if question.kind == "rollback" and outcome.status == GlobalStatus.COMMITTED:
        return Refused(
            AlreadyCommittedError(f"{xid} is COMMITTED, and a decision never changes: undo its effects with a new transaction")
        )
    wanted = GlobalStatus.COMMITTED if question.kind == "commit" else GlobalStatus.ROLLED_BACK
    if outcome.status == wanted:
        return SETTLED
    decision = Decision.COMMIT if outcome.status == GlobalStatus.COMMITTED else Decision.ROLLBACK
    explanation = explain_finished(decision, Reason(outcome.reason) if outcome.reason else None)
    return Decided(xid, outcome.status, decision, outcome.reason, True, explanation)


def _settlement(xid: str, found: Mapping[str, StoredOutcome], history: History) -> Settlement:
    outcome = found.get(xid)
    if outcome is not None:
        return Settlement.SETTLED if outcome.status in FINAL else Settlement.UNSETTLED
    return Settlement.EXPIRED if isinstance(history.why_absent(xid), ExpiredXidError) else Settlement.UNKNOWN
