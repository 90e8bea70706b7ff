"""The tutorial's commands print what it says."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from txcoord_sdk.testing import CoordinatorProcess

from tests.docs import surface
from tests.docs.conftest import OpenPage
from tests.docs.page import ROOT, Page
from tests.servers import free_port
from tests.servers.fixtures import FreshUrl

AT_MODE = "tutorial/at-mode.md"


def test_the_first_transaction(tmp_path: Path) -> None:
    """From a clone, installed as the page says; its processes get free ports."""
    for name in surface.tracked():
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / "clone" / name)
    port, venv = str(free_port()), "python3 -m venv"
    page = Page(
        "tutorial/first-transaction.md",
        tmp_path,
        {"8001": str(free_port()), "8002": str(free_port()), venv: f"cd clone && {venv}"},
        {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": "",
            "TXCOORD_PORT": port,
            "TXCOORD_ADDRESS": f"127.0.0.1:{port}",
        },
    )
    page.shell()
    page.check_everything_ran()


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_at_mode(open_page: OpenPage, request: pytest.FixtureRequest, database: str) -> None:
    own: dict[str, str] = {}
    if database == "postgres":
        fresh: FreshUrl = request.getfixturevalue("fresh_postgres_url")
        own = {f"sqlite:///{name}.db": fresh("psycopg") for name in ("stock", "orders")}
    page = open_page(AT_MODE, own, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    page.shell()
    page.run("import anomaly, place")


def test_a_counted_version_comes_back(txcoord_coordinator: CoordinatorProcess, tmp_path: Path) -> None:
    counted = {
        "Mapped[str] = mapped_column(String(32))\n    __mapper_args__": "Mapped[int] = mapped_column()\n    __mapper_args__",
        ', "version_id_generator": lambda _: uuid4().hex': "",
    }
    page = Page(AT_MODE, tmp_path, counted, {"TXCOORD_ADDRESS": txcoord_coordinator.address})
    page.run("""
import anomaly
from contextlib import suppress

def sell_with_a_third(session, quantity, pause):
    apple = session.get_one(anomaly.VersionedStock, "apple")
    pause()
    if quantity == 1:  # a third one has come since, and counted to the same version
        with anomaly.Session(anomaly.stock_engine) as other, other.begin():
            other.get_one(anomaly.VersionedStock, "apple").free -= 1
    apple.free = apple.free - quantity

with anomaly.client:
    anomaly.two_at_once(sell_with_a_third)
    assert anomaly.free(anomaly.VersionedStock) == 6, "two were sold of ten"
""")
