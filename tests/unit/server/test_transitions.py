"""The transition tables, pair by pair."""

from __future__ import annotations

from itertools import product

import pytest
from txcoord_proto.status import BranchStatus, GlobalStatus
from txcoord_server.domain.transitions import (
    BRANCH_TRANSITIONS,
    ENDED_BRANCH,
    FINAL,
    GLOBAL_TRANSITIONS,
    BranchEvent,
    ForbiddenTransitionError,
    GlobalEvent,
    next_branch,
    next_global,
)

G, B = GlobalStatus, BranchStatus
COMMIT_FAMILY = {G.COMMITTING, G.COMMITTED}
ROLLBACK_FAMILY = {G.ROLLING_BACK, G.ROLLED_BACK}


@pytest.mark.parametrize(("status", "event"), list(product(GlobalStatus, GlobalEvent)))
def test_every_global_pair_is_in_the_table_or_refused(status: GlobalStatus, event: GlobalEvent) -> None:
    to = GLOBAL_TRANSITIONS[status].get(event)
    if to is None:
        with pytest.raises(ForbiddenTransitionError, match=event):
            next_global(status, event)
        return
    assert next_global(status, event) is to
    crossing = (status in COMMIT_FAMILY and to in ROLLBACK_FAMILY) or (status in ROLLBACK_FAMILY and to in COMMIT_FAMILY)
    assert not crossing, "a decision never changes"
    assert to is not G.ACTIVE, "nothing becomes undecided"
    if to in COMMIT_FAMILY:
        assert "COMMIT" in event
    if to in ROLLBACK_FAMILY:
        assert "ROLL" in event


@pytest.mark.parametrize(("status", "event"), list(product(BranchStatus, BranchEvent)))
def test_every_branch_pair_is_in_the_table_or_refused(status: BranchStatus, event: BranchEvent) -> None:
    to = BRANCH_TRANSITIONS[status].get(event)
    if to is None:
        with pytest.raises(ForbiddenTransitionError, match=event):
            next_branch(status, event)
        return
    assert next_branch(status, event) is to
    assert to is not B.REGISTERED


def test_final_states_are_left_by_nothing() -> None:
    assert {s for s in GlobalStatus if not GLOBAL_TRANSITIONS[s]} == FINAL
    assert {s for s in BranchStatus if not BRANCH_TRANSITIONS[s]} == ENDED_BRANCH


def test_every_state_can_reach_its_end() -> None:
    for start in GlobalStatus:
        reached, grown = {start}, True
        while grown:
            following = {to for status in reached for to in GLOBAL_TRANSITIONS[status].values()}
            grown = not following <= reached
            reached |= following
        assert reached & FINAL


def test_a_failed_phase_one_is_never_committed() -> None:
    assert BRANCH_TRANSITIONS[B.FAILED] == {}
