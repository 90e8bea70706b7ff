"""How a coordinator starts, or does not."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from txcoord_proto.errors import NotLeaderError
from txcoord_sdk.testing import CoordinatorProcess, free_port, wait_until

from tests.integration.server.stub import Stub
from tests.integration.server.test_leadership import leads
from tests.integration.server.test_store_gone import DRIVERS
from tests.servers.fixtures import FreshUrl


@pytest.fixture
def unsafe(fresh_postgres_url: FreshUrl) -> str:
    """A database that acknowledges commits before they are durable."""
    url = fresh_postgres_url()
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {make_url(url).database} SET synchronous_commit = off")
    engine.dispose()
    return url


def test_an_unsafe_store_is_refused(unsafe: str) -> None:
    refused = CoordinatorProcess(unsafe)
    with pytest.raises(RuntimeError, match=r"exit code 1(?s:.*)synchronous_commit = off: set it to on"):
        refused.start()
    refused.close()


def test_an_unsafe_store_is_used_when_told_so(unsafe: str) -> None:
    with CoordinatorProcess(unsafe, options=("--unsafe-store",)) as coordinator:
        assert "WARNING acknowledged decisions can be lost on this store: PostgreSQL runs with sync" in coordinator.log()
        with Stub(coordinator.address) as stub:
            assert stub.commit(stub.prepared()).xid


def test_it_can_be_ended_while_its_store_cannot_be_reached(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = "from txcoord_server.cli import main; main()"
    store = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-c", command, "serve", "--port", "0", "--store", store], stderr=file)
        wait_until(lambda: "the store cannot be reached" in log.read_text(), 15, "its complaint")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def changed(url: str, statement: str) -> None:
    scheme, rest = url.split(":", 1)
    engine = create_engine(f"{DRIVERS[scheme]}:{rest}", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def refused(url: str, match: str, port: int = 0) -> None:
    """It ends by itself, and says why."""
    coordinator = CoordinatorProcess(url, port)
    try:
        with pytest.raises(RuntimeError, match=match) as caught:
            coordinator.start()
        assert "Traceback" not in str(caught.value)
    finally:
        coordinator.close()


def test_two_start_at_once_on_an_empty_store(url: str) -> None:
    pair = [CoordinatorProcess(url, options=("--node", name)) for name in ("a", "b")]
    try:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(CoordinatorProcess.start, pair))
        assert sorted(map(leads, pair)) == [False, True]
        standby = next(c for c in pair if not leads(c))
        with Stub(standby.address) as stub, pytest.raises(NotLeaderError) as caught:
            stub.begin()
        assert caught.value.details["leader"] in [c.address for c in pair if c is not standby]
    finally:
        for coordinator in pair:
            coordinator.close()


def test_a_store_made_by_a_newer_version_is_left_alone(url: str) -> None:
    with CoordinatorProcess(url):
        pass
    changed(url, "UPDATE txc_version SET version_num = '9999'")
    refused(url, "the store's schema has version 9999, which this txcoord does not know")
    changed(url, "UPDATE txc_version SET version_num = '0001'")
    with CoordinatorProcess(url) as coordinator:
        assert leads(coordinator)


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused(f"sqlite:///{tmp_path}/store.db", "cannot listen on", taken.getsockname()[1])
