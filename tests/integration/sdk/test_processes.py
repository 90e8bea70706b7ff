"""Threads, event loops, forked workers, and processes that end: each test with a life of its own is a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import uvloop
from txcoord_proto.errors import ConfigurationError
from txcoord_sdk import Client, ClientConfig
from txcoord_sdk import client as client_module
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.sdk.conftest import Ledger, atake_part, take_part
from tests.servers import free_port

PRELUDE = """
import asyncio, os, sys, threading, time
from txcoord_sdk import Client, ClientConfig, connect, current, tcc

client = connect(sys.argv[1], service="shop")

def say(*words: str) -> None:
    # in one write: print may take several, with those of another process in between
    os.write(1, (" ".join(words) + "\\n").encode())

@tcc("reserve")
def reserve(n: int) -> None: ...

@reserve.confirm
def confirm(n: int) -> None: ...

@reserve.cancel
def cancel(n: int) -> None: ...

@client.global_transaction(timeout=20)
def order(n: int) -> str:
    reserve(n)
    reserve(n + 1)
    return current().xid()
"""


def run(script: str, coordinator: CoordinatorProcess, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own; it must succeed, and keep quiet but for what it prints."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore:This process:DeprecationWarning",
            "-c",
            PRELUDE + textwrap.dedent(script),
            coordinator.address,
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


# ---------------------------------------------------------------- threads and loops


def test_thirty_two_threads(client: Client, ledger: Ledger) -> None:
    @client.global_transaction
    def order(n: int) -> str:
        from txcoord_sdk import current

        transaction = current()
        assert transaction is not None
        take_part(transaction, ledger)
        take_part(transaction, ledger)
        return transaction.xid()

    with ThreadPoolExecutor(32) as pool:
        xids = list(pool.map(order, range(640)))
    assert len(set(xids)) == 640
    assert all(ledger.ends(xid) == [True, True] for xid in xids[::40])
    assert len(ledger.settled) == 1280


class AsyncLedger(Ledger):
    """A participant in the event loop."""

    def __init__(self) -> None:
        super().__init__("stock:async@1")
        self.loops: set[asyncio.AbstractEventLoop] = set()

    def is_async(self, command: object) -> bool:
        return True

    async def asettle(self, command: object, branch: object) -> None:
        await asyncio.sleep(0)
        self.loops.add(asyncio.get_running_loop())
        Ledger.settle(self, command, branch)  # type: ignore[arg-type]

    settle = asettle  # type: ignore[assignment]  # a participant is one or the other


def test_two_loops_one_of_them_uvloop_and_a_thread(client: Client) -> None:
    ledger = AsyncLedger()
    client.serve(ledger.resource, ledger)

    @client.global_transaction
    async def order(n: int) -> str:
        from txcoord_sdk import current

        transaction = current()
        assert transaction is not None
        await atake_part(transaction, ledger)
        return await transaction.axid()

    async def many() -> list[str]:
        return list(await asyncio.gather(*(order(n) for n in range(100))))

    results: list[str] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as fast, asyncio.Runner() as plain:
        threads = [threading.Thread(target=lambda r=runner: results.extend(r.run(many()))) for runner in (fast, plain)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(results)) == 200
    wait_until(lambda: sum(ledger.settled.values()) == 200, what="all confirms")
    assert len(ledger.loops) == 1, "nobody adopted a loop, so they ran in the client's own"


def test_second_phases_run_in_the_loop_that_started_the_client(client: Client) -> None:
    ledger = AsyncLedger()
    client.serve(ledger.resource, ledger)

    async def main() -> asyncio.AbstractEventLoop:
        async with client:
            async with client.global_transaction() as transaction:
                await atake_part(transaction, ledger)
            return asyncio.get_running_loop()

    first = asyncio.run(main())
    assert ledger.loops == {first}
    second = asyncio.run(main())  # opened again, in another loop
    assert ledger.loops == {first, second}


# ---------------------------------------------------------------- life


def test_a_client_is_opened_and_closed_more_than_once(client: Client, ledger: Ledger) -> None:
    for _ in range(3):
        with client, client.global_transaction() as transaction:
            take_part(transaction, ledger)
        assert not client.started
        with pytest.raises(ConfigurationError, match="closed"):
            client.status("x.1.1")
    assert len(ledger.settled) == 3


def test_closing_waits_for_what_is_under_way_but_not_for_ever(coordinator: CoordinatorProcess) -> None:
    client, ledger, go_on = Client(ClientConfig("order", (coordinator.address,))), Ledger("stock:slow@1"), threading.Event()

    def settle(command: object, branch: object) -> None:
        go_on.wait(20)
        Ledger.settle(ledger, command, branch)  # type: ignore[arg-type]

    ledger.settle = settle  # type: ignore[method-assign]
    client.serve(ledger.resource, ledger)
    transaction = client.new_transaction("t", 30, "", 0)
    take_part(transaction, ledger)
    deciding = threading.Thread(target=transaction.commit)
    deciding.start()
    wait_until(lambda: client._runner.busy, what="the confirm")
    threading.Timer(0.3, go_on.set).start()
    client.close()
    assert ledger.ends(transaction.known_xid) == [True]
    deciding.join()
    assert transaction.status == "COMMITTED"

    go_on.clear()
    client.start()
    transaction = client.new_transaction("t", 30, "", 0)
    take_part(transaction, ledger)
    steps = transaction.commit_steps()
    ask = next(steps)
    ask.start(lambda value, error: None)  # type: ignore[union-attr]  # the first step asks for commit
    wait_until(lambda: client._runner.busy, what="the confirm")
    started = time.monotonic()
    client.close(patience=0.5)
    assert time.monotonic() - started < 3
    go_on.set()


def test_a_process_that_serves_and_does_not_start_is_warned(
    coordinator: CoordinatorProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client_module, "_NOT_STARTED_SECONDS", 0.1)
    forgetful, started = (Client(ClientConfig(name, (coordinator.address,))) for name in ("forgetful", "started"))
    for client in (forgetful, started):
        client.serve("r1", Ledger("r1"))
        client.serve("r2", Ledger("r2"))
    with started:
        time.sleep(0.4)
    warnings = [record.getMessage() for record in caplog.records if "has not connected" in record.getMessage()]
    assert len(warnings) == 1
    assert "service forgetful" in warnings[0]


def test_a_process_may_end_without_closing(coordinator: CoordinatorProcess) -> None:
    done = run("client.start(); print(order(1))", coordinator)
    assert done.stdout.startswith("default.")
    assert done.stderr == ""
    done = run("asyncio.run(asyncio.to_thread(order, 1)); raise SystemExit", coordinator)
    assert done.stderr == ""


def test_a_process_whose_database_is_not_there_may_end(coordinator: CoordinatorProcess, tmp_path: Path) -> None:
    """Actions are served as soon as their database answers; that must not keep the process."""
    script = f"""
        from sqlalchemy import Connection, create_engine
        client.bind(create_engine("sqlite:///{tmp_path}/nowhere/service.db"))

        @tcc("stored")
        def stored(conn: Connection) -> None: ...

        stored.confirm(lambda: None)
        stored.cancel(lambda: None)
        client.start()
        time.sleep(0.5)
    """
    assert "does not serve its actions yet" in run(script, coordinator, timeout=20).stderr


# ---------------------------------------------------------------- forks


def test_workers_forked_before_the_client_was_used(coordinator: CoordinatorProcess) -> None:
    script = """
        children = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                say("child", order(1))
                client.close()
                os._exit(0)
            children.append(pid)
        assert {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children} == {0}
        say("parent", order(1))
    """
    lines = run(script, coordinator).stdout.split("\n")
    assert sorted(line.split(" ")[0] for line in lines if line) == ["child"] * 3 + ["parent"]
    assert len(set(lines)) == len(lines)


def test_workers_forked_while_the_client_is_in_use(coordinator: CoordinatorProcess) -> None:
    """That is more than gRPC bears by itself; and no order of the parent's threads may fail for it."""
    script = """
        stop, failures, done = threading.Event(), [], []

        def work():
            while not stop.is_set():
                try:
                    done.append(order(1))
                except BaseException as error:
                    failures.append(repr(error))

        client.start()
        say("parent", order(1))
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(4):
            time.sleep(0.1)
            pid = os.fork()
            if pid == 0:
                say("child", order(1))
                client.close()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        before = len(done)
        time.sleep(0.3)
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == [], failures
        assert len(done) > before > 0
        assert len(set(done)) == len(done)
        client.close()
    """
    assert run(script, coordinator).stdout.count("child default.") == 4


