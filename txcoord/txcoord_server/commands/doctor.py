"""`txcoord doctor`: one look at everything that can be wrong, a verdict a line."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click
from txcoord_proto.errors import NotLeaderError, TxcoordError
from txcoord_proto.terminal import Check, Verdict, age, end_with, span
from txcoord_proto.v1 import operator_pb2 as op

from txcoord_server.commands.coordinator import Coordinator, connected

_CLOCK = 2_000
"""Milliseconds by which clocks may differ before it is worth a word."""
_OLD = 3_600_000
_SLOW = 500


@click.command("doctor", short_help="Is anything wrong? A verdict a line.")
@connected
def doctor_command(coordinator: Coordinator, as_json: bool) -> None:
    """Check coordinators, store, standby, clocks, stuck transactions and resources; exit code 1 when something is wrong."""
    end_with(list(_examine(coordinator)), as_json)


def _examine(coordinator: Coordinator) -> Iterator[Check]:
    leaders: dict[str, op.OverviewReply] = {}
    standbys: dict[str, str] = {}
    for address in coordinator.addresses:
        sent = time.time()
        try:
            leaders[address] = coordinator.ask(address, "Overview", op.OverviewRequest(), op.OverviewReply)
            yield Check("reachable", Verdict.OK, f"{address} answers within {span(_since(sent))}")
        except NotLeaderError as error:
            standbys[address] = error.details.get("leader", "")
            yield Check("reachable", Verdict.OK, f"{address} answers, it is a standby")
        except TxcoordError as error:
            yield Check("reachable", Verdict.WRONG, f"{address}: {error.message}")
    if not leaders:
        leaders = _follow(coordinator, standbys)
    yield from _leadership(coordinator, leaders, standbys)
    if leaders:
        address, seen = max(leaders.items(), key=lambda item: item[1].epoch)
        yield from _store(coordinator, address, seen)
        yield _clock(coordinator, address)
        yield from _transactions(seen)
        yield from _resources(seen)


def _follow(coordinator: Coordinator, standbys: dict[str, str]) -> dict[str, op.OverviewReply]:
    """The leader that standbys name, where it is not among the addresses."""
    for leader in dict.fromkeys(filter(None, standbys.values())):
        try:
            return {leader: coordinator.ask(leader, "Overview", op.OverviewRequest(), op.OverviewReply)}
        except TxcoordError:
            continue
    return {}


def _leadership(coordinator: Coordinator, leaders: dict[str, op.OverviewReply], standbys: dict[str, str]) -> Iterator[Check]:
    if not leaders:
        named = ", ".join(dict.fromkeys(filter(None, standbys.values())))
        hint = f"; {named} is said to lead and does not answer" if named else ""
        yield Check("leader", Verdict.WRONG, f"nobody leads: requests wait until somebody does{hint}")
        return
    epochs = ", ".join(f"{seen.node} at {address} in epoch {seen.epoch}" for address, seen in leaders.items())
    seen = next(iter(leaders.values()))
    if len(leaders) > 1:
        groups = {seen.group for seen in leaders.values()}
        text = f"{epochs}: these are not one group on one store" if len(groups) == 1 else f"{epochs}: several groups"
        yield Check("leader", Verdict.WRONG, text)
    else:
        yield Check("leader", Verdict.OK, f"{epochs}, group {seen.group}, version {seen.version}, {seen.sessions} sessions")
    if standbys:
        yield Check("standby", Verdict.OK, f"{', '.join(standbys)} stands by")
    elif len(coordinator.addresses) > 1:
        yield Check("standby", Verdict.WRONG, "none of the addresses stands by: if the leader dies, nobody takes over")
    else:
        yield Check("standby", Verdict.WARNING, "not looked for: name all coordinators with --address")


def _store(coordinator: Coordinator, address: str, seen: op.OverviewReply) -> Iterator[Check]:
    if seen.health:
        yield Check("store", Verdict.WRONG, f"{seen.store} takes no commits, nothing durable is answered: {seen.health}")
        return
    sent = time.time()
    try:
        coordinator.ask(address, "Locks", op.LocksRequest(limit=1), op.LocksReply)
    except TxcoordError as error:
        yield Check("store", Verdict.WRONG, f"{seen.store} did not take a commit: {error.message}")
        return
    took = _since(sent)
    verdict = Verdict.OK if took < _SLOW else Verdict.WARNING
    yield Check("store", verdict, f"{seen.store} took a commit within {span(took)}; it is number {seen.commit_seq} or later")


def _clock(coordinator: Coordinator, address: str) -> Check:
    sent = time.time()
    try:
        seen = coordinator.ask(address, "Overview", op.OverviewRequest(), op.OverviewReply)
    except TxcoordError as error:
        return Check("clock", Verdict.WARNING, f"cannot be compared: {error.message}")
    uncertain = _since(sent)
    difference = seen.now - int(sent * 1000) - uncertain // 2
    where = "ahead of" if difference > 0 else "behind"
    text = f"the store's is {span(abs(difference))} {where} this machine's (uncertain by {span(uncertain)})"
    if abs(difference) <= _CLOCK + uncertain:
        return Check("clock", Verdict.OK, text)
    return Check("clock", Verdict.WARNING, f"{text}: nothing depends on it but the ages that are shown here")


def _transactions(seen: op.OverviewReply) -> Iterator[Check]:
    counts = ", ".join(f"{count} {status}" for status, count in seen.transactions.items() if count)
    if not counts:
        yield Check("unfinished", Verdict.OK, "none")
    else:
        old = time.time() * 1000 - seen.oldest_begun_at > _OLD
        text = f"{counts}; the oldest began {age(seen.oldest_begun_at)} ago"
        yield Check("unfinished", Verdict.WARNING if old else Verdict.OK, text)
    parked = seen.transactions.get("PARKED", 0)
    if parked:
        yield Check("parked", Verdict.WRONG, f"{parked} need a person: txcoord ls --status PARKED")
    else:
        yield Check("parked", Verdict.OK, "none")
    if seen.overdue:
        yield Check("overdue", Verdict.WRONG, f"{seen.overdue} second phases have failed too often: txcoord ls --overdue")
    else:
        yield Check("overdue", Verdict.OK, "none")
    verdict = Verdict.WARNING if seen.locks_waited else Verdict.OK
    yield Check("locks", verdict, f"{seen.locks} held, {seen.locks_waited} of them waited for")


def _resources(seen: op.OverviewReply) -> Iterator[Check]:
    troubled = False
    for r in seen.resources:
        if r.waiting and not r.sessions:
            troubled = True
            yield Check("resource", Verdict.WRONG, f"{r.resource}: no process serves it, {r.waiting} second phases wait")
        elif r.unavailable:
            troubled = True
            text = f"{r.resource}: its {r.sessions} processes cannot reach it, {r.waiting} second phases wait"
            yield Check("resource", Verdict.WRONG, text)
    if not troubled:
        yield Check("resources", Verdict.OK, f"{len(seen.resources)} served, none unavailable")


def _since(sent: float) -> int:
    return int((time.time() - sent) * 1000)
