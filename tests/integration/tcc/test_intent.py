"""An intent whose commit is not answered: its row may be there, so its cancel has to come."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from txcoord_sdk import Client, RolledBackError, UnavailableError, tcc
from txcoord_sdk.testing import wait_until

from tests.integration.tcc.conftest import fences


class Unanswered(sqlite3.Connection):
    """Loses the answer to a COMMIT when it is told to, once."""

    lost = False

    def commit(self) -> None:
        super().commit()
        if Unanswered.lost:
            Unanswered.lost = False
            raise ConnectionResetError("the answer to COMMIT is lost")


def test_an_intent_with_an_unknown_commit_is_cancelled(client: Client, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/service.db", connect_args={"factory": Unanswered})
    client.bind(engine)
    client.databases.get().prepare()
    ran: list[str] = []

    @tcc("pay", client=client, fence="intent")
    def pay() -> None:
        ran.append("try")

    @pay.confirm
    def _confirm() -> None:
        ran.append("confirm")

    @pay.cancel
    def _cancel() -> None:
        ran.append("cancel")

    @client.global_transaction
    def order() -> None:
        Unanswered.lost = True
        with pytest.raises(UnavailableError):
            pay()
        assert fences(engine) == ["TRIED"], "it was committed"

    with pytest.raises(RolledBackError, match="BRANCH_UNKNOWN"):
        order()
    wait_until(lambda: fences(engine) == ["CANCELLED"], what="the cancel")
    assert ran == ["cancel"]
    engine.dispose()
