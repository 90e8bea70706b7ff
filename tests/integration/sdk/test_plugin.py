"""`txcoord_sdk.testing` in a user's own project: found by pytest, a real coordinator, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from txcoord_sdk.testing import CoordinatorProcess, wait_until

USERS_TEST = """
from txcoord_sdk import current, tcc

@tcc("reserve")
def reserve(n: int) -> None: ...

@reserve.confirm
def confirmed(n: int) -> None:
    done.append(n)

@reserve.cancel
def cancelled(n: int) -> None: ...

done = []


def test_with_a_client(txcoord_client):
    @txcoord_client.global_transaction
    def order():
        reserve(3)
        return current().xid()

    assert txcoord_client.status(order()).decision == "COMMIT"
    assert done == [3]


def test_with_a_coordinator(txcoord_coordinator):
    host, port = txcoord_coordinator.address.split(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    print("PID", txcoord_coordinator.pid)
"""


def test_a_users_test_run(tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text(USERS_TEST)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-s",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    pid = int(done.stdout.split("PID ", 1)[1].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_coordinator_dies_with_its_parent() -> None:
    script = (
        "import os, time; from txcoord_sdk.testing import CoordinatorProcess;"
        "c = CoordinatorProcess().start(); print(c.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not alive(pid), what="the coordinator's end")


def alive(pid: int) -> bool:
    """Whether a process runs; an orphan that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_it_comes_back_on_the_same_port_and_store() -> None:
    with CoordinatorProcess() as coordinator:
        address = coordinator.address
        coordinator.kill()
        coordinator.start()
        assert coordinator.address == address
        coordinator.pause()
        coordinator.resume()
        coordinator.terminate()


def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    broken = CoordinatorProcess(f"sqlite:///{tmp_path}/no/such/folder/c.db")
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="did not start"):
        broken.start()
    assert time.monotonic() - started < 20
    broken.close()
