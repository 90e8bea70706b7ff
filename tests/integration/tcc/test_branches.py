"""What a branch goes through, one behaviour each: fences of every kind, failures, deadlines, methods, wrong databases."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session
from txcoord_proto.errors import (
    ConfigurationError,
    DeadlinePassedError,
    InvalidArgumentError,
    LocalTransactionOpenError,
    NoTransactionError,
    RolledBackError,
)
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk import Client, GlobalTransaction, TccBranch, current, current_branch, serve_object, tcc
from txcoord_sdk.context import enter, leave
from txcoord_sdk.fence import fence
from txcoord_sdk.fence.fence import HangingTryError
from txcoord_sdk.tcc.cleaning import purge
from txcoord_sdk.tcc.decorator import Try
from txcoord_sdk.tcc.first_phase import Call, SyncFirstPhase
from txcoord_sdk.testing import wait_until
from txcoord_sdk.transaction.effects import perform

from tests.integration.tcc.conftest import create_stock, fences, move, stock


def nothing() -> None:
    """Confirm or cancel with nothing to do."""


def found(client: Client, transaction: Any) -> pb.Transaction:
    return client.status(transaction.known_xid)


def reserve_on(client: Client, name: str = "reserve") -> Try[..., None]:
    @tcc(name, client=client)
    def reserve(session: Session, quantity: int = 1) -> None:
        move(session, -quantity, quantity, 0)

    @reserve.confirm
    def _confirm(session: Session, quantity: int) -> None:
        move(session, 0, -quantity, quantity)

    @reserve.cancel
    def _cancel(session: Session, quantity: int) -> None:
        move(session, quantity, -quantity, 0)

    return reserve


# ---------------------------------------------------------------- without a database, and intents


Ran = list[tuple[str, TccBranch | None]]


def outside(client: Client, fails: Callable[[], bool], **options: Any) -> tuple[Try[..., None], Ran]:
    """An action whose effects are a list, and what ran on it."""
    ran: Ran = []

    @tcc("pay", client=client, **options)
    def pay(amount: int) -> None:
        ran.append(("try", current_branch()))
        if fails():
            raise TimeoutError("no answer from the bank")

    @pay.confirm
    def _confirm(amount: int) -> None:
        ran.append(("confirm", current_branch()))

    @pay.cancel
    def _cancel() -> None:
        ran.append(("cancel", current_branch()))

    return pay, ran


@pytest.mark.parametrize("fence_kind", ["auto", "intent"])
def test_effects_outside_a_local_transaction(client: Client, sqlite_engine: Engine, fence_kind: str) -> None:
    client.bind(sqlite_engine)
    broken: list[bool] = []
    pay, ran = outside(client, lambda: bool(broken), fence=fence_kind)
    with client.global_transaction(name="order") as transaction:
        pay(amount=3)
    assert [kind for kind, _ in ran] == ["try", "confirm"]
    assert ran[0][1] == ran[1][1], "the branch is the same: an idempotency key for the bank"
    assert transaction is not None
    branch = found(client, transaction).branches[0]
    assert branch.resource.startswith(f"{client.service}:pay@")
    assert branch.resource.endswith("@-") is (fence_kind == "auto")
    ran.clear()
    broken.append(True)
    with pytest.raises(RolledBackError), client.global_transaction(name="order") as failing, pytest.raises(TimeoutError):
        pay(amount=3)  # caught: nobody knows what the bank did, so the whole is rolled back, and cancel is called
    wait_until(lambda: [kind for kind, _ in ran] == ["try", "cancel"], what="the cancel")
    assert found(client, failing).reason == "BRANCH_UNKNOWN"
    if fence_kind == "intent":
        wait_until(lambda: fences(sqlite_engine) == ["CANCELLED", "CONFIRMED"], what="its row")


def test_an_intent_is_durable_before_its_try_runs(client: Client, sqlite_engine: Engine) -> None:
    client.bind(sqlite_engine)
    seen: list[list[str]] = []

    @tcc("ship", client=client, fence="intent")
    def ship(conn: Connection) -> None:
        seen.append(fences(sqlite_engine))
        move(conn, -1, 1, 0)

    ship.confirm(nothing)
    ship.cancel(nothing)
    with client.global_transaction(name="order"):
        ship()
    assert seen == [["TRIED"]]
    assert stock(sqlite_engine) == (9, 1, 0)


def test_a_database_without_a_fence(client: Client, sqlite_engine: Engine) -> None:
    client.bind(sqlite_engine)

    @tcc("reserve", client=client, fence=None)
    def reserve(conn: Connection) -> None:
        move(conn, -1, 1, 0)

    @reserve.confirm
    def _confirm(session: Session) -> None:
        move(session, 0, -1, 1)

    reserve.cancel(nothing)
    with client.global_transaction(name="order"):
        reserve()
    assert stock(sqlite_engine) == (9, 0, 1)
    assert fences(sqlite_engine) == []


async def test_plain_and_async_functions_together(connected: Callable[..., Client]) -> None:
    client = connected()
    ran: list[str] = []

    @tcc("mixed", client=client)
    def mixed() -> None:
        ran.append("try")

    @mixed.confirm
    async def _confirm() -> None:
        ran.append("confirm")

    @mixed.cancel
    def _cancel() -> None:
        ran.append("cancel")

    async with client:
        async with client.global_transaction(name="a"):
            await _in_thread(mixed)

        async def fails() -> None:
            async with client.global_transaction(name="b"):
                await _in_thread(mixed)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fails()
    assert ran == ["try", "confirm", "try", "cancel"]


async def _in_thread(function: Callable[[], object]) -> None:
    await asyncio.to_thread(function)


# ---------------------------------------------------------------- hanging tries, old tries, deadlines


def test_a_hanging_try_in_the_callers_session_has_no_effect(client: Client, engine: Engine) -> None:
    """The cancel arrives between the registration and the try: the very code is stepped through, so the moment is certain."""
    client.bind(engine)
    reserve = reserve_on(client)
    database = client.databases.get()

    def cancelled_before(transaction: GlobalTransaction, session: Session) -> None:
        steps = Call(client, reserve.action, None, {"quantity": 3}, session).steps(SyncFirstPhase())
        value: Any = None
        while True:
            effect = steps.send(value)
            if isinstance(value, int):  # the branch id: registered, nothing written yet
                key = (transaction.known_xid, value, reserve.action.resource(client.service, database.id))
                database.run(lambda c: fence.cancelled(c, *key))  # noqa: B023 - called at once
            try:
                value = perform(effect)
            except HangingTryError as error:
                steps.throw(error)

    def order() -> None:
        with client.global_transaction(name="order") as transaction, Session(engine) as session:
            assert transaction is not None
            with pytest.raises(HangingTryError):
                cancelled_before(transaction, session)
            session.execute(text("UPDATE stock SET sold = 100"))
            session.commit()  # what else the caller did is his
            wait_until(lambda: found(client, transaction).branches[0].status == "FAILED", what="the report")
            transaction.set_rollback_only("the try was refused")

    with pytest.raises(RolledBackError):
        order()
    assert stock(engine) == (10, 0, 100)
    assert fences(engine) == ["SUSPENDED"]


def test_after_the_deadline_a_local_transaction_cannot_be_committed(client: Client, sqlite_engine: Engine) -> None:
    client.bind(sqlite_engine)
    reserve = reserve_on(client)

    def order() -> None:
        with client.global_transaction(name="order", timeout=0.3), Session(sqlite_engine) as session:
            reserve(session)
            time.sleep(0.4)
            session.commit()

    with pytest.raises(DeadlinePassedError):
        order()
    assert stock(sqlite_engine) == (10, 0, 0)


def test_a_try_that_its_fence_no_longer_protects_is_refused(client: Client, sqlite_engine: Engine) -> None:
    client.bind(sqlite_engine)
    reserve = reserve_on(client)
    client.databases.get().fence_retention = 0.0

    def order() -> None:
        with client.global_transaction(name="order"):
            reserve()

    with pytest.raises(DeadlinePassedError, match="fence does not protect it any more"):
        order()
    assert stock(sqlite_engine) == (10, 0, 0)


def test_a_try_is_as_old_as_the_question_for_its_branch(client: Client, sqlite_engine: Engine) -> None:
    """A process stands still before it takes the answer, for longer than a guard stays: it wakes up to a branch that is old."""
    client.bind(sqlite_engine)
    reserve = reserve_on(client)
    client.databases.get().fence_retention = 4.0

    def order() -> None:
        with client.global_transaction(name="order"), Session(sqlite_engine) as session:
            steps = Call(client, reserve.action, None, {"quantity": 3}, session).steps(SyncFirstPhase())
            value: Any = None
            with contextlib.suppress(StopIteration):
                while True:
                    effect = steps.send(value)
                    if isinstance(value, int):
                        time.sleep(2.1)
                    value = perform(effect)
            session.commit()

    with pytest.raises(DeadlinePassedError, match="fence does not protect it any more"):
        order()
    assert stock(sqlite_engine) == (10, 0, 0)


def test_rows_go_once_their_transaction_is_settled_and_never_before(client: Client, engine: Engine) -> None:
    client.bind(engine)
    reserve = reserve_on(client)
    database = client.databases.get()
    with client.global_transaction(name="done"):
        reserve()
    assert purge(client, database) == 0, "they stay for seven days"
    strange = "default.000000001.00000001"  # of an epoch that the coordinator does not know
    database.run(lambda c: fence.cancelled(c, strange, 7, "stock:reserve@x"))
    with client.global_transaction(name="open") as transaction:
        reserve()
        assert fences(engine) == ["CONFIRMED", "SUSPENDED", "TRIED"]
        time.sleep(0.01)
        database.fence_retention = 0.001
        assert purge(client, database) == 1
        assert fences(engine) == ["SUSPENDED", "TRIED"]
        database.fence_retention = 1000.0
    assert transaction is not None
    time.sleep(0.01)
    database.fence_retention = 0.001
    wait_until(lambda: purge(client, database) == 1, what="the settlement")
    assert fences(engine) == ["SUSPENDED"], "of what the coordinator does not know a guard stays"


@pytest.mark.parametrize("fails", [True, False])
def test_a_rollback_does_not_wait_for_the_callers_own_session(client: Client, engine: Engine, fails: bool) -> None:
    """FastAPI ends a dependency's session after the function; the cancel waits for that session, and nobody for the cancel."""
    client.bind(engine)
    reserve = reserve_on(client)

    @client.global_transaction
    def order(session: Session) -> None:
        reserve(session, 3)
        if fails:
            raise ZeroDivisionError

    with Session(engine) as session:
        started = time.monotonic()
        with pytest.raises((ZeroDivisionError, LocalTransactionOpenError)):
            order(session)
        assert time.monotonic() - started < 4
        session.rollback()
    wait_until(lambda: fences(engine) == ["SUSPENDED"], timeout=25, what="the cancel")
    assert stock(engine) == (10, 0, 0)


