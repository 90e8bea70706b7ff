"""What users get is compiled, and tests start processes of it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

from tests import compiled
from tests.servers.fixtures import in_ci

HOOK = tomllib.loads((compiled.ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"][
    "custom"
]


@pytest.fixture
def modules() -> list[str]:
    """Those that are to be compiled."""
    found = []
    for pattern in HOOK["modules"]:
        paths = sorted(compiled.ROOT.glob(pattern))
        assert paths, f"{pattern} names nothing"
        found += [".".join(path.with_suffix("").relative_to(compiled.ROOT).parts[1:]) for path in paths]
    return found


def test_processes_run_what_was_compiled(modules: list[str]) -> None:
    reason = compiled.state()
    if reason and not in_ci():
        pytest.skip(f"nothing compiled: {reason}")
    assert not reason
    names = "\n".join(modules)
    script = f"import importlib\nfor name in '''{names}'''.split(): print(importlib.import_module(name).__file__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert len(modules) > 20
    assert [path for path in done.stdout.split() if not path.endswith(".so") or not path.startswith(str(compiled.MADE))] == []
    shown = subprocess.run(
        [sys.executable, "-c", "from txcoord_server.cli import main; main(['--version'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.endswith(" (compiled)\n"), shown


def test_neither_coroutines_nor_failpoints_are_compiled(modules: list[str]) -> None:
    """A compiled coroutine that returns when it is closed crashes the interpreter, and a failpoint takes it for a function."""
    for name in modules:
        (path,) = compiled.ROOT.glob(f"*/{name.replace('.', '/')}.py")
        assert not re.search(r"async def|failpoints", path.read_text()), path
