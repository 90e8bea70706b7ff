"""Global transactions through a real coordinator: how they end, and that their callers learn it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest
from txcoord_proto.errors import (
    LockConflictError,
    LockTimeoutError,
    NotActiveError,
    OutcomeUnknownError,
    RolledBackError,
    UnknownXidError,
    WrongOwnerError,
)
from txcoord_proto.status import BranchType, PhaseOne, Reason
from txcoord_sdk import Client, ClientConfig, GlobalTransaction, Hooks, ParkError, Propagation, current
from txcoord_sdk.session import session as session_module
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.sdk.conftest import Ledger, atake_part, registration, take_part
from tests.servers import Direction, TcpProxy


def here() -> GlobalTransaction:
    """The current transaction, which there must be."""
    transaction = current()
    assert transaction is not None
    return transaction


def test_commit_and_rollback_reach_every_branch(client: Client, ledger: Ledger) -> None:
    @client.global_transaction(name="place order", key="order:{number}")
    def place(number: int, fail: bool) -> str:
        take_part(here(), ledger)
        take_part(here(), ledger)
        if fail:
            raise KeyError("sku")
        return here().xid()

    xid = place(1, fail=False)
    assert ledger.ends(xid) == [True, True]
    told = client.status(key="order:1")
    assert (told.xid, told.decision, told.name, told.service) == (xid, "COMMIT", "place order", "order")
    with pytest.raises(KeyError):
        place(2, fail=True)
    told = client.status(key="order:2")
    assert (told.decision, told.reason) == ("ROLLBACK", "REQUESTED")
    assert ledger.ends(told.xid) == [False, False]
    assert all(name.startswith("txcoord-second-phase") for name in ledger.threads)


def test_a_commit_that_need_only_be_decided_does_not_wait_for_second_phases(client: Client, ledger: Ledger) -> None:
    ledger.gate.clear()
    kept: list[GlobalTransaction] = []

    @client.global_transaction(wait="decided")
    def place() -> None:
        take_part(here(), ledger)
        kept.append(here())

    started = time.monotonic()
    place()
    assert time.monotonic() - started < 3, "a commit that waits for settlement would have waited 5 s"
    xid = kept[0].xid()
    assert not kept[0].settled
    assert client.status(xid).decision == "COMMIT"
    ledger.gate.set()
    wait_until(lambda: ledger.ends(xid) == [True], 10, "the confirm")


async def test_so_they_do_for_coroutines(client: Client, ledger: Ledger) -> None:
    @client.global_transaction
    async def place(fail: bool) -> str:
        await asyncio.gather(atake_part(here(), ledger), atake_part(here(), ledger))
        if fail:
            raise KeyError(await here().axid())
        return await here().axid()

    assert ledger.ends(await place(fail=False)) == [True, True]
    with pytest.raises(KeyError) as caught:
        await place(fail=True)
    assert ledger.ends(caught.value.args[0]) == [False, False]


def test_a_transaction_that_never_needed_an_xid_is_not_known_to_the_coordinator(client: Client) -> None:
    @client.global_transaction(key="nothing:{n}")
    def nothing(n: int) -> None: ...

    nothing(1)
    assert not client.started
    with pytest.raises(UnknownXidError):
        client.status(key="nothing:1")


def test_the_deadline_ends_it_and_the_caller_hears_so(client: Client, ledger: Ledger) -> None:
    @client.global_transaction(timeout=0.6)
    def slow() -> None:
        take_part(here(), ledger)
        time.sleep(1.2)

    with pytest.raises(RolledBackError) as caught:
        slow()
    assert caught.value.reason == Reason.TIMEOUT
    wait_until(lambda: ledger.ends(caught.value.xid) == [False], what="the rollback")


def test_a_branch_that_never_reports_is_no_yes(client: Client, ledger: Ledger) -> None:
    with pytest.raises(RolledBackError) as caught, client.global_transaction(timeout=1.0):
        here().register(registration(ledger))
    assert caught.value.reason == Reason.BRANCH_UNFINISHED


@pytest.mark.parametrize(("result", "reason"), [(PhaseOne.UNKNOWN, Reason.BRANCH_UNKNOWN), (PhaseOne.FAILED, None)])
def test_what_phase_one_came_to(client: Client, ledger: Ledger, result: PhaseOne, reason: Reason | None) -> None:
    scope = client.global_transaction()
    with contextlib.ExitStack() as stack:
        caught = stack.enter_context(pytest.raises(RolledBackError)) if reason else None
        transaction = stack.enter_context(scope)
        take_part(transaction, ledger)
        take_part(transaction, ledger, result)
    if caught is not None:
        assert caught.value.reason == reason
    else:
        assert ledger.ends(transaction.known_xid) == [True], "the failed branch takes no part"


def test_a_veto_of_a_participant(client: Client, ledger: Ledger) -> None:
    @client.global_transaction
    def place() -> None:
        take_part(here(), ledger)
        participant = client.joined_transaction(here().xid())
        participant.veto()
        participant.set_rollback_only("POST http://third got no answer")
        participant.veto()
        with pytest.raises(NotActiveError):
            participant.register(registration(ledger))

    with pytest.raises(RolledBackError) as caught:
        place()
    assert caught.value.reason == Reason.ROLLBACK_ONLY


def test_only_the_service_that_began_it_decides_it(client: Client, coordinator: CoordinatorProcess, ledger: Ledger) -> None:
    stranger = Client(ClientConfig("stranger", (coordinator.address,)))
    with client.global_transaction() as mine:
        take_part(mine, ledger)
        theirs = stranger.new_transaction("mine now", 10.0, "", 0)
        theirs._beginning.xid = mine.xid()
        with pytest.raises(WrongOwnerError):
            theirs.commit()
    assert ledger.ends(mine.known_xid) == [True]
    stranger.close()


def test_a_second_phase_that_fails_is_tried_again_and_one_that_parks_is_shown(client: Client, ledger: Ledger) -> None:
    ledger.failures += [ValueError("first"), ValueError("second")]
    with client.global_transaction() as transaction:
        take_part(transaction, ledger)
    assert ledger.ends(transaction.known_xid) == [True]
    ledger.failures.append(ParkError("somebody changed the row"))
    with client.global_transaction() as parked:
        take_part(parked, ledger)
    told = client.status(parked.known_xid)
    assert (told.decision, told.branches[0].status, told.branches[0].error_code) == ("COMMIT", "PARKED", "PARK")
    assert "somebody changed the row" in told.branches[0].error


def test_a_rollback_that_parks_is_no_commit(client: Client, ledger: Ledger) -> None:
    ledger.failures.append(ParkError("somebody changed the row"))

    @client.global_transaction(timeout=0.6)
    def slow() -> None:
        take_part(here(), ledger)
        time.sleep(1.2)

    with pytest.raises(RolledBackError) as caught:
        slow()
    assert caught.value.reason == Reason.TIMEOUT
    assert client.status(caught.value.xid).status == 6  # PARKED


def test_a_lock_conflict_is_tried_again_until_the_holder_is_done(client: Client, ledger: Ledger) -> None:
    holds, attempts = threading.Event(), []

    def hold() -> None:
        with client.global_transaction(name="holder") as holder:
            holder.report(holder.register(registration(ledger, "row-1")), PhaseOne.DONE)
            holds.set()
            time.sleep(0.4)

    @client.global_transaction(retries=20)
    def wait() -> str:
        attempts.append(here())
        here().report(here().register(registration(ledger, "row-1")), PhaseOne.DONE)
        return here().xid()

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(5)
    xid = wait()
    thread.join()
    assert len(attempts) > 1
    assert len({attempt.begun_at for attempt in attempts}) == 1
    assert ledger.ends(xid) == [True]


def test_a_wait_for_a_lock_is_granted_or_times_out(client: Client, ledger: Ledger) -> None:
    with client.global_transaction() as holder:
        holder.report(holder.register(registration(ledger, "row-2")), PhaseOne.DONE)
        with pytest.raises(LockConflictError, match="row-2"), client.global_transaction(propagation=Propagation.REQUIRES_NEW):
            here().register(registration(ledger, "row-2"))
        with pytest.raises(LockTimeoutError), client.global_transaction(propagation=Propagation.REQUIRES_NEW):
            here().register(registration(ledger, "row-2", lock_wait=0.2))


# ---------------------------------------------------------------- cancelled


async def test_a_cancelled_function_is_rolled_back_before_the_cancellation_goes_on(client: Client, ledger: Ledger) -> None:
    seen: list[str] = []

    @client.global_transaction
    async def place() -> None:
        await atake_part(here(), ledger)
        seen.append(here().known_xid)
        await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await place()
    assert ledger.ends(seen[0]) == [False]


async def test_a_registration_whose_caller_was_cancelled_is_not_left_behind(coordinator: CoordinatorProcess) -> None:
    with TcpProxy(coordinator.address) as proxy:
        client, ledger = Client(ClientConfig("order", (proxy.url,))), Ledger()
        client.serve(ledger.resource, ledger)
        async with client:
            assert await asyncio.to_thread(client.wait_connected)

            @client.global_transaction(key="cancelled:1")
            async def place() -> None:
                await here().aregister(registration(ledger))

            proxy.black_hole(Direction.TO_CLIENT)
            task = asyncio.create_task(place())
            await asyncio.sleep(0.3)
            task.cancel()
            await asyncio.sleep(0.1)
            task.cancel()
            proxy.heal()
            with pytest.raises(asyncio.CancelledError):
                await task
            told = await client.astatus(key="cancelled:1")
            assert told.decision == "ROLLBACK"


@pytest.mark.parametrize("late", [True, False])
async def test_a_registration_that_nobody_waited_for_takes_no_part_and_the_rest_commits(client: Client, late: bool) -> None:
    """`asyncio.timeout` around a try: the coordinator need not wait for its report, nor roll back for want of it."""
    kept = Ledger("stock:kept@1")
    client.serve(kept.resource, kept)
    lost = Registration(BranchType.TCC, "stock:kept@1", (), b"{}")
    started = time.monotonic()
    async with client.global_transaction(name="order") as transaction:
        await atake_part(transaction, kept)
        task = asyncio.create_task(transaction.aregister(lost))
        await asyncio.sleep(0)
        if not late:  # the answer is here, and the cancellation comes before the task runs
            time.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert time.monotonic() - started < 4, "nobody waited for a report"
    assert transaction.status == "COMMITTED"
    found = await client.astatus(transaction.known_xid)
    assert sorted(branch.status for branch in found.branches) == ["FAILED", "SETTLED"]


async def test_a_cancelled_commit_is_known_to_the_hooks(client: Client, ledger: Ledger) -> None:
    seen: list[str] = []
    slow = Ledger("stock:slow@1")
    blocked = threading.Event()

    def settle(command: object, branch: object) -> None:
        blocked.wait(5)

    slow.settle = settle  # type: ignore[method-assign]
    client.serve(slow.resource, slow)
    hooks = Hooks(after_commit=lambda t: seen.append(t.known_xid))

    @client.global_transaction(hooks=hooks)
    async def place() -> None:
        await atake_part(here(), slow)

    task = asyncio.create_task(place())
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.sleep(0.1)
    assert not task.done()
    blocked.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await client.astatus(seen[0])).decision == "COMMIT"


# ---------------------------------------------------------------- never a guess


def test_a_commit_without_an_answer_is_unknown_and_ends_as_it_was_decided(
    coordinator: CoordinatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_SERVER_WAIT", 0.0)
    with TcpProxy(coordinator.address) as proxy:
        client, ledger = Client(ClientConfig("order", (proxy.url,), failover_wait=1.0)), Ledger()
        client.serve(ledger.resource, ledger)
        with client:

            @client.global_transaction
            def place() -> None:
                take_part(here(), ledger)
                proxy.black_hole(Direction.TO_CLIENT)

            with pytest.raises(OutcomeUnknownError) as caught:
                place()
            proxy.heal()
            wait_until(lambda: ledger.ends(caught.value.xid) == [True], what="the commit that was asked for")
            assert client.status(caught.value.xid).decision == "COMMIT"