# ---------------------------------------------------------------- user code


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_user_code_cannot_end_the_transaction_that_it_was_given(client: Client, sqlite_engine: Engine, how: str) -> None:
    client.bind(sqlite_engine)

    @tcc("rash", client=client)
    def rash(conn: Connection) -> None:
        move(conn, -1, 1, 0)
        getattr(conn, how)()

    rash.confirm(nothing)
    rash.cancel(nothing)
    with (
        client.global_transaction(name="order") as transaction,
        pytest.raises(ConfigurationError, match="leave commit and rollback to txcoord"),
    ):
        rash()
    assert stock(sqlite_engine) == (10, 0, 0)
    assert [b.status for b in found(client, transaction).branches] == ["FAILED"]


def test_methods_of_an_object(client: Client, sqlite_engine: Engine) -> None:
    client.bind(sqlite_engine)

    class Stock:
        def __init__(self, step: int) -> None:
            self.step = step

        @tcc("Stock.take")
        def take(self, conn: Connection, count: int) -> int:
            move(conn, -count * self.step, count * self.step, 0)
            return count * self.step

        @take.confirm
        def _confirm(self, conn: Connection, count: int) -> None:
            move(conn, 0, -count * self.step, count * self.step)

        @take.cancel
        def _cancel(self, conn: Connection, count: int) -> None:
            move(conn, count * self.step, -count * self.step, 0)

    shelf = Stock(2)
    serve_object(shelf, client=client)
    with client.global_transaction(name="order"):
        assert shelf.take(count=2) == 4
    assert stock(sqlite_engine) == (6, 0, 4)
    with pytest.raises(ConfigurationError, match="has no methods decorated"):
        serve_object(object())


