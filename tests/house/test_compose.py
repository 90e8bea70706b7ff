"""docker-compose.yml and the Dockerfile, checked against each other, the sources, the command line, and the images' pages."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from sqlalchemy import make_url
from txcoord_rm.cli import main as agent
from txcoord_rm.commands.database import open_database
from txcoord_server.cli import main as txcoord

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
COORDINATORS = [name for name, service in OURS.items() if service["command"][0] == "txcoord"]
AGENTS = [name for name, service in OURS.items() if service["command"][0] == "txcoord-agent"]
SHOP = [name for name in OURS if name not in (*COORDINATORS, *AGENTS)]
OTHERS = [name for name in SERVICES if name not in OURS]

# As their images' pages say: port, what must survive, the start of the health check.
IMAGES: dict[str, tuple[int, set[str], str]] = {
    "postgres": (5432, {"/var/lib/postgresql/data"}, "pg_isready"),
    "mariadb": (3306, {"/var/lib/mysql"}, "healthcheck.sh"),
    "redis": (6379, {"/data"}, "redis-cli"),
    "zookeeper": (2181, {"/data", "/datalog"}, "echo srvr | nc"),
    "apache/kafka": (9092, {"/var/lib/kafka/data"}, "/opt/kafka/bin/kafka-broker-api-versions.sh"),
}
DRIVERS = {
    "sqlite+aiosqlite": "aiosqlite", "mysql+aiomysql": "aiomysql", "mysql+pymysql": "PyMySQL", "postgresql": "psycopg",
}  # fmt: skip


def environment(name: str) -> dict[str, str]:
    """Of a service, with something in place of what comes from .env."""
    found: dict[str, str] = SERVICES[name].get("environment", {})
    return {variable: re.sub(r"\$\{\w+[^}]*\}", "secret", value) for variable, value in found.items()}


def port_of(name: str) -> int:
    """Where a service listens within the network; 0: nowhere."""
    if name in AGENTS:
        return 0
    if name in OTHERS:
        return IMAGES[SERVICES[name]["image"].split(":")[0]][0]
    command = SERVICES[name]["command"]
    return int(command[command.index("--listen" if name in COORDINATORS else "--port") + 1].rpartition(":")[2])


def metrics_port_of(name: str) -> int | None:
    """Where a coordinator shows its metrics."""
    address = environment(name).get("TXCOORD_METRICS")
    return int(address.rpartition(":")[2]) if address is not None else None


def packages(extra: str) -> set[str]:
    """What an extra installs, with the extras that it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    for requirement in project["optional-dependencies"][extra]:
        if inner := re.match(r"txcoord\[([\w,]+)\]", requirement):
            found |= {package for name in inner[1].split(",") for package in packages(name)}
        else:
            found.add(re.split(r"[\[<>=]", requirement)[0])
    return found


def database_of(name: str) -> str:
    """URL of the business database that a service or an agent uses; empty: none."""
    return environment(name).get("TXCOORD_DATABASE" if name in AGENTS else "SHOP_DATABASE", "")


def mounts(name: str) -> dict[str, str]:
    """Path by volume."""
    return dict(volume.split(":") for volume in SERVICES[name].get("volumes", ()))


def test_the_schema_of_compose_files() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_there_is() -> None:
    assert {"coordinator", "coordinator-2", "order", "stock", "balance", "postgres", "mariadb"} <= set(SERVICES)
    assert {"redis", "kafka", "zookeeper"} <= set(SERVICES)
    assert len(AGENTS) == len(SHOP) == 3


# ---------------------------------------------------------------- every service


@pytest.mark.parametrize("name", SERVICES)
def test_its_image_is_built_here_or_of_a_named_version(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].partition(":")
    if name in OURS:
        assert (ROOT / SERVICES[name]["build"] / "Dockerfile").exists()
        assert image not in IMAGES
    else:
        assert image in IMAGES
        assert re.match(r"\d", tag), "a tag that moves with every major version is none"


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in AGENTS])
def test_its_health_check_asks_it(name: str) -> None:
    kind, *test = SERVICES[name]["healthcheck"]["test"]
    assert kind in ("CMD", "CMD-SHELL")
    if name in OTHERS:
        assert " ".join(test).startswith(IMAGES[SERVICES[name]["image"].split(":")[0]][2])
        named = {int(port) for port in re.findall(r"\b\d{4,5}\b", " ".join(test))}
        assert named <= {port_of(name)}
    elif test[0] == "python":
        imported = [alias.name for node in ast.walk(ast.parse(test[2])) if isinstance(node, ast.Import) for alias in node.names]
        assert imported
        assert {module.split(".")[0] for module in imported} <= sys.stdlib_module_names
        assert f"127.0.0.1:{port_of(name)}/health" in test[2]
    else:
        command = txcoord.get_command(click.Context(txcoord), test[1])
        assert command is not None
        context = command.make_context(test[1], test[2:])
        assert context.params["address"] == f"127.0.0.1:{port_of(name)}"
        assert context.params["leader"] is False, "a standby would be restarted for ever"


