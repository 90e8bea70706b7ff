"""Why a transaction is where it is, and what happens next: two pure functions beside the transition table.

Each says it in one sentence for a person and with a stable code for a program. They read the transaction and nothing else, so
that the command line, the console and an error message tell the same story.
"""

from __future__ import annotations

from dataclasses import dataclass

from txcoord_proto.status import BranchStatus, Decision, GlobalStatus, Reason

from txcoord_server.domain.session import Branch, Transaction
from txcoord_server.domain.transitions import ENDED_BRANCH


@dataclass(frozen=True, slots=True)
class Explanation:
    """One sentence and its code."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class NextEvent:
    """Something that will happen by itself.

    Args:
        at: When, milliseconds since 1970 by the store's clock; 0: as soon as possible, or on somebody's act.
        code: Kind of event.
        text: The sentence for people.
    """

    at: int
    code: str
    text: str


_WHY_ROLLED_BACK = {
    Reason.REQUESTED: "its initiator asked for it",
    Reason.TIMEOUT: "its deadline passed before it was decided",
    Reason.BRANCH_UNFINISHED: "commit was asked for, but a branch did not report the end of its phase one in time",
    Reason.BRANCH_UNKNOWN: "a branch does not know how its phase one ended",
    Reason.LATE_BRANCH: "a branch registered while the commit was under way",
    Reason.ROLLBACK_ONLY: "a participant marked it rollback-only",
    Reason.DEADLOCK: "it was the youngest in a deadlock of global locks",
    Reason.FORCED: "an operator decided it",
}


def explain(transaction: Transaction) -> Explanation:
    """Why `transaction` is where it is."""
    if transaction.decision is None:
        return _explain_active(transaction)
    decided = _decided(transaction.decision, transaction.reason)
    if transaction.decision is Decision.ROLLBACK and transaction.cause:
        decided += f" ({transaction.cause})"
    parked = [b for b in transaction.branches if b.status is BranchStatus.PARKED]
    if parked:
        first = parked[0]
        return Explanation(
            "BRANCH_PARKED",
            f"{decided}, but branch {first.id} on {first.resource} needs a person: {first.error or first.error_code}.",
        )
    waiting = [b for b in transaction.branches if b.status not in ENDED_BRANCH]
    if not waiting:
        forced = ", partly by an operator's word" if transaction.forced else ""
        return Explanation("FINISHED", f"{decided}, and every branch has settled{forced}.")
    failing = [b for b in waiting if b.attempts and b.error_code]
    if failing:
        first = failing[0]
        return Explanation(
            "SECOND_PHASE_FAILING",
            f"{decided}; {len(waiting)} of {len(transaction.branches)} branches have not settled, {first.resource} failed "
            f"{first.attempts} times, last with {first.error_code}: {first.error}",
        )
    unsent = [b for b in waiting if not b.first_command_at]
    if unsent:
        return Explanation(
            "WAITS_FOR_PARTICIPANT",
            f"{decided}; {unsent[0].resource} has not been told yet: no connected process serves it, or it is busy.",
        )
    return Explanation("SECOND_PHASE_RUNNING", f"{decided}; {waiting[0].resource} has been told and has not answered.")


def explain_finished(decision: Decision, reason: Reason | None) -> str:
    """Why a transaction ended as it did, of which only the outcome is known any more."""
    return f"{_decided(decision, reason)}, and every branch has settled."


def _decided(decision: Decision, reason: Reason | None) -> str:
    if decision is Decision.COMMIT:
        return "Commit is decided by an operator" if reason is Reason.FORCED else "Commit is decided"
    return f"Rollback is decided since {_WHY_ROLLED_BACK[reason or Reason.REQUESTED]}"


def _explain_active(transaction: Transaction) -> Explanation:
    unreported = [b for b in transaction.branches if b.status is BranchStatus.REGISTERED]
    if transaction.commit_wait:
        return Explanation(
            "COMMIT_WAITS_FOR_REPORT",
            f"Commit was asked for; branch {unreported[0].id} on {unreported[0].resource} has not reported its phase one.",
        )
    if unreported:
        return Explanation(
            "PHASE_ONE_RUNNING",
            f"Not decided; phase one of {len(unreported)} of {len(transaction.branches)} branches is under way.",
        )
    return Explanation(
        "UNDECIDED",
        f"Its initiator, {transaction.service}, has not decided it; {len(transaction.branches)} branches are done.",
    )


def next_events(transaction: Transaction) -> list[NextEvent]:
    """What happens to `transaction` by itself from here on, the earliest first; empty when it is finished."""
    if transaction.status in (GlobalStatus.COMMITTED, GlobalStatus.ROLLED_BACK):
        return []
    if transaction.decision is None:
        events = []
        if transaction.commit_wait:
            events.append(
                NextEvent(transaction.commit_wait, "ROLLBACK_UNFINISHED", "It is rolled back unless all branches report.")
            )
        if transaction.deadline_at:
            events.append(NextEvent(transaction.deadline_at, "ROLLBACK_TIMEOUT", "It is rolled back unless it is decided."))
        return sorted(events, key=lambda e: e.at)
    return sorted((_next_of(b) for b in transaction.branches if b.status not in ENDED_BRANCH), key=lambda e: e.at)


def _next_of(branch: Branch) -> NextEvent:
    if branch.status is BranchStatus.PARKED:
        return NextEvent(0, "OPERATOR", f"An operator retries or forces branch {branch.id} on {branch.resource}.")
    if branch.next_try_at:
        return NextEvent(
            branch.next_try_at,
            "RETRY",
            f"Branch {branch.id} on {branch.resource} is tried again (attempt {branch.attempts + 1}).",
        )
    if branch.first_command_at:
        return NextEvent(0, "ANSWER", f"{branch.resource} answers for branch {branch.id}.")
    return NextEvent(0, "COMMAND", f"Branch {branch.id} is sent to {branch.resource} as soon as a process serves it.")
