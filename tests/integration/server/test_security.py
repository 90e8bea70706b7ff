"""TLS, client certificates and tokens, end to end: who gets in, and what the others are told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner
from txcoord_proto.errors import (
    CoordinatorUnreachableError,
    ResourceDeniedError,
    UnauthenticatedError,
    WrongOwnerError,
)
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk import Client, ClientConfig, Tls
from txcoord_sdk.testing import CoordinatorProcess, wait_until
from txcoord_server.cli import main

from tests.integration.server.pem import Pem
from tests.integration.server.stream import Stream
from tests.integration.server.stub import BALANCE, STOCK, Stub


@pytest.fixture
def pem(tmp_path: Path) -> Pem:
    return Pem(tmp_path, trustme.CA())


@pytest.fixture
def stranger(tmp_path: Path) -> Pem:
    """An authority that nobody trusts."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    return Pem(folder, trustme.CA())


def decides(coordinator: CoordinatorProcess, tls: Tls | None, token: str = "", service: str = "order") -> str:
    """Commit a transaction through the SDK; returns its XID."""
    config = ClientConfig(service, (coordinator.address,), token=token, tls=tls, failover_wait=0.5)
    with Client(config) as client, client.global_transaction() as transaction:
        return transaction.xid()


def cannot_reach(coordinator: CoordinatorProcess, tls: Tls | None, why: str) -> None:
    """The SDK finds nobody, and says what it met."""
    with pytest.raises(CoordinatorUnreachableError, match=why):
        decides(coordinator, tls)


def test_a_coordinator_with_a_certificate(pem: Pem, stranger: Pem) -> None:
    with CoordinatorProcess(options=pem.serving()) as coordinator:
        assert decides(coordinator, Tls(ca=pem.ca))
        cannot_reach(coordinator, Tls(ca=stranger.ca), "CERTIFICATE_VERIFY_FAILED")


def test_a_certificate_for_another_name(pem: Pem) -> None:
    with CoordinatorProcess(options=pem.serving("coordinator.example")) as coordinator:
        assert decides(coordinator, Tls(ca=pem.ca, server_name="coordinator.example"))
        cannot_reach(coordinator, Tls(ca=pem.ca), "(?i)verif|name")


def test_client_certificates(pem: Pem, stranger: Pem) -> None:
    certificate, key = pem.pair("order")
    with CoordinatorProcess(options=(*pem.serving(), "--tls-client-ca", str(pem.ca))) as coordinator:
        assert decides(coordinator, Tls(ca=pem.ca, certificate=certificate, key=key))
        certificate, key = stranger.pair("order")
        cannot_reach(coordinator, Tls(ca=pem.ca, certificate=certificate, key=key), "no coordinator answered")
        cannot_reach(coordinator, Tls(ca=pem.ca), "no coordinator answered")


def test_one_side_in_the_clear(pem: Pem) -> None:
    with CoordinatorProcess(options=pem.serving()) as coordinator:
        cannot_reach(coordinator, None, "no coordinator answered")


@pytest.mark.parametrize("broken", ["certificate", "key", "pair"])
def test_files_that_are_no_certificate(pem: Pem, stranger: Pem, broken: str) -> None:
    certificate, key = pem.pair("127.0.0.1")
    if broken == "pair":
        key = stranger.pair("127.0.0.1")[1]
    else:
        (certificate if broken == "certificate" else key).write_text("nothing of the kind")
    coordinator = CoordinatorProcess(options=("--tls-cert", str(certificate), "--tls-key", str(key)))
    with pytest.raises(RuntimeError, match=r"no PEM file|the key that of the certificate") as caught:
        coordinator.start()
    assert "Traceback" not in str(caught.value)
    coordinator.close()


# ---------------------------------------------------------------- tokens

Grant = Callable[..., str]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


def txcoord(url: str, *arguments: str) -> str:
    """Run the command on the coordinator's store; returns its output."""
    ran = CliRunner().invoke(main, ["token", *arguments, "--store", url, "--json"])
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.fixture
def grant(url: str) -> Grant:
    """Makes a token."""

    def make(name: str, service: str, *resources: str) -> str:
        patterns = [word for resource in resources for word in ("--resource", resource)]
        return str(json.loads(txcoord(url, "add", name, "--service", service, *patterns))["token"])

    return make


@pytest.fixture
def secured(url: str, grant: Grant) -> Iterator[tuple[CoordinatorProcess, str]]:
    """A coordinator that wants tokens, and one for service order and resources of stock."""
    token = grant("order-1", "order", "stock:*")
    with CoordinatorProcess(url) as coordinator:
        yield coordinator, token