@pytest.mark.parametrize("name", SERVICES)
def test_it_keeps_its_data_and_nothing_else(name: str) -> None:
    wanted = IMAGES[SERVICES[name]["image"].split(":")[0]][1] if name in OTHERS else set()
    url = database_of(name)
    if url.startswith("sqlite"):
        wanted = {str(Path(make_url(url).database or "").parent)}
    assert set(mounts(name).values()) == wanted
    assert set(mounts(name)) <= set(COMPOSE["volumes"])


def test_no_volume_is_shared_or_left_over() -> None:
    used = [volume for name in SERVICES if name not in AGENTS for volume in mounts(name)]
    assert sorted(used) == sorted(COMPOSE["volumes"])


@pytest.mark.parametrize("name", SERVICES)
def test_it_has_no_privileges_and_is_reached_from_this_machine_only(name: str) -> None:
    service = SERVICES[name]
    assert not {"privileged", "cap_add", "network_mode", "pid", "user", "devices"} & set(service)
    for published in service.get("ports", ()):
        host, _, inner = published.rpartition(":")
        assert host.startswith("127.0.0.1:")
        assert int(inner) in {port_of(name), metrics_port_of(name)}


@pytest.mark.parametrize("name", SERVICES)
def test_what_it_names_is_a_service_and_is_waited_for(name: str) -> None:
    service = SERVICES[name]
    waited = service.get("depends_on", {})
    assert {condition["condition"] for condition in waited.values()} <= {"service_healthy"}
    assert set(waited) <= set(SERVICES)
    named = set(re.findall(r"(?<![\w.])([a-z][a-z0-9-]*):(\d{4,5})", " ".join(environment(name).values())))
    for host, port in named - {("coordinator-2", "8190"), (name, str(port_of(name))), (name, "9093")}:
        assert int(port) == port_of(host), host
        assert host in waited, f"{name} uses {host}"


# ---------------------------------------------------------------- ours


@pytest.mark.parametrize("name", COORDINATORS)
def test_a_coordinators_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in environment(name).items():
        monkeypatch.setenv(variable, value)
    _, word, *options = SERVICES[name]["command"]
    command = txcoord.get_command(click.Context(txcoord), word)
    assert command is not None
    context = command.make_context(word, options)
    known = {f"TXCOORD_{parameter.name.upper()}": parameter.name for parameter in command.params if parameter.name}
    assert set(environment(name)) <= set(known)
    for variable in environment(name):
        source = context.get_parameter_source(known[variable])
        assert source is click.core.ParameterSource.ENVIRONMENT, f"{variable} is not what counts"
    assert context.params["listen"] == f"0.0.0.0:{port_of(name)}"
    assert context.params["metrics"].startswith("0.0.0.0:"), "on loopback nobody outside the container reaches it"
    assert context.params["advertise"] == f"{name}:{port_of(name)}"
    assert context.params["insecure"] is True, "without TLS and tokens it refuses to listen there"
    assert make_url(context.params["store"]).host in SERVICES


def test_the_coordinators_are_one_group_and_the_services_know_them_all() -> None:
    stores = {environment(name)["TXCOORD_STORE"] for name in COORDINATORS}
    assert len(COORDINATORS) == 2
    assert len(stores) == 1
    assert not any("TXCOORD_GROUP" in environment(name) for name in COORDINATORS)
    addresses = ",".join(environment(name)["TXCOORD_ADVERTISE"] for name in COORDINATORS)
    assert {environment(name)["TXCOORD_ADDRESS"] for name in (*SHOP, *AGENTS)} == {addresses}