def test_multiprocessing(coordinator: CoordinatorProcess) -> None:
    script = """
        import multiprocessing
        if __name__ == "__main__":
            order(0)
            with multiprocessing.get_context("fork").Pool(3) as pool:
                print(len(set(pool.map(order, range(12)))))
            order(0)
    """
    assert run(script, coordinator).stdout == "12\n"


def test_only_workers_are_warned_in_a_forking_server(coordinator: CoordinatorProcess) -> None:
    script = """
        from txcoord_sdk import client as module
        module._NOT_STARTED_SECONDS = 0.3
        other = Client(ClientConfig("other", (sys.argv[1],)))
        other.serve("r", object())
        pid = os.fork()
        if pid == 0:
            time.sleep(0.8)
            os._exit(0)
        os.waitpid(pid, 0)
    """
    assert run(script, coordinator).stderr.count("service other registered actions and has not connected") == 1


GUNICORN_APP = (
    PRELUDE.replace("sys.argv[1]", 'os.environ["COORDINATOR"]')
    + """
def app(environ, start_response):
    body = f"{os.getpid()} {order(1)}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
)


def test_gunicorn_with_preload(coordinator: CoordinatorProcess, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(GUNICORN_APP)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", f"127.0.0.1:{port}", "shop:app"]
    environment = {**os.environ, "COORDINATOR": coordinator.address}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            answers = set()
            with httpx.Client() as http:

                def two_workers_have_answered() -> bool:
                    try:
                        answer = http.get(f"http://127.0.0.1:{port}/", headers={"connection": "close"})
                    except httpx.TransportError:
                        return False
                    answers.add(answer.raise_for_status().text)
                    return len({text.split(" ")[0] for text in answers}) == 2 and len(answers) > 10

                wait_until(two_workers_have_answered, 30, "an answer of each worker")
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0, (tmp_path / "log").read_text()
    xids = [text.split(" ")[1] for text in answers]
    assert len(set(xids)) == len(xids)


CELERY_APP = (
    PRELUDE.replace("sys.argv[1]", 'os.environ["COORDINATOR"]')
    + """
from celery import Celery

place = os.environ["PLACE"]
app = Celery("shop", broker="filesystem://", backend="file://" + place + "/results")
folders = {"data_folder_in": place + "/q", "data_folder_out": place + "/q", "control_folder": place + "/c"}
app.conf.broker_transport_options = folders

@app.task
def place_order(n):
    return f"{os.getpid()} {order(n)}"
"""
)


def test_celery_with_prefork(coordinator: CoordinatorProcess, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(CELERY_APP)
    for name in ("q", "c", "results"):
        (tmp_path / name).mkdir()
    environment = {**os.environ, "COORDINATOR": coordinator.address, "PLACE": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--pool", "prefork", "-c", "2", "--without-gossip"]
    ask = "import shop; r = [shop.place_order.delay(n) for n in range(8)]; print([x.get(timeout=40) for x in r])"
    with (tmp_path / "log").open("w") as log:
        worker = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            asked = subprocess.run(
                [sys.executable, "-c", ask],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(20)
    assert asked.returncode == 0, asked.stderr + (tmp_path / "log").read_text()
    assert asked.stdout.count("default.") == 8


# ---------------------------------------------------------------- gevent


@pytest.mark.parametrize("patch", ["patch_all()", "patch_all(thread=True, socket=False)"])
def test_gevent_is_refused_with_the_reason(coordinator: CoordinatorProcess, patch: str) -> None:
    code = f"from gevent import monkey; monkey.{patch}\n" + PRELUDE + "\norder(1)"
    done = subprocess.run(
        [sys.executable, "-c", code, coordinator.address], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "txcoord does not run under gevent or eventlet" in done.stderr
