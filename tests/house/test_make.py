"""What `make` and `.ci/run` do: the demo installs little, and the shop on SQLite needs no more than that."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from examples.shop.scenarios import SCENARIOS

ROOT = Path(__file__).parent.parent.parent


def test_the_demo_installs_little_and_the_tests_the_rest(tmp_path: Path) -> None:
    def installs(*arguments: str) -> list[str]:
        done = subprocess.run(["make", "-n", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return re.findall(r"make_venv\.py \.venv (\w+)", done.stdout)

    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    assert installs("demo") == installs("demo", "DB=sqlite") == ["demo"]
    assert installs("demo", "DB=postgres") == installs("demo", "MODE=xa") == installs("test") == ["dev"]
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".demo").touch()
    assert installs("demo") == []
    assert installs("demo", "DB=mariadb") == installs("test") == ["dev"]
    (tmp_path / ".venv" / ".installed").touch()
    (tmp_path / ".venv" / ".demo").unlink()
    assert installs("demo") == installs("demo", "DB=mariadb") == installs("test") == []


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        ((), "--db sqlite --mode at"),
        (("MODE=tcc",), "--db sqlite --mode tcc"),
        (("MODE=xa",), "--db postgres --mode xa"),
        (("MODE=mixed",), "--db postgres --mode mixed"),
        (("MODE=xa", "DB=mariadb"), "--db mariadb --mode xa"),
        (("MODE=xa", "DB=sqlite"), "--db sqlite --mode xa"),
        (("DB=mariadb",), "--db mariadb --mode at"),
    ],
)
def test_what_the_demo_runs(arguments: tuple[str, ...], runs: str) -> None:
    done = subprocess.run(["make", "-n", "demo", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"-m examples.shop {runs}\n" in done.stdout


@pytest.mark.parametrize(("failing", "code"), [("none", 0), ("check", 1), ("test", 1)])
def test_what_continuous_integration_runs_insists_on_the_servers(tmp_path: Path, failing: str, code: int) -> None:
    (tmp_path / "make").write_text(f"#!/bin/sh\necho $1 CI=$CI\n[ $1 != {failing} ] || exit 2\n")
    (tmp_path / "make").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    done = subprocess.run([ROOT / ".ci" / "run"], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "check CI=true\ntest CI=true\n", "a missing server fails a run with CI=true"
    assert done.returncode == code


def brought_by(requirement: Requirement, seen: set[tuple[str, str]]) -> set[str]:
    """The distributions that an installation of `requirement` brings."""
    found: set[str] = {canonicalize_name(requirement.name)}
    for extra in ("", *requirement.extras):
        if (requirement.name, extra) in seen:
            continue
        seen.add((requirement.name, extra))
        try:
            needs = [Requirement(text) for text in requires(requirement.name) or ()]
        except PackageNotFoundError:  # for another Python or platform
            return set()
        for need in needs:
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                found |= brought_by(need, seen)
    return found


def test_the_shop_on_sqlite_needs_only_what_the_demo_installs(tmp_path: Path) -> None:
    brought = brought_by(Requirement("txcoord[demo]"), set())
    assert {"sqlalchemy", "fastapi", "aiosqlite", "rich"} <= brought
    names = {
        module for module, owners in packages_distributions().items() if not brought & {canonicalize_name(o) for o in owners}
    }
    assert {"celery", "psycopg", "kazoo"} <= names
    without = sorted({*names, "tests"} - {"examples"})  # somebody else's package has that name too
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({without}))\n")
    done = subprocess.run(
        [sys.executable, "-m", "examples.shop", "--only", SCENARIOS[0].name],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Money and goods are conserved" in done.stdout