@pytest.mark.parametrize("name", SHOP)
def test_a_shop_service_starts_from_what_is_in_the_image(name: str, tmp_path: Path) -> None:
    """Its own command with `--help`, its own environment, and none of the tests' code beside it."""
    python, flag, module, *options = SERVICES[name]["command"]
    assert (python, flag) == ("python", "-m")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    assert environment(name)["SHOP_MODE"] == "at"
    url = make_url(environment(name)["SHOP_DATABASE"])
    variables = {**os.environ, **environment(name), "PYTHONPATH": str(tmp_path)}
    if url.get_backend_name() == "sqlite":
        variables["SHOP_DATABASE"] = f"sqlite+aiosqlite:///{tmp_path}/{name}.db"
    done = subprocess.run(
        [sys.executable, flag, module, "--help"], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in options if option.startswith("--"))
    read = "\n".join(path.read_text() for folder in ("sdk", "examples") for path in (ROOT / folder).rglob("*.py"))
    for variable in environment(name):
        known = variable in read or (variable.startswith("SHOP_") and 'f"SHOP_{' in read)
        assert known, f"{variable} is read nowhere"


@pytest.mark.parametrize("name", SHOP)
def test_an_agent_is_beside_its_database(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = f"{name}-agent"
    assert beside in AGENTS
    own, other = make_url(database_of(name)), make_url(database_of(beside))
    assert own.get_backend_name() == other.get_backend_name()
    assert own.set(drivername="x") == other.set(drivername="x")
    assert mounts(beside) == mounts(name), "a file is seen by both, or by none"
    for variable, value in environment(beside).items():
        monkeypatch.setenv(variable, value)
    program, word, *options = SERVICES[beside]["command"]
    command = agent.get_command(click.Context(agent), word)
    assert program == agent.name
    assert command is not None
    context = command.make_context(word, options)
    assert context.params["url"] == database_of(beside)
    assert context.params["address"] == environment(beside)["TXCOORD_ADDRESS"]
    database = open_database(context.params["url"])  # which connects to nothing, and wants a synchronous driver
    database.sync_engine.dispose()


@pytest.mark.parametrize("name", AGENTS)
def test_nobody_waits_for_an_agent_and_it_waits_for_what_makes_its_file(name: str) -> None:
    assert "healthcheck" not in SERVICES[name], "it listens nowhere"
    assert not any(name in service.get("depends_on", {}) for service in SERVICES.values())
    if mounts(name):
        assert name.removesuffix("-agent") in SERVICES[name]["depends_on"]


@pytest.mark.parametrize("name", OURS)
def test_its_database_driver_is_in_the_image(name: str) -> None:
    extra = re.search(r"pip install --no-cache-dir '\.\[(\w+)\]'", DOCKERFILE)
    assert extra is not None
    url = make_url(database_of(name) or environment(name)["TXCOORD_STORE"])
    if url.drivername != "sqlite":  # which is Python's own
        assert DRIVERS[url.drivername] in packages(extra[1])
    assert {"grpcio-health-checking", "uvicorn", "httpx"} <= packages(extra[1])


# ---------------------------------------------------------------- passwords and the image


def test_passwords_come_from_outside() -> None:
    example = set(re.findall(r"^(\w+)=$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    asked = set(re.findall(r"\$\{(\w+)", TEXT))
    assert asked == example, "each is in .env.example, and empty there"
    for line in TEXT.splitlines():
        if "PASSWORD" in line and "RANDOM" not in line:
            assert re.search(r"\$\{\w+:\?set it in \.env\}", line), line
    assert not re.search(r"PASSWORD|TOKEN|SECRET", DOCKERFILE)
    assert ".env" in (ROOT / ".dockerignore").read_text().split()


def test_the_image() -> None:
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    user = re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)
    assert user == [re.findall(r"useradd .* (\w+)$", DOCKERFILE, re.MULTILINE)[0]]
    home = re.search(r"--home-dir (\S+)", DOCKERFILE)
    assert home is not None
    assert {path for name in OURS for path in mounts(name).values()} == {home[1]}, "the user can write there"
    versions = set(re.findall(r"^FROM python:([\d.]+)", DOCKERFILE, re.MULTILINE))
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert {f"Programming Language :: Python :: {version}" for version in versions} <= set(declared)
    exposed = re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert exposed is not None
    listened = {port for name in COORDINATORS for port in (port_of(name), metrics_port_of(name))}
    assert {str(port) for port in listened} == set(exposed[1].split()), "and each of them is there"
