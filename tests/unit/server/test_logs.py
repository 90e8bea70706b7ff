"""Log lines: both forms, and that whatever is told of a transaction carries its XID."""

from __future__ import annotations

import ast
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from txcoord_server.logs import HumanFormatter, JsonFormatter, configure_logging

SERVER = Path(__file__).parent.parent.parent.parent / "txcoord" / "txcoord_server"
XID = "default.0mfz.00000001"


@pytest.fixture(params=[HumanFormatter, JsonFormatter])
def form(request: pytest.FixtureRequest) -> type[logging.Formatter]:
    kind: type[logging.Formatter] = request.param
    return kind


def line(form: type[logging.Formatter], text: str, *args: object, **extra: object) -> str:
    record = logging.getLogger("txcoord_server.engine").makeRecord(
        "txcoord_server.engine", logging.WARNING, "f", 1, text, args, None, extra=extra
    )
    return form().format(record)


def test_a_line_of_a_transaction_has_its_xid(form: type[logging.Formatter]) -> None:
    assert XID in line(form, "branch %d is parked", 7, xid=XID)
    assert XID not in line(form, "a standby")


def test_the_human_form() -> None:
    assert line(HumanFormatter, "branch %d is parked", 7, xid=XID).endswith(f" WARNING [{XID}] branch 7 is parked")
    assert line(HumanFormatter, "a standby").endswith(" WARNING a standby")


def test_the_json_form() -> None:
    found = json.loads(line(JsonFormatter, "branch %d is parked: %s", 7, "naïve", xid=XID))
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "warning", "logger": "txcoord_server.engine", "message": "branch 7 is parked: naïve", "xid": XID,
    }  # fmt: skip


def test_what_a_participant_said_stays_on_its_line(form: type[logging.Formatter]) -> None:
    text = line(form, "failed: %s", "disk full\n2026-01-01 00:00:00 ERROR   all is lost", xid=XID)
    assert "\n" not in text
    assert "disk full\\n2026" in text


def test_an_exception_is_shown(form: type[logging.Formatter]) -> None:
    try:
        raise ValueError("a reason")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "it failed", (), sys.exc_info())
    assert "ValueError: a reason" in form().format(record)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:], logger.level = handlers, level


@pytest.mark.parametrize("form", ["human", "json"])
def test_the_option_chooses_the_form_and_the_level(form: str, root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(form, "warning")
    logging.getLogger("txcoord_server").info("hidden")
    logging.getLogger("txcoord_server").warning("shown", extra={"xid": XID})
    (text,) = capsys.readouterr().err.splitlines()
    assert (json.loads(text)["message"] == "shown") if form == "json" else text.endswith(f"[{XID}] shown")


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    for path in SERVER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "log":
                yield f"{path.relative_to(SERVER)}:{node.lineno}", node


def test_every_log_call_about_a_transaction_passes_its_xid() -> None:
    calls = list(log_calls())
    assert len(calls) > 10
    about = 0
    for place, call in calls:
        names = {n.id for a in call.args for n in ast.walk(a) if isinstance(n, ast.Name)}
        if names & {"xid", "branch", "transaction"}:
            about += 1
            extra = [keyword.value for keyword in call.keywords if keyword.arg == "extra"]
            assert extra, f"{place}: it is about a transaction and passes no extra={{'xid': ...}}"
    assert about >= 3
