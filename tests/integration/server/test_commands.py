"""The commands against a running coordinator: what a person reads, what a script gets, and how each refusal ends."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess, wait_until
from txcoord_server.cli import main

from tests.integration.server.desk import Desk
from tests.integration.server.participant import Participant
from tests.integration.server.stub import BALANCE, STOCK

NOBODY = "nobody:serves@9"


class Terminal:
    """Runs commands."""

    def __init__(self, address: str) -> None:
        self.address = address

    def run(self, *arguments: str, say: str = "", **environment: str) -> Result:
        return CliRunner().invoke(main, list(arguments), input=say, env={"TXCOORD_ADDRESS": self.address, **environment})

    def well(self, *arguments: str, say: str = "") -> str:
        result = self.run(*arguments, say=say)
        assert result.exit_code == 0, result.output
        return result.output

    def refused(self, *arguments: str, code: int = 1, say: str = "") -> str:
        result = self.run(*arguments, say=say)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result.output

    def json(self, *arguments: str) -> Any:
        return json.loads(self.well(*arguments, "--json"))


@pytest.fixture(scope="module")
def coordinator() -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess() as running:
        yield running


@pytest.fixture
def terminal(coordinator: CoordinatorProcess) -> Terminal:
    return Terminal(coordinator.address)


# ---------------------------------------------------------------- looking


def test_ls_shows_what_is_not_finished_and_why_it_is_stuck(terminal: Terminal, desk: Desk, stock: Participant) -> None:
    parked = desk.parked(stock)
    lines = terminal.well("ls", "--service", "order").splitlines()
    assert lines[0].split()[:4] == ["XID", "STATUS", "DECISION", "AGE"]
    place = next(i for i, line in enumerate(lines) if line.startswith(parked.xid))
    assert lines[place].split()[1:3] == ["PARKED", "COMMIT"]
    assert "needs a person" in lines[place + 1]
    assert all(line == line.rstrip() and "\x1b" not in line for line in lines), "plain where it is piped"


def test_ls_filters_and_pages(terminal: Terminal, coordinator: CoordinatorProcess) -> None:
    with Desk(coordinator.address, service="pages") as desk:
        xids = [desk.prepared(NOBODY) for _ in range(3)]
        desk.rollback(xids[0])
    first = terminal.well("ls", "--service", "pages", "--limit", "2")
    assert f"--after {xids[1]}" in first
    second = terminal.well("ls", "--service", "pages", "--limit", "2", "--after", xids[1])
    assert xids[0] in second
    assert "there are more" not in second
    found = terminal.json("ls", "--service", "pages", "--status", "active", "--status", "COMMITTING")
    assert [t["xid"] for t in found["transactions"]] == [xids[2], xids[1]]
    assert terminal.well("ls", "--service", "nobody") == "none\n"
    assert terminal.well("ls", "--overdue", "--service", "pages") == "none\n"


def test_show_is_a_card(terminal: Terminal, desk: Desk, stock: Participant) -> None:
    stock.result = pb.COMMAND_RETRY
    xid = desk.begin(key="card:1", name="place_order")
    for resource in (STOCK, NOBODY):
        desk.report(xid, desk.register(xid, resource))
    desk.commit(xid)
    wait_until(lambda: desk.status(xid).branches[0].next_try_at, what="a failed try")
    card = terminal.well("show", xid)
    expected = (
        "COMMITTING", "COMMIT (REQUESTED)", "place_order", "card:1", f"version    {desk.status(xid).version}",
        "last error TEST: as told", "Next:", "is tried again", "last sent to",
    )  # fmt: skip
    assert [text for text in expected if text not in card] == []
    assert max(map(len, card.splitlines())) <= 130
    assert terminal.well("show", "--key", "card:1").splitlines()[0] == f"{xid} COMMITTING"


def test_locks_name_holder_and_waiters(terminal: Terminal, desk: Desk) -> None:
    holder = desk.begin()
    desk.register(holder, "db@cli", pb.AT, lock_keys=["goods:1", "goods:2"])
    assert terminal.well("locks", "--resource", "db@cli").count(holder) == 2
    found = terminal.json("locks", "--xid", holder, "--limit", "1")
    assert found == {"locks": [{"resource": "db@cli", "key": "goods:1", "xid": holder, "waiters": []}], "more": True}
    assert terminal.well("locks", "--resource", "db@nothing") == "none\n"


# ---------------------------------------------------------------- acting


def test_a_retry_shows_what_it_is_about_and_asks(terminal: Terminal, desk: Desk, stock: Participant) -> None:
    parked = desk.parked(stock)
    asked = terminal.refused("retry", parked.xid, say="n\n")
    assert "needs a person" in asked
    assert "Go on?" in asked
    assert desk.status(parked.xid) == parked, "nothing has changed"
    stock.result = pb.COMMAND_DONE
    assert "is COMMITT" in terminal.well("retry", parked.xid, "--reason", "row was inserted", say="y\n")
    desk.reaches(parked.xid, pb.COMMITTED)
    (act,) = desk.show(parked.xid).acts
    assert (act.act, act.reason, "@" in act.actor) == ("RETRY", "row was inserted", True)


def test_a_force_says_what_it_does_and_is_seen_later(terminal: Terminal, desk: Desk, stock: Participant) -> None:
    parked = desk.parked(stock)
    assert "1 branches are declared done by your word" in terminal.refused("force-commit", parked.xid, "--reason", "x")
    assert "is COMMITTED now" in terminal.well("force-commit", parked.xid, "--reason", "order 17 was paid by hand", "--yes")
    card = terminal.well("show", parked.xid)
    assert card.splitlines()[0] == f"{parked.xid} COMMITTED FORCED"
    assert f"FORCE_COMMIT of version {parked.version} by" in card
    assert card.rstrip().endswith("order 17 was paid by hand")
    assert "finished" in terminal.refused("force-commit", parked.xid, "--reason", "x", "--yes")


def test_force_of_what_is_not_decided(terminal: Terminal, desk: Desk) -> None:
    xid = desk.begin()
    desk.register(xid, NOBODY)
    assert "1 of 1 branches" in terminal.refused("force-commit", xid, "--reason", "x", "--yes")
    assert "It is decided by your word" in terminal.refused("force-rollback", xid, "--reason", "x", say="n\n")
    assert "is ROLLING_BACK now" in terminal.well("force-rollback", xid, "--reason", "its service is gone", "--yes")
    assert desk.status(xid).reason == "FORCED"


def test_scripts_act_on_the_version_they_saw(terminal: Terminal, desk: Desk, stock: Participant) -> None:
    parked = desk.parked(stock)
    seen = terminal.json("show", parked.xid)["transaction"]["version"]
    assert "VERSION_CHANGED" in terminal.refused("retry", parked.xid, "--version", str(seen - 1))
    assert desk.status(parked.xid) == parked
    stock.result = pb.COMMAND_DONE
    told = json.loads(terminal.well("retry", parked.xid, "--version", str(seen), "--json"))
    assert told["transaction"]["version"] == seen + 1


def test_the_opposite_of_a_decision_is_refused_with_the_remedy(terminal: Terminal, desk: Desk, stock: Participant) -> None:
    parked = desk.parked(stock)
    told = terminal.refused("force-rollback", parked.xid, "--reason", "x", "--yes")
    assert told.startswith("Error: ")
    assert f"txcoord force-commit {parked.xid}" in told
    assert told.rstrip().endswith("[CANNOT_FORCE]")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("show",),
        ("show", "x", "--key", "y"),
        ("ls", "--status", "DONE"),
        ("ls", "--limit", "0"),
        ("ls", "--address", "nowhere"),
        ("ls", "--address", ""),
        ("ls", "--tls-cert", __file__),
        ("force-commit", "x"),
        ("retry", "x", "--json"),
        ("retry", "x", "--version", "0"),
        ("token", "add", "x"),
    ],
)
def test_bad_usage(terminal: Terminal, arguments: tuple[str, ...]) -> None:
    assert "Error: " in terminal.refused(*arguments, code=2)


# ---------------------------------------------------------------- JSON


BRANCH = {
    "id", "type", "resource", "status", "lock_keys", "attempts", "executor", "error_code", "error", "registered_at",
    "reported_at", "first_command_at", "settled_at", "next_try_at",
}  # fmt: skip
TRANSACTION = {
    "xid", "status", "decision", "reason", "name", "service", "key", "traceparent", "begun_at", "deadline_at", "decided_at",
    "settled_at", "version", "branches", "explanation_code", "explanation", "next_events", "overdue", "forced",
}  # fmt: skip


def test_json_documents_keep_their_fields(terminal: Terminal, desk: Desk, stock: Participant) -> None:
    parked = desk.parked(stock)
    told = terminal.json("retry", parked.xid, "--yes")
    assert told.keys() == {"transaction"}
    shown = terminal.json("show", parked.xid)
    assert shown.keys() == {"transaction", "acts"}
    assert shown["acts"][0].keys() == {"version", "act", "at", "actor", "reason"}
    transaction = shown["transaction"]
    assert transaction.keys() == told["transaction"].keys() == TRANSACTION
    assert transaction["branches"][0].keys() == BRANCH
    assert transaction["next_events"][0].keys() == {"at", "code", "text"}
    assert (transaction["branches"][0]["type"], type(transaction["begun_at"])) == ("TCC", int)
    listed = terminal.json("ls")
    assert listed.keys() == {"transactions", "more"}
    assert listed["transactions"][0].keys() == TRANSACTION
    doctor = json.loads(terminal.run("doctor", "--json").output)
    assert doctor.keys() == {"well", "checks"}
    assert doctor["checks"][0].keys() == {"name", "verdict", "text"}


def test_a_refusal_is_a_document_too(terminal: Terminal) -> None:
    process = subprocess.run(
        [Path(sys.executable).parent / "txcoord", "show", "nonsense", "--json", "--address", terminal.address],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 1
    assert json.loads(process.stdout)["error"]["code"] == "XID_MALFORMED"
    assert process.stderr.startswith("Error: ")


# ---------------------------------------------------------------- doctor, standby, nobody


def doctor(terminal: Terminal, *options: str) -> tuple[bool, dict[str, list[tuple[str, str]]]]:
    """Whether all is well, and verdict and text by check."""
    result = terminal.run("doctor", "--json", *options)
    told = json.loads(result.output)
    assert result.exit_code == (0 if told["well"] else 1)
    found: dict[str, list[tuple[str, str]]] = {}
    for check in told["checks"]:
        found.setdefault(check["name"], []).append((check["verdict"], check["text"]))
    return told["well"], found


def test_a_healthy_pair_and_what_goes_wrong_with_it(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    with CoordinatorProcess(store) as leader, CoordinatorProcess(store) as standby:
        both = Terminal(f"{standby.address},{leader.address}")
        with Desk(leader.address) as desk, Participant(leader.address, STOCK) as stock:
            well, found = doctor(both)
            assert well, found
            assert found["standby"] == [("ok", f"{standby.address} stands by")]
            assert "epoch" in found["leader"][0][1]
            assert found["unfinished"] == [("ok", "none")]
            lines = both.well("doctor").splitlines()
            assert all(line.split()[0] == "ok" for line in lines)
            xid = desk.prepared(NOBODY)
            desk.commit(xid)
            parked = desk.parked(stock)
            well, found = doctor(both)
            assert not well
            assert found["parked"][0][0] == "wrong"
            assert found["resource"] == [("wrong", f"{NOBODY}: no process serves it, 1 second phases wait")]
            assert parked.xid in both.well("ls"), "the standby comes first and names the leader"
            assert parked.xid in Terminal(standby.address).well("ls"), "also when the leader is not among the addresses"
            well, found = doctor(Terminal(standby.address))
            assert found["leader"][0][0] == "ok"
        standby.kill()
        well, found = doctor(both)
        assert (found["standby"][0][0], [verdict for verdict, _ in found["reachable"]]) == ("wrong", ["wrong", "ok"])
    started = time.monotonic()
    told = both.refused("ls")
    assert time.monotonic() - started < 5
    assert told.count("\n") == 1
    assert "no coordinator that leads has answered" in told
    well, found = doctor(both)
    assert [verdict for verdict, _ in found["leader"]] == ["wrong"]
    assert "clock" not in found


def test_an_unavailable_resource_is_named(terminal: Terminal, desk: Desk, coordinator: CoordinatorProcess) -> None:
    with Participant(coordinator.address, BALANCE, result=pb.COMMAND_UNAVAILABLE):
        desk.commit(desk.prepared(BALANCE))
        wait_until(lambda: any(r.unavailable for r in desk.overview().resources), what="the verdict of its process")
        _, found = doctor(terminal)
        assert any(text.startswith(f"{BALANCE}: its 1 processes cannot reach it") for _, text in found["resource"])


def test_a_store_that_takes_no_commits_is_seen_without_one(tmp_path: Path) -> None:
    with CoordinatorProcess(f"sqlite:///{tmp_path}/store.db") as coordinator:
        terminal = Terminal(coordinator.address)
        blocker = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with Desk(coordinator.address) as desk:
            wait_until(lambda: desk.overview().health, what="a commit that fails")
        well, found = doctor(terminal, "--timeout", "1")
        assert not well
        assert found["store"][0][0] == "wrong"
        assert "takes no commits" in found["store"][0][1]
        assert "no answer in time" in terminal.refused("ls", "--timeout", "0.5"), "a question about transactions is fenced"
        blocker.execute("ROLLBACK")
        blocker.close()
        wait_until(lambda: doctor(terminal)[0], what="its recovery")


def test_alone_it_tells_what_it_can_do() -> None:
    process = subprocess.run([Path(sys.executable).parent / "txcoord"], capture_output=True, text=True, check=False)
    told = process.stdout + process.stderr
    places = [told.index(f"\n  {name} ") for name in ("serve", "doctor", "ls", "show", "retry", "force-commit", "locks", "token")]
    assert places == sorted(places)
    assert "..." not in told.split("Commands:")[1], "every line fits"
