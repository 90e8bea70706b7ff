"""`txcoord health` as a container engine calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import trustme
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.server.pem import Pem


def health(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "txcoord"), "health", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_leader_standby_and_nobody(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    with CoordinatorProcess(store) as leader, CoordinatorProcess(store) as standby:
        for coordinator, leads in ((leader, True), (standby, False)):
            well = health(coordinator.address)
            assert well.returncode == 0
            assert ("leads and serves" in well.stdout) is leads
            told = health(coordinator.address, "--leader", "--json")
            assert told.returncode == (0 if leads else 1)
            assert json.loads(told.stdout) == {"address": coordinator.address, "leads": leads}
        leader.pause()
        assert health(leader.address, "--timeout", "0.5").returncode == 1
        leader.resume()
        gone = leader.address
    dead = health(gone)
    assert dead.returncode == 1
    assert "does not answer" in dead.stderr
    assert json.loads(health(gone, "--json").stdout)["error"]["code"] == "COORDINATOR_UNREACHABLE"


def test_health_over_tls(tmp_path: Path) -> None:
    pem = Pem(tmp_path, trustme.CA())
    certificate, key = pem.pair("probe")
    presented = ("--tls-cert", str(certificate), "--tls-key", str(key))
    name = "coordinator.example"
    with CoordinatorProcess(options=(*pem.serving(name), "--tls-client-ca", str(pem.ca))) as coordinator:
        trusting = (coordinator.address, "--timeout", "1", "--tls-ca", str(pem.ca), "--tls-server-name", name)
        assert health(*trusting, *presented).returncode == 0
        assert health(*trusting).returncode == 1, "it insists on a client certificate"
        half = health(*trusting, *presented[:2])
        assert half.returncode == 2
        assert "--tls-cert and --tls-key belong together" in half.stderr
