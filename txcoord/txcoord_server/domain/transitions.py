"""The two state machines, global transaction and branch, as frozen tables, and what they mean in words.

Nothing else in the coordinator says which change of status is allowed. A pair that is missing from a table is a change that never
happens: asking for it raises `ForbiddenTransitionError`, whereupon the coordinator throws its memory away and reads the store
anew. The documentation's page of states is rendered from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from txcoord_proto.status import BranchStatus, GlobalStatus, Name


class GlobalEvent(Name):
    """What can happen to a global transaction."""

    DECIDE_COMMIT = "DECIDE_COMMIT"
    """Commit is decided: every branch that takes part has reported DONE."""
    DECIDE_ROLLBACK = "DECIDE_ROLLBACK"
    """Rollback is decided, on request, at the deadline or by a rule."""
    ALL_COMMITTED = "ALL_COMMITTED"
    """The last branch of a committed transaction has settled."""
    ALL_ROLLED_BACK = "ALL_ROLLED_BACK"
    """The last branch of a rolled-back transaction has settled."""
    PARK = "PARK"
    """A branch's second phase needs a person."""
    RESUME_COMMIT = "RESUME_COMMIT"
    """No branch of a committed transaction is parked any more."""
    RESUME_ROLLBACK = "RESUME_ROLLBACK"
    """No branch of a rolled-back transaction is parked any more."""


class BranchEvent(Name):
    """What can happen to a branch."""

    REPORT_DONE = "REPORT_DONE"
    """Its participant's local COMMIT returned."""
    REPORT_FAILED = "REPORT_FAILED"
    """Its participant's local rollback is certain."""
    REPORT_UNKNOWN = "REPORT_UNKNOWN"
    """Its participant does not know how phase one ended."""
    SETTLE = "SETTLE"
    """Its second phase is done."""
    PARK = "PARK"
    """Its second phase needs a person."""
    RETRY = "RETRY"
    """An operator wants its second phase tried again."""
    FORCE = "FORCE"
    """An operator declares its second phase done."""


class ForbiddenTransitionError(Exception):
    """A change of status that the tables do not allow: a defect, never an input error."""

    def __init__(self, status: StrEnum, event: StrEnum) -> None:
        super().__init__(f"{event} is not allowed in {status}")


G: Final = GlobalStatus
E: Final = GlobalEvent

GLOBAL_TRANSITIONS: Final[Mapping[GlobalStatus, Mapping[GlobalEvent, GlobalStatus]]] = MappingProxyType(
    {
        G.ACTIVE: {E.DECIDE_COMMIT: G.COMMITTING, E.DECIDE_ROLLBACK: G.ROLLING_BACK},
        G.COMMITTING: {E.ALL_COMMITTED: G.COMMITTED, E.PARK: G.PARKED},
        G.ROLLING_BACK: {E.ALL_ROLLED_BACK: G.ROLLED_BACK, E.PARK: G.PARKED},
        G.PARKED: {
            E.PARK: G.PARKED,
            E.RESUME_COMMIT: G.COMMITTING,
            E.RESUME_ROLLBACK: G.ROLLING_BACK,
            E.ALL_COMMITTED: G.COMMITTED,
            E.ALL_ROLLED_BACK: G.ROLLED_BACK,
        },
        G.COMMITTED: {},
        G.ROLLED_BACK: {},
    }
)
"""What leads where, for global transactions."""

B: Final = BranchStatus
V: Final = BranchEvent

_REPORTS: Final = {V.REPORT_DONE: B.DONE, V.REPORT_FAILED: B.FAILED, V.REPORT_UNKNOWN: B.UNKNOWN}
_SECOND_PHASE: Final = {V.SETTLE: B.SETTLED, V.PARK: B.PARKED, V.FORCE: B.FORCED}

BRANCH_TRANSITIONS: Final[Mapping[BranchStatus, Mapping[BranchEvent, BranchStatus]]] = MappingProxyType(
    {
        # A branch that has not reported, or does not know, is told to roll back: its fence makes that safe.
        B.REGISTERED: _REPORTS | _SECOND_PHASE,
        B.UNKNOWN: _SECOND_PHASE,
        B.DONE: _SECOND_PHASE,
        B.FAILED: {},
        B.PARKED: {V.RETRY: B.DONE, V.SETTLE: B.SETTLED, V.PARK: B.PARKED, V.FORCE: B.FORCED},
        B.SETTLED: {},
        B.FORCED: {},
    }
)
"""What leads where, for branches. RETRY puts a parked branch back among those whose second phase is due."""

FINAL: Final = frozenset({G.COMMITTED, G.ROLLED_BACK})
"""States that nothing leaves."""

ENDED_BRANCH: Final = frozenset({B.FAILED, B.SETTLED, B.FORCED})
"""Branches that nothing is expected of any more."""


def next_global(status: GlobalStatus, event: GlobalEvent) -> GlobalStatus:
    """The status after `event`.

    Raises:
        ForbiddenTransitionError: The table has no such pair.
    """
    to = GLOBAL_TRANSITIONS[status].get(event)
    if to is None:
        raise ForbiddenTransitionError(status, event)
    return to


def next_branch(status: BranchStatus, event: BranchEvent) -> BranchStatus:
    """The status of a branch after `event`.

    Raises:
        ForbiddenTransitionError: The table has no such pair.
    """
    to = BRANCH_TRANSITIONS[status].get(event)
    if to is None:
        raise ForbiddenTransitionError(status, event)
    return to
