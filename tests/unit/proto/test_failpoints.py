"""Failpoints: nothing at all while off; each mode and action while on, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from txcoord_proto.failpoints import VARIABLE, Mode, announce, durable, passes

PROGRAM = """
import asyncio, sys, logging
from txcoord_proto.failpoints import Mode, announce, durable, passes

logging.basicConfig()
say = lambda text: print(text, flush=True)

@passes(Mode.IN)
def statements():
    say("statements")

@passes(Mode.UNKNOWN, LookupError)
def commit():
    say("commit")

@durable("plain", OSError)
def plain():
    statements(); say("commit")

@durable("steps")
def steps():
    yield
    statements(); plain(); commit()

@durable("coroutine")
async def coroutine():
    statements(); await asyncio.sleep(0); commit()

try:
    announce()
except Exception as error:
    sys.exit(str(error))
run = {"plain": plain, "steps": lambda: list(steps()), "coroutine": lambda: asyncio.run(coroutine())}[sys.argv[1]]
for turn in range(3):
    try:
        run()
        say("told")
    except (OSError, LookupError) as error:
        say(type(error).__name__)
"""


def run(kind: str, text: str) -> tuple[int, list[str], str]:
    """Exit code, what was said, the log."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind], env={**os.environ, VARIABLE: text}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.split(), done.stderr


def test_off_the_decorators_give_back_the_function_itself() -> None:
    def function() -> None: ...

    async def coroutine() -> None: ...

    assert VARIABLE not in os.environ, "these tests are run without failpoints"
    for each in (function, coroutine):
        assert durable("a.test", OSError)(each) is each
        assert passes(Mode.IN)(each) is each
    announce()


ONCE = ["statements", "commit", "told"]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
@pytest.mark.parametrize(("mode", "said"), [("before", []), ("in", ONCE[:1]), ("after", ONCE[:2])])
def test_kills_at_the_named_moment(kind: str, mode: str, said: list[str]) -> None:
    code, told, log = run(kind, f"{kind}={mode}:kill")
    assert (code, told) == (-signal.SIGKILL, said)
    assert f"failpoint {kind}, {mode}" in log
    assert "FAILPOINTS ARE ON" in log


def test_counts_passings() -> None:
    code, told, _ = run("plain", "plain=in:kill@3")
    assert (code, told) == (-signal.SIGKILL, [*ONCE, *ONCE, "statements"])


@pytest.mark.parametrize(("kind", "error"), [("plain", "OSError"), ("coroutine", "LookupError")])
def test_unknown_is_done_and_raises(kind: str, error: str) -> None:
    failed = [*ONCE[:2], error]
    assert run(kind, f"{kind}=unknown:error@2")[:2] == (0, [*ONCE, *failed, *ONCE])
    assert run(kind, f"{kind}=unknown:kill@2")[:2] == (-signal.SIGKILL, [*ONCE, *failed]), "it dies where it begins again"


def test_a_boundary_within_another_is_part_of_it() -> None:
    whole = ["statements", "statements", "commit", "commit"]
    assert run("steps", "plain=before:kill")[:2] == (0, [*whole, "told"] * 3)
    assert run("steps", "steps=in:kill@2")[:2] == (-signal.SIGKILL, whole[:2])
    assert run("steps", "steps=after:kill")[:2] == (-signal.SIGKILL, whole)


def test_a_file_is_read_at_every_passing(tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    orders.write_text("")
    assert run("plain", f"@{orders}")[:2] == (0, ONCE * 3)
    orders.write_text("plain=after:kill@2, coroutine=before:kill")
    assert run("plain", f"@{orders}")[:2] == (-signal.SIGKILL, [*ONCE, *ONCE[:2]])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("plain", "is no failpoint"),
        ("plain=before", "is no failpoint"),
        ("plain=before:sleep", "is no failpoint"),
        ("plain=before:error", "with unknown only"),
        ("plain=in:kill@0", "is no failpoint"),
        ("plane=in:kill", "there is no point 'plane' in this process, only ['coroutine', 'plain', 'steps']"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_at_the_start(text: str, why: str) -> None:
    code, told, log = run("plain", text)
    assert (code, told) == (1, [])
    assert why in log