def test_an_unknown_token_is_not_let_in(secured: tuple[CoordinatorProcess, str]) -> None:
    coordinator, token = secured
    for wrong in ("", "txc_wrong", token[:-1]):
        with Stub(coordinator.address, token=wrong) as stub, pytest.raises(UnauthenticatedError, match="txcoord token add"):
            stub.begin()
        with Stream(coordinator.address, greet=False) as stream:
            stream.hello(token=wrong)
            with pytest.raises(UnauthenticatedError):
                stream.event()
        with pytest.raises(UnauthenticatedError):
            decides(coordinator, None, wrong)
    with Stub(coordinator.address, token=token) as stub:
        assert stub.begin()
    assert decides(coordinator, None, token)


def test_a_token_belongs_to_its_service(secured: tuple[CoordinatorProcess, str]) -> None:
    coordinator, token = secured
    with Stub(coordinator.address, "stock", token) as stub, pytest.raises(UnauthenticatedError, match="belongs to service order"):
        stub.begin()


@pytest.fixture
def balance_token(grant: Grant) -> str:
    """A token of another service, made before the coordinator starts."""
    return grant("balance-1", "balance", "balance:*")


def test_a_token_covers_its_resources_only(balance_token: str, secured: tuple[CoordinatorProcess, str]) -> None:
    coordinator, token = secured
    with Stub(coordinator.address, token=token) as order, Stub(coordinator.address, "balance", balance_token) as other:
        xid = order.begin()
        with pytest.raises(ResourceDeniedError) as caught:
            order.register(xid, BALANCE)
        assert caught.value.details["resource"] == BALANCE
        assert not order.status(xid).branches
        branch = order.register(xid, STOCK)
        with pytest.raises(ResourceDeniedError):
            other.report(xid, branch)
        assert order.status(xid).branches[0].status == "REGISTERED"
        with pytest.raises(WrongOwnerError):
            other.commit(xid)
        with Stream(coordinator.address, token=balance_token, service="balance") as stream:
            stream.write(pb.ClientBatch(reported_xids=[xid], reported_branches=[branch]))
            with pytest.raises(ResourceDeniedError) as denied:
                stream.event()
            assert denied.value.details == {"resource": STOCK, "xid": xid, "branch_id": str(branch)}
        order.report(xid, branch)
        assert order.commit(xid).decision == "COMMIT"
    with Stream(coordinator.address, token=token) as stream:
        stream.send(serve=pb.ServeRequest(resources=[BALANCE]))
        with pytest.raises(ResourceDeniedError):
            stream.event()
    with Stream(coordinator.address, greet=False) as stream:
        stream.hello(token=token, resources=[BALANCE])
        with pytest.raises(ResourceDeniedError):
            stream.event()


def test_listening_beyond_loopback(pem: Pem, url: str, grant: Grant) -> None:
    def exposed(*options: str) -> CoordinatorProcess:
        return CoordinatorProcess(url, options=("--listen", "0.0.0.0:0", *options))

    for missing in ((), pem.serving()):
        refused = exposed(*missing)
        with pytest.raises(RuntimeError, match=r"needs TLS \(--tls-cert, --tls-key\) and at least one token"):
            refused.start()
        refused.close()
    with exposed("--insecure") as insecure:
        assert "without insisting on TLS and tokens (--insecure)" in insecure.log()
        assert decides(insecure, None)
    token = grant("order-1", "order")
    with exposed(*pem.serving()) as proper:
        assert decides(proper, Tls(ca=pem.ca), token)
        assert "--insecure" not in proper.log()


def test_without_its_last_token_an_exposed_coordinator_lets_nobody_in(pem: Pem, url: str, grant: Grant) -> None:
    def refused() -> bool:
        try:
            decides(coordinator, Tls(ca=pem.ca), token)
        except UnauthenticatedError:
            return True
        return False

    token = grant("order-1", "order")
    with CoordinatorProcess(url, options=("--listen", "0.0.0.0:0", *pem.serving())) as coordinator:
        assert decides(coordinator, Tls(ca=pem.ca), token)
        dropped = CliRunner().invoke(main, ["token", "drop", "order-1", "--store", url])
        assert "that was the last token" in dropped.stderr
        assert dropped.stdout == "dropped order-1\n"
        wait_until(refused, 8, "the refusal of the dropped token")
        with pytest.raises(UnauthenticatedError, match="txcoord token add"):
            decides(coordinator, Tls(ca=pem.ca))
        operator = CliRunner().invoke(main, ["ls", "--address", coordinator.address, "--tls-ca", str(pem.ca)])
        assert "UNAUTHENTICATED" in operator.output
        time.sleep(2.5)  # the store is read again
        assert coordinator.log().count("the last token was dropped: nobody is let in") == 1
        assert "ERROR" in coordinator.log()
        token = grant("order-2", "order")
        wait_until(lambda: not refused(), 8, "the new token")