# ---------------------------------------------------------------- which database, which service


def test_a_session_of_another_database_is_refused(client: Client, sqlite_engine: Engine, tmp_path: Path) -> None:
    client.bind(sqlite_engine)
    reserve = reserve_on(client)
    other = create_engine(f"sqlite:///{tmp_path}/other.db")
    create_stock(other)
    with client.global_transaction(name="order") as transaction, Session(other) as session:
        with pytest.raises(ConfigurationError, match="given a session of another database"):
            reserve(session)
        session.commit()
    assert [b.status for b in found(client, transaction).branches] == ["FAILED"]
    assert stock(other) == (10, 0, 0)
    other.dispose()


def test_second_phases_go_to_members_with_the_same_database_only(
    connected: Callable[..., Client], sqlite_engine: Engine, tmp_path: Path
) -> None:
    """A member of the service on another database, and another service with the same action: neither is asked."""
    first = connected()
    first.bind(sqlite_engine)
    reserve = reserve_on(first)
    other_engine = create_engine(f"sqlite:///{tmp_path}/other.db")
    create_stock(other_engine)
    strangers = [connected(first.service), connected()]
    for stranger in strangers:
        stranger.bind(other_engine if stranger.service == first.service else sqlite_engine)
        reserve_on(stranger).action.parts  # noqa: B018
        stranger.start()
        assert stranger.wait_connected()
    transaction = first.new_transaction("order", 60, "", 0)
    token = enter(transaction)
    reserve()
    leave(token)
    wait_until(lambda: strangers[0].status(transaction.known_xid).branches[0].status == "DONE", what="the report")
    first._runner._participants.clear()  # its code is gone, its stream is there
    transaction.commit()
    assert transaction.status.name == "COMMITTING"
    assert stock(sqlite_engine) == (9, 1, 0)
    assert fences(other_engine) == []
    rightful = connected(first.service)
    rightful.bind(sqlite_engine)
    reserve_on(rightful)
    rightful.start()
    first.close()
    wait_until(lambda: stock(sqlite_engine) == (9, 0, 1), what="the confirm")
    other_engine.dispose()


