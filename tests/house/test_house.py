"""The wheel, the layout, and what must never be written into the project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import click
import pytest

from tests.docs import surface

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("txcoord_proto", "txcoord_server", "txcoord_sdk", "txcoord_brokers", "txcoord_locks", "txcoord_rm")

INSTALLED = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
"""An environment in which Python finds nothing but what is installed."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, env=INSTALLED, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel and no extras; returns its `bin`."""
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, ".")
    (wheel,) = directory.glob("*.whl")
    venv.create(directory / "venv", with_pip=True)
    run(directory / "venv/bin/pip", "install", "-q", wheel)
    return directory / "venv" / "bin"


def test_the_wheel_without_extras(bare: Path, tmp_path: Path) -> None:
    for package in PACKAGES:
        run(bare / "python", "-W", "error", "-c", f"import {package}", cwd=tmp_path)
    for command in ("txcoord", "txcoord-agent"):
        assert "0.1.0" in run(bare / command, "--version", cwd=tmp_path)
    assert "serve" in run(bare / "txcoord", "--help", cwd=tmp_path)
    assert "init" in run(bare / "txcoord-agent", "--help", cwd=tmp_path)
    assert "is ready" in run(bare / "txcoord-agent", "init", f"sqlite:///{tmp_path}/x.db", cwd=tmp_path)
    refused = subprocess.run(
        [bare / "txcoord", "serve"], cwd=tmp_path, env=INSTALLED, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "pip install 'txcoord[server]'" in refused.stderr


def test_every_command_has_a_json_form() -> None:
    listed = [
        (context.command_path, command)
        for program in surface.PROGRAMS.values()
        for context, command in surface.commands(program)
        if not isinstance(command, click.Group)
    ]
    assert len(listed) > 10
    without = {path for path, command in listed if not any("--json" in parameter.opts for parameter in command.params)}
    assert without == {"txcoord serve"}, "which runs; its log has --log-format json"


def test_folders_that_hold_packages_are_none() -> None:
    for folder in ("proto", "txcoord", "sdk", "rm_agent"):
        assert not (ROOT / folder / "__init__.py").exists()
    for package in PACKAGES:
        (found,) = ROOT.glob(f"*/{package}/py.typed")
        assert found.exists()


def test_files_are_small() -> None:
    tracked = run("git", "ls-files", "*.py").split()
    sizes = {name: len((ROOT / name).read_text().splitlines()) for name in tracked if "_pb2" not in name}
    assert {name: size for name, size in sizes.items() if size > 500} == {}


def test_nothing_of_one_machine_is_written_down() -> None:
    hosts = "|".join(("py" + "pi", "pythonhosted", "maven" + r"\.org", "deb" + r"ian\.org"))
    forbidden = re.compile(rf"https?://[^\s\"']*({hosts})|/(wo" + r"rk|fa" + r"rm)/[a-z]")
    for name in run("git", "ls-files").split():
        text = (ROOT / name).read_text(errors="replace")
        assert not forbidden.search(text), name
