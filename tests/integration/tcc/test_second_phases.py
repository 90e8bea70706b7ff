"""Second phases: what they run on, what their errors mean, and arguments of another version."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from txcoord_proto.errors import (
    InvalidArgumentError,
)
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk import Client, tcc
from txcoord_sdk.context import enter, leave
from txcoord_sdk.participant import BranchCommand, Command
from txcoord_sdk.sealed_transaction import SealedTransaction
from txcoord_sdk.tcc.action import Action
from txcoord_sdk.tcc.second_phase import TccParticipant
from txcoord_sdk.testing import wait_until

from tests.integration.tcc.conftest import create_stock, fences, move, stock
from tests.integration.tcc.test_branches import found, nothing, reserve_on


def test_a_confirm_that_fails_is_tried_again_and_stops_nobody(client: Client, sqlite_engine: Engine) -> None:
    client.bind(sqlite_engine)
    good = reserve_on(client)
    tries: list[int] = []

    @tcc("flaky", client=client)
    def flaky(conn: Connection) -> None:
        move(conn, -1, 1, 0)

    @flaky.confirm
    def _confirm(conn: Connection) -> str:
        move(conn, 0, -1, 1)
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("not yet")
        return "receipt-7"

    flaky.cancel(nothing)
    with client.global_transaction(name="order") as transaction:
        flaky()
        good(quantity=2)
    wait_until(lambda: found(client, transaction).status == pb.COMMITTED, what="the third try")
    assert stock(sqlite_engine) == (7, 0, 3)
    assert len(tries) == 3
    with sqlite_engine.connect() as connection:
        assert list(connection.scalars(text("SELECT result FROM txcoord_fence WHERE result IS NOT NULL"))) == ['"receipt-7"']


def test_a_confirm_without_its_row_waits_for_a_person(client: Client, sqlite_engine: Engine) -> None:
    client.bind(sqlite_engine)
    reserve = reserve_on(client)
    with client.global_transaction(name="order") as transaction:
        reserve()
        with sqlite_engine.begin() as connection:
            connection.execute(text("DELETE FROM txcoord_fence"))
    seen = found(client, transaction)
    assert seen.status == pb.PARKED
    assert seen.branches[0].error_code == "PARK"
    assert "finds no tried row" in seen.branches[0].error
    assert stock(sqlite_engine) == (9, 1, 0)


def test_an_error_of_user_code_does_not_make_the_database_unreachable(client: Client, sqlite_engine: Engine) -> None:
    """Else one confirm whose bank does not answer would hold up all second phases of the service."""
    client.bind(sqlite_engine)
    failures: list[Exception] = [ConnectionRefusedError("the bank"), OperationalError("SELECT 1", None, OSError("elsewhere"))]

    @tcc("remote", client=client)
    def remote(conn: Connection) -> None:
        move(conn, -1, 1, 0)

    @remote.confirm
    def _confirm(conn: Connection) -> None:
        move(conn, 0, -1, 1)
        if failures:
            seen.append(found(client, transaction).branches[0].error_code)
            raise failures.pop(0)

    remote.cancel(nothing)
    seen: list[str] = []
    with client.global_transaction(name="order") as transaction:
        remote()
    wait_until(lambda: stock(sqlite_engine) == (9, 0, 1), what="the third try")
    assert seen == ["", "ConnectionRefusedError"]


def test_a_confirm_of_a_newer_version_is_told_what_the_old_try_did_not_store(client: Client, sqlite_engine: Engine) -> None:
    """Between deployments: the try stored what it had, and names are matched."""
    client.bind(sqlite_engine)
    old = reserve_on(client)
    participant = TccParticipant(newer(client), client.databases.get())
    with client.global_transaction(name="order") as transaction:
        old(quantity=2)
        branch_id = client.status(transaction.known_xid).branches[0].id
        arguments = old.action.plan.encode({"quantity": 2})
        command = Command(transaction.known_xid, "stock:reserve@x", True, (BranchCommand(branch_id, arguments),))
        with pytest.raises(InvalidArgumentError, match=r"stored no \['price'\].*give the confirm a default"):
            participant.settle(command, command.branches[0])
        assert fences(sqlite_engine) == ["TRIED"], "nothing was done"
        undo = replace(command, commit=False)
        participant.settle(undo, undo.branches[0])
        assert stock(sqlite_engine) == (8, 2, 100)
        transaction.rollback()


def newer(client: Client) -> Any:
    """The action with a parameter more."""
    action = Action("newer", reserve_v2, "auto", "")
    action.take("confirm", confirm_v2)
    action.take("cancel", cancel_v2)
    return action


def reserve_v2(session: Session, quantity: int, price: int) -> None: ...


def confirm_v2(session: Session, price: int) -> None: ...


def cancel_v2(session: Session, quantity: int, price: int = 50) -> None:
    move(session, 0, 0, quantity * price)


def test_our_pool_is_like_the_applications_and_does_not_wait_for_it(client: Client, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/service.db", pool_size=1, max_overflow=0, pool_timeout=1)

    @event.listens_for(engine, "connect")
    def set_up(dbapi_connection: Any, record: object) -> None:
        dbapi_connection.execute("PRAGMA foreign_keys = ON")

    create_stock(engine)
    client.bind(engine)
    reserve = reserve_on(client)
    seen: list[object] = []

    @tcc("look", client=client)
    def look(conn: Connection) -> None:
        """Nothing to do."""

    @look.confirm
    def _confirm(conn: Connection) -> None:
        seen.append(conn.scalar(text("PRAGMA foreign_keys")))

    look.cancel(nothing)
    transaction = client.new_transaction("order", 60, "", 0)
    token = enter(transaction)
    reserve()
    look()
    leave(token)
    with engine.connect():  # the application holds its only connection
        transaction.commit()
        assert transaction.settled
    assert seen == [1], "its listeners run on ours"
    assert stock(engine) == (9, 0, 1)
    engine.dispose()


def test_an_unreachable_database_is_said_to_be_unavailable(client: Client, sqlite_engine: Engine, tmp_path: Path) -> None:
    client.bind(sqlite_engine)
    reserve = reserve_on(client)
    away = tmp_path / "away"
    with client.global_transaction(name="order") as transaction:
        reserve()
        client.databases.close()
        sqlite_engine.dispose()
        (tmp_path / "service.db").rename(away)
        (tmp_path / "service.db").mkdir()
    assert transaction is not None
    wait_until(lambda: bool(found(client, transaction).branches[0].error_code), what="the answer")
    assert found(client, transaction).branches[0].error_code == "RESOURCE_UNAVAILABLE"
    (tmp_path / "service.db").rmdir()
    away.rename(tmp_path / "service.db")
    wait_until(lambda: stock(sqlite_engine) == (9, 0, 1), timeout=20, what="the confirm")


def test_there_are_as_many_second_phases_as_connections(client: Client, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/three.db")
    create_stock(engine)
    client.bind(engine, connections=3)
    database = client.databases.get()
    database.prepare()
    meet, late = threading.Barrier(3), threading.Event()

    def hold(connection: Connection) -> int:
        return meet.wait(10)

    with ThreadPoolExecutor(4) as pool:
        held = [pool.submit(database.run, hold) for _ in range(2)]
        time.sleep(0.1)
        assert not any(one.done() for one in held)
        held.append(pool.submit(database.run, hold))
        assert sorted(one.result(10) for one in held) == [0, 1, 2]
        waiting = [pool.submit(database.run, lambda c: late.wait(10)) for _ in range(4)]
        time.sleep(0.2)
        assert database._gate._value == 0, "a fourth waits"
        late.set()
        assert all(one.result(10) for one in waiting)
    engine.dispose()


def test_a_fork_frees_what_another_thread_held(client: Client, sqlite_engine: Engine) -> None:
    client.bind(sqlite_engine)
    database = client.databases.get()
    database.prepare()
    with database._lock, database._preparing:  # as another thread of the parent may, at the moment of the fork
        pid = os.fork()
        if pid == 0:
            code = 3
            with contextlib.suppress(BaseException):
                code = 0 if database.run(lambda c: c.scalar(text("SELECT 7"))) == 7 else 4
            os._exit(code)
        until = time.monotonic() + 20
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
            time.sleep(0.02)
        if ended == (0, 0):
            os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    assert ended[0] == pid


def test_a_sealed_transaction_gives_its_place_back(sqlite_engine: Engine, client: Client) -> None:
    client.bind(sqlite_engine)
    database = client.databases.get()
    for _ in range(5):  # more often than there are places
        with pytest.raises(ZeroDivisionError):
            database.run(lambda c: 1 / 0)
    local = SealedTransaction(sqlite_engine)
    local.start(lambda c: None)
    local.close()
    assert database.run(lambda c: c.scalar(text("SELECT 1"))) == 1