def test_a_database_that_was_exchanged_is_not_written_to(client: Client, sqlite_engine: Engine) -> None:
    client.bind(sqlite_engine)
    database = client.databases.get()
    database.prepare()
    with sqlite_engine.begin() as connection:
        connection.execute(text("UPDATE txcoord_database SET id = 'another'"))
    database.close()
    with pytest.raises(Exception, match=r"was .* and is another now"):
        database.run(lambda c: fence.cancelled(c, "default.a.b", 1, "r"))
    assert fences(sqlite_engine) == []


# ---------------------------------------------------------------- refused


def test_what_cannot_work_says_so_at_once(client: Client, sqlite_engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="in memory"):
        client.bind(create_engine("sqlite://"))
    with pytest.raises(ConfigurationError, match="commits each statement by itself"):
        client.bind(create_engine(f"sqlite:///{tmp_path}/a.db", isolation_level="AUTOCOMMIT"))
    with pytest.raises(ConfigurationError, match="takes an Engine"):
        client.bind("sqlite:///a.db")  # type: ignore[arg-type]  # refused
    client.bind(sqlite_engine)
    with pytest.raises(ConfigurationError, match="is bound already"):
        client.bind(sqlite_engine)
    with pytest.raises(ConfigurationError, match="connections=0"):
        client.bind(sqlite_engine, name="second", connections=0)
    reserve = reserve_on(client)
    with pytest.raises(ConfigurationError, match="two actions 'reserve'"):
        reserve_on(client)
    with pytest.raises(NoTransactionError, match="the plain function is its __wrapped__"):
        reserve(quantity=1)
    with sqlite_engine.begin() as connection:
        reserve.__wrapped__(Session(bind=connection), 1)  # type: ignore[attr-defined]
    assert stock(sqlite_engine) == (9, 1, 0)
    with client.global_transaction(name="order") as transaction:
        with pytest.raises(InvalidArgumentError, match="argument 'quantity'"):
            reserve(quantity="3")
        with pytest.raises(TypeError, match="unexpected 'count'"):
            reserve(count=3)
        with pytest.raises(TypeError, match="wants a Session"):
            reserve(sqlite_engine.connect(), 3)
    assert transaction is not None
    assert transaction.known_xid == "", "nothing was registered"
    assert current() is None


def test_an_engine_that_does_not_fit_the_functions(connected: Callable[..., Client], tmp_path: Path) -> None:
    client = connected()
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db")
    client.bind(engine)
    reserve = reserve_on(client)

    def order() -> None:
        with client.global_transaction(name="order"):
            reserve()

    with pytest.raises(ConfigurationError, match="was given an AsyncEngine, so the try must be an async function"):
        order()
