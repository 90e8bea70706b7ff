"""MariaDB from the distribution's core packages, which bring no service, and MySQL, which can only be given."""

from __future__ import annotations

from pathlib import Path

import pymysql
from sqlalchemy import make_url

from tests.servers.recipe import Image, Launch, Recipe, Requirement, program

_URL = "mysql://root@{address}/mysql"
_OPTIONS = (
    "--max-connections=200",
    "--character-set-server=utf8mb4",
    "--innodb-flush-log-at-trx-commit=1",
    "--skip-name-resolve",
)


def _launch(directory: Path, port: int) -> Launch:
    data = f"--datadir={directory / 'data'}"
    install = (program("mariadb-install-db"), "--no-defaults", data, "--auth-root-authentication-method=normal", "--skip-test-db")
    command = (
        program("mariadbd"),
        "--no-defaults",
        data,
        f"--port={port}",
        "--bind-address=127.0.0.1",
        "--socket=mariadb.sock",  # relative to the data directory: a path in TMPDIR may exceed 107 bytes
        "--pid-file=mariadb.pid",
        f"--tmpdir={directory / 'data'}",  # a server that starts clears away temporary tables, also those of another one
        *_OPTIONS,
    )
    return Launch(command, prepare=(install,))


def _answers(url: str) -> None:
    parts = make_url(url)
    connection = pymysql.connect(
        host=parts.host,
        port=parts.port or 3306,
        user=parts.username,
        password=str(parts.password or ""),
        connect_timeout=2,
        read_timeout=2,
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")


MARIADB = Recipe(
    "mariadb",
    "TXCOORD_TEST_MARIADB",
    _URL,
    _answers,
    (
        Requirement("mariadb-server-core", lambda: bool(program("mariadbd") and program("mariadb-install-db"))),
        Requirement("mariadb-client-core", lambda: bool(program("my_print_defaults"))),  # asked by mariadb-install-db
    ),
    _launch,
    image=Image("mariadb:10.11", 3306, {"MARIADB_ALLOW_EMPTY_ROOT_PASSWORD": "1"}, " ".join(_OPTIONS)),
)
MYSQL = Recipe("mysql", "TXCOORD_TEST_MYSQL", _URL, _answers)
