"""Deciding a global transaction without waiting for its second phases."""

from __future__ import annotations

from txcoord_proto.status import Wait
from txcoord_sdk import Client, GlobalTransaction
from txcoord_sdk.transaction.effects import Ask, drive, perform


def decide(client: Client, transaction: GlobalTransaction, commit: bool) -> None:
    """Decide it; returns when that is durable."""
    if commit:
        drive(transaction.commit_steps(Wait.DECIDED))
    else:
        perform(Ask(lambda sink: client.rollback(transaction.xid(), Wait.DECIDED, "", sink)))
