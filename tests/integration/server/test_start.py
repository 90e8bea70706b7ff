"""How a coordinator starts, or does not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.server.stub import Stub
from tests.servers.fixtures import FreshUrl
from tests.servers.ports import free_port


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
