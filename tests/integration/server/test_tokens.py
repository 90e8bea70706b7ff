"""Tokens from the command line to the refusal: made, used side by side, dropped; roles; TLS beside them."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result
from txcoord_proto.errors import RoleDeniedError, TxcoordError, UnauthenticatedError
from txcoord_sdk.testing import CoordinatorProcess, wait_until
from txcoord_server.cli import main

from tests.integration.server.desk import Desk
from tests.integration.server.participant import Participant
from tests.integration.server.stub import STOCK, Stub
from tests.servers.fixtures import FreshUrl

REFRESH = 5.0
"""Seconds within which a coordinator knows of a change."""


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=environment)


def add(store: str, name: str, *options: str, service: str = "order") -> str:
    result = run("token", "add", name, "--service", service, "--store", store, "--json", *options)
    assert result.exit_code == 0, result.output
    return str(json.loads(result.output)["token"])


def answers(work: Callable[[], object], code: str = "") -> Callable[[], bool]:
    """Whether `work` succeeds, or is refused with `code`."""

    def check() -> bool:
        try:
            work()
        except TxcoordError as error:
            return error.code == code
        except grpc.RpcError:
            return False
        return not code

    return check


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
    return fresh()


def test_the_life_of_tokens(store: str) -> None:
    old = add(store, "order-1", "--resource", "order:*")  # before the first coordinator: the command makes the schema
    assert old.startswith("txc_")
    with ExitStack() as stack:
        coordinator = stack.enter_context(CoordinatorProcess(store))
        with Stub(coordinator.address) as stranger, pytest.raises(UnauthenticatedError, match="txcoord token add"):
            stranger.begin()
        with Stub(coordinator.address, service="", token="txc_guessed") as stranger, pytest.raises(UnauthenticatedError):
            stranger.begin()
        new = add(store, "order-2", "--resource", "order:*")
        clients = [stack.enter_context(Stub(coordinator.address, "order", token)) for token in (old, new)]
        wait_until(answers(clients[1].begin), REFRESH, "the second token")
        assert clients[0].begin(), "both are valid at once"
        with pytest.raises(TxcoordError) as caught:
            clients[0].register(clients[0].begin(), STOCK)
        assert caught.value.code == "RESOURCE_DENIED"
        served = stack.enter_context(Participant(coordinator.address, "order:x@1", service="order", token=old))
        dropped = run("token", "drop", "order-1", "--store", store)
        assert (dropped.exit_code, dropped.output) == (0, "dropped order-1\n")
        wait_until(answers(clients[0].begin, "UNAUTHENTICATED"), REFRESH, "the refusal of the dropped token")
        wait_until(lambda: served.ended, REFRESH, "the end of the session that was opened with it")
        assert clients[1].begin()


def test_an_operator_acts_and_the_audit_has_the_name_of_his_token(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    service = add(store, "orders", "--resource", "*")
    anna = add(store, "anna", "--role", "operator", service="operations")
    with ExitStack() as stack:
        coordinator = stack.enter_context(CoordinatorProcess(store))
        desk = stack.enter_context(Desk(coordinator.address, "order", service))
        with Participant(coordinator.address, STOCK, service="order", token=service) as stock:
            parked = desk.parked(stock)
        assert desk.list() == [parked.xid], "everybody may look"
        with pytest.raises(RoleDeniedError, match="--role operator"):
            desk.retry(parked.xid, parked.version)
        environment = {"TXCOORD_ADDRESS": coordinator.address, "TXCOORD_TOKEN": service}
        refused = run("force-commit", parked.xid, "--reason", "x", "--yes", **environment)
        assert (refused.exit_code, "[ROLE_DENIED]" in refused.output) == (1, True)
        assert desk.status(parked.xid) == parked
        environment["TXCOORD_TOKEN"] = anna
        done = run("force-commit", parked.xid, "--reason", "paid by hand", "--yes", **environment)
        assert done.exit_code == 0, done.output
        assert [(a.actor, a.reason) for a in desk.show(parked.xid).acts] == [("anna", "paid by hand")]
        assert run("ls", TXCOORD_ADDRESS=coordinator.address).exit_code == 1
        assert "requires a token" in run("doctor", TXCOORD_ADDRESS=coordinator.address, TXCOORD_TOKEN="txc_no").output


def test_the_store_keeps_only_hashes(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    token = add(store, "orders", "--resource", "order:*", "--resource", "db@*")
    with sqlite3.connect(tmp_path / "store.db") as connection:
        assert token not in "".join(connection.iterdump())
    listed = run("token", "ls", "--store", store, "--json").output
    assert token not in listed
    (kept,) = json.loads(listed)["tokens"]
    assert (kept["name"], kept["service"], kept["resources"], kept["role"]) == ("orders", "order", ["order:*", "db@*"], "service")
    assert kept["created_at"] > 1_700_000_000_000
    assert "order:*, db@*" in run("token", "ls", "--store", store).output


def test_token_commands_refuse(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    add(store, "orders")
    again = run("token", "add", "orders", "--service", "order", "--store", store)
    assert (again.exit_code, "choose another name" in again.output) == (1, True)
    assert run("token", "drop", "nothing", "--store", store).exit_code == 1
    assert run("token", "add", "n" * 65, "--service", "order", "--store", store).exit_code == 1
    wrong = run("token", "ls", "--store", "oracle://x/y")
    assert (wrong.exit_code, "Traceback" in wrong.output) == (1, False)


def test_commands_speak_tls_with_the_variables_of_the_sdk(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=coordinator",
         "-addext", "subjectAltName=DNS:coordinator", "-keyout", key, "-out", certificate],
        capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with CoordinatorProcess(options=("--tls-cert", str(certificate), "--tls-key", str(key))) as coordinator:
        environment = {"TXCOORD_ADDRESS": coordinator.address, "TXCOORD_TLS_CA": str(certificate)}
        told = run("ls", TXCOORD_TLS_SERVER_NAME="coordinator", **environment)
        assert (told.exit_code, told.output) == (0, "none\n")
        assert run("ls", **environment).exit_code == 1, "the certificate is not the address's"
        assert run("ls", TXCOORD_ADDRESS=coordinator.address).exit_code == 1, "in the clear"
