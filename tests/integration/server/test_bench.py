"""`txcoord bench`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from txcoord_sdk.testing import CoordinatorProcess

from tests.servers.fixtures import FreshUrl

SMALL = ("--transactions", "300", "--runs", "2")
TABLES = ("txc_global", "txc_branch", "txc_group", "txc_epoch")


def bench(cwd: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from txcoord_server.cli import main; main()", "bench", *SMALL, *options]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    for name in ("per_second", "p99_ms", "alone_p50_ms", "alone_p99_ms"):
        assert len(found[name]) == 2
        assert min(found[name]) > 0
    assert found["transactions"] == 2 * (300 + 50)
    assert found["before"]["fsync_ms"] > 0
    return found


def rows(url: str, driver: str) -> dict[str, int]:
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(url).set(drivername=driver))
    with engine.connect() as connection:
        counts = {name: int(connection.scalar(sqlalchemy.text(f"SELECT count(*) FROM {name}")) or 0) for name in TABLES}
    engine.dispose()
    return counts


def test_a_store_of_its_own(tmp_path: Path) -> None:
    done = bench(tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("256 in flight", "p50 ms, one in flight", "write + fsync"):
        assert text in done.stdout
    assert "run 2 of 2" in done.stderr, "progress is shown"
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_named_is_left_as_it_was(tmp_path: Path, fresh_postgres_url: FreshUrl) -> None:
    url = fresh_postgres_url()
    with CoordinatorProcess(url):
        pass
    before = rows(url, "postgresql+psycopg")
    found = findings(bench(tmp_path, "--store", url, "--json"))
    assert found["where"].startswith("postgresql://")
    assert rows(url, "postgresql+psycopg") == before


def test_a_running_coordinator(tmp_path: Path) -> None:
    with CoordinatorProcess() as coordinator:
        done = bench(tmp_path, "--address", coordinator.address, "--json")
        assert "writes global transactions" in done.stderr
        assert coordinator.address in findings(done)["where"]
        assert rows(coordinator.store, "sqlite")["txc_global"] >= 2 * 350


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--store", "sqlite:///x.db", "--address", "127.0.0.1:1"), 2, "give one of them"),
        (("--store", "oracle://x"), 1, "is no store for the coordinator"),
        (("--store", "nonsense"), 1, "cannot be read"),
        (("--address", "127.0.0.1:1"), 1, "failed to connect"),
    ],
)
def test_what_cannot_be_measured(tmp_path: Path, options: tuple[str, ...], code: int, text: str) -> None:
    done = bench(tmp_path, *options)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr
