"""A benchmark that could not be made is none that was passed."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from tests.benchmarks.coordinator import BUDGETS, opened
from tests.benchmarks.figure import Figure


def test_a_store_that_cannot_be_had_misses_its_floor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TXCOORD_SERVERS", "none")
    with ExitStack() as stack:
        fields, missing = opened(stack, None)
    assert [field.store for field in fields] == ["sqlite"]
    assert [(figure.name.split(":")[0], figure.floor) for figure in missing] == [
        (store, BUDGETS[store][0]) for store in ("postgres", "mariadb")
    ]
    assert not any(figure.floor_met for figure in missing)
    assert "TXCOORD_SERVERS=none" in capsys.readouterr().err


def test_a_missed_floor_is_shown_as_one() -> None:
    assert Figure("purged", (78.0,), 3_000).verdict == "NO"
    assert Figure("purged", (3_000.0,), 3_000, 4_000).verdict == "floor"
    assert Figure("ms", (1.0,), 3, 2, more_is_better=False).verdict == "goal"
    assert Figure("ms", (4.0,), 3, 2, more_is_better=False).verdict == "NO"


def test_a_figure_without_values_is_shown() -> None:
    missing = Figure("mariadb: transactions/s", (), 3_500, 7_000)
    assert missing.line().split()[-1] == "NO"
    assert json.loads(json.dumps(missing.as_dict()))["met"] == "NO"
    assert json.loads(json.dumps(missing.as_dict(), allow_nan=False))["median"] is None
