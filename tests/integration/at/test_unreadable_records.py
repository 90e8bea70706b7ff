"""A record that this version cannot read is never misread: its rollback stops, the row and the record stay."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session
from txcoord_sdk.testing import wait_until

from tests.integration.at.test_sessions import START, add, all_of
from tests.integration.at.world import World


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("format = 99", "has format 99"),
        ("xid = 'another'", "another transaction"),
        ("afters = NULL", "undo record"),
    ],
)
def test_a_record_that_cannot_be_read_parks_the_rollback(accounts: World, damage: str, said: str) -> None:
    def spoil(session: Session) -> None:
        accounts.script(f"UPDATE txcoord_undo_log SET {damage} WHERE seq = 1")

    accounts.globally(add(5), spoil, undo=True)
    wait_until(lambda: accounts.status() == "PARKED", what="the parked rollback")
    assert said in accounts.explanation()
    assert all_of(accounts) == [(1, "ann", 105), *START[1:]], "nothing was undone"
    assert [state for _, _, state in accounts.undo_rows()] == ["IMAGE"], "and its record is still there"
