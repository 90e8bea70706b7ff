"""docker-compose.yml and the Dockerfile, checked against each other, the sources and the command line."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from txcoord_server.cli import main as txcoord

ROOT = Path(__file__).parent.parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = {name: s for name, s in COMPOSE["services"].items() if s["image"] == "txcoord:local"}
SOURCES = "\n".join(p.read_text() for d in ("txcoord", "sdk", "examples") for p in (ROOT / d).rglob("*.py"))


def options() -> set[str]:
    """Environment variables of the options of `txcoord serve`."""
    command = txcoord.get_command(click.Context(txcoord), "serve")
    assert command is not None
    return {f"TXCOORD_{p.name.upper()}" for p in command.params if p.name}


def test_the_schema_of_compose_files() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_says_when_it_is_well(name: str) -> None:
    assert COMPOSE["services"][name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_what_there_is(name: str) -> None:
    service = OURS[name]
    command: list[str] = service["command"]
    if command[0] == "txcoord":
        assert txcoord.get_command(click.Context(txcoord), command[1]) is not None
    else:
        assert command[:2] == ["python", "-m"]
        assert importlib.util.find_spec(f"{command[2]}.__main__") is not None
        assert command[command.index("--port") + 1] in {p.split(":")[-1] for p in service.get("ports", ["8000"])}
    for variable in service["environment"]:
        known = variable in options() if command[0] == "txcoord" else re.search(rf"\b{variable}\b|SHOP_\{{", SOURCES)
        assert known, f"{variable} is read nowhere"


def test_what_is_listened_on_is_exposed_and_advertised() -> None:
    exposed = re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert exposed is not None
    environment = OURS["coordinator"]["environment"]
    for variable in ("TXCOORD_LISTEN", "TXCOORD_METRICS"):
        port = environment[variable].rsplit(":", 1)[1]
        assert port in exposed[1].split()
        assert f"127.0.0.1:{port}:{port}" in OURS["coordinator"]["ports"]
    assert environment["TXCOORD_ADVERTISE"] == OURS["order"]["environment"]["TXCOORD_ADDRESS"]


def test_no_password_is_built_in() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for line in text.splitlines():
        if "PASSWORD" in line and "RANDOM" not in line:
            assert ":?set it in .env}" in line, line
    assert "PASSWORD" not in DOCKERFILE


def test_what_the_dockerfile_copies_is_there() -> None:
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_volumes_and_dependencies_are_there(name: str) -> None:
    service = COMPOSE["services"][name]
    for volume in service.get("volumes", []):
        assert volume.split(":")[0] in COMPOSE["volumes"]
    assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
