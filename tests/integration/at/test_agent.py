"""`txcoord-agent serve` does AT's second phases on every kind of database while the service is down."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text
from txcoord_proto.status import BranchStatus
from txcoord_sdk import Client
from txcoord_sdk.context import entered
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.agent import agent
from tests.integration.at.world import World
from tests.integration.deciding import decide


@pytest.mark.parametrize("commit", [True, False])
def test_the_service_is_down(
    bank: World, connected: Callable[..., Client], coordinator: CoordinatorProcess, commit: bool
) -> None:
    caller = connected()
    transaction = caller.new_transaction("down", 30.0, "", 0)
    with entered(bank.client.joined_transaction(transaction.xid())):
        bank.locally(lambda session: session.execute(text("UPDATE account SET balance = 7 WHERE id = 2")))
    wait_until(lambda: caller.status(transaction.xid()).branches[0].status == BranchStatus.DONE, 10, "its report")
    bank.client.close()
    assert [state for *_, state in bank.undo_rows()] == ["IMAGE"]
    with agent(coordinator.address, bank.outside.url.render_as_string(hide_password=False)):
        decide(caller, transaction, commit)
        wait_until(lambda: caller.status(transaction.xid()).settled_at, 15, "its settlement")
    assert bank.rows("SELECT balance FROM account WHERE id = 2") == [(7 if commit else 100,)]
    assert [state for *_, state in bank.undo_rows()] == ([] if commit else ["UNDONE"])
