"""The shop as a person runs it: every scenario on every database, judged by its exit code, what it prints and its ledger."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, text
from txcoord_rm.undo.schema import metadata as undo_metadata
from txcoord_sdk.schema import metadata as sdk_metadata

import examples.shop.balance.database as balance
import examples.shop.order.database as order
import examples.shop.stock.database as stock
from examples.shop.__main__ import perform, say
from examples.shop.ledger import Ledger
from examples.shop.modes import WAYS
from examples.shop.places import MODES, databases_on
from examples.shop.scenarios import SCENARIOS, Scenario
from examples.shop.stage import ACCOUNTS, PRODUCTS, SERVICES, Stage
from tests.servers import Server

UNDO_RECORD = "INSERT INTO txcoord_undo_log (branch_id, seq, state, xid, format, created_at, table_name)"


def shop(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.shop", *arguments],
        env={**os.environ, **environment, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def ledger(output: str) -> dict[str, tuple[Decimal, Decimal]]:
    """Before and after of each line of the last table."""
    table = output[output.index("The ledger: before and after") :]
    rows = re.findall(r"^\W*([a-zA-Z]+:? [a-zA-Z ]+?)\s{2,}([\d.]+)\s+([\d.]+)", table, re.MULTILINE)
    return {name: (Decimal(before), Decimal(after)) for name, before, after in rows}


def check(done: subprocess.CompletedProcess[str], mode: str) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    for number, scenario in enumerate(SCENARIOS, 1):
        assert f"{number}. {scenario.title}" in done.stdout
    assert done.stdout.count("all or nothing, nothing left over") == len(SCENARIOS)
    assert "Money and goods are conserved" in done.stdout
    books = ledger(done.stdout)
    for sku, (_, pieces) in PRODUCTS.items():
        assert books[f"{sku}: free"][0] == pieces
        assert books[f"{sku}: free"][1] + books[f"{sku}: sold"][1] == pieces
        assert books[f"{sku}: reserved"][1] == 0
    assert books["money at hand"][0] == sum(ACCOUNTS.values())
    assert books["money at hand"][1] + books["money paid"][1] == sum(ACCOUNTS.values())
    assert books["money held"][1] == books["orders PENDING"][1] == 0
    sold = sum((price * books[f"{sku}: sold"][1] for sku, (price, _) in PRODUCTS.items()), Decimal(0))
    assert books["money paid"][1] == sold > 0
    assert books["orders PLACED"][1] > 0
    assert (books["orders REJECTED"][1] > 0) is bool(WAYS[mode]["order"].rejected)


@pytest.mark.parametrize("mode", ["at", "tcc"])
def test_on_sqlite(mode: str) -> None:
    check(shop("--db", "sqlite", "--mode", mode), mode)


@pytest.mark.parametrize("mode", WAYS)
def test_on_postgresql(postgres: Server, mode: str) -> None:
    check(shop("--db", "postgres", "--mode", mode, TXCOORD_TEST_POSTGRES=postgres.url), mode)


@pytest.mark.parametrize("mode", WAYS)
def test_on_mariadb(mariadb: Server, mode: str) -> None:
    check(shop("--db", "mariadb", "--mode", mode, TXCOORD_TEST_MARIADB=mariadb.url), mode)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in WAYS])
def test_what_does_not_exist_yet_names_what_does(mode: str) -> None:
    done = shop("--db", "sqlite", "--mode", mode)
    assert done.returncode == 2
    assert "use --db sqlite --mode at" in done.stderr


@pytest.mark.parametrize("mode", ["xa", "mixed"])
def test_sqlite_prepares_no_transactions(mode: str) -> None:
    done = shop("--db", "sqlite", "--mode", mode)
    assert done.returncode == 2
    assert "SQLite cannot" in done.stderr
    assert f"use --db postgres --mode {mode}" in done.stderr


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Ledger]:
    urls = {name: f"sqlite:///{tmp_path}/{name}.db" for name in (*SERVICES, "coordinator")}
    for name, metadata in {"order": order.metadata, "stock": stock.metadata, "balance": balance.metadata}.items():
        for tables in (metadata, sdk_metadata, undo_metadata):
            execute(urls[name], tables.create_all)
    execute(urls["coordinator"], lambda c: c.execute(text("CREATE TABLE txc_global (xid text, status text)")))
    made = Ledger({name: urls[name] for name in SERVICES}, urls["coordinator"], WAYS["at"])
    made.fill(PRODUCTS, ACCOUNTS)
    yield made
    made.close()


def execute(url: str, work: Callable[[Connection], object]) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        work(connection)
    engine.dispose()


@pytest.mark.parametrize(
    ("service", "statement", "broken"),
    [
        ("stock", "UPDATE stock SET free = free - 1 WHERE sku = 'tea'", "pieces of a product were lost or made"),
        ("stock", "UPDATE stock SET free = free - 1, reserved = 1 WHERE sku = 'tea'", "pieces are still reserved"),
        (
            "stock",
            "UPDATE stock SET free = free - 1, sold = 1 WHERE sku = 'tea'",
            "pieces sold are not the pieces of placed orders",
        ),
        ("balance", "UPDATE account SET balance = balance + 1 WHERE customer = 'ann'", "money was lost or made"),
        ("balance", "UPDATE account SET balance = balance - 1, held = 1 WHERE customer = 'ann'", "money is still held"),
        ("balance", "UPDATE account SET balance = balance - 1, paid = 1 WHERE customer = 'ann'", "money paid is not what"),
        ("order", "INSERT INTO orders VALUES ('1', 'ann', 'tea', 0, NULL, 0, 'PENDING')", "orders are still pending"),
        (
            "order",
            f"{UNDO_RECORD} VALUES (7, 1, 'IMAGE', 'x', 1, 0, 't')",
            "local transactions still wait for their second phase",
        ),
        ("balance", "INSERT INTO txcoord_fence VALUES ('x', 7, 'r', 'CONFIRMED', NULL, 0, 0)", "fence rows were written in AT"),
        ("coordinator", "INSERT INTO txc_global VALUES ('x', 'COMMITTING')", "the coordinator has unfinished"),
    ],
)
def test_what_is_not_conserved_is_found(books: Ledger, tmp_path: Path, service: str, statement: str, broken: str) -> None:
    start = books.totals()
    assert books.broken_promises(start) == []
    execute(f"sqlite:///{tmp_path}/{service}.db", lambda c: c.execute(text(statement)))
    (found,) = books.broken_promises(start)
    assert found.startswith(broken)


def test_a_theft_fails_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def steal(stage: Stage) -> None:
        """A cent disappears between two orders."""
        assert stage.order("ann", "pen").placed
        execute(urls["balance"], lambda c: c.execute(text("UPDATE account SET balance = balance - 1 WHERE customer = 'ann'")))

    with databases_on("sqlite", tmp_path) as urls:
        stage = Stage(urls, WAYS["at"], tmp_path, say)
        try:
            stage.open()
            failed = perform(stage, [Scenario("theft", "A theft", steal)])
        finally:
            stage.close()
    assert failed == ["A theft: money was lost or made"]
    assert "NOT conserved" in capsys.readouterr().out
