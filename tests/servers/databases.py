"""A database of one's own on a running SQL server, made in milliseconds and dropped afterwards."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pymysql
from psycopg import sql
from pymysql.cursors import Cursor
from pymysql.err import OperationalError
from sqlalchemy import URL, make_url
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from tests.servers.server import Server


class DatabaseInUseError(RuntimeError):
    """A database could not be dropped: a prepared XA transaction still holds its tables."""


@contextmanager
def fresh_database(server: Server, driver: str = "") -> Iterator[str]:
    """An empty database with a random name, dropped at the end of the block whatever is still connected or prepared there.

    MariaDB does not tell which database a prepared transaction belongs to: all that came up during the block are rolled
    back, where the server is ours.

    Args:
        server: A PostgreSQL, MariaDB or MySQL server.
        driver: SQLAlchemy's name of a driver, such as `asyncpg`; none gives a plain `postgresql://` or `mysql://` URL.

    Yields:
        Its URL.

    Raises:
        DatabaseInUseError: A prepared transaction holds it and is not ours to roll back.
    """
    url = make_url(server.url)
    own = url.set(database=f"txc_{secrets.token_hex(6)}")
    scope = _on_postgres(url, own) if url.get_backend_name() == "postgresql" else _on_mysql(url, own, server.control is not None)
    with scope:
        if driver:
            own = own.set(drivername=f"{own.get_backend_name()}+{driver}")
        yield own.render_as_string(hide_password=False)


@contextmanager
def _on_postgres(url: URL, own: URL) -> Iterator[None]:
    name = sql.Identifier(own.database or "")
    with _postgres(url) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))
    yield
    with _postgres(own) as connection:
        for (gid,) in connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall():
            connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
    with _postgres(url) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def _postgres(url: URL) -> psycopg.Connection:
    return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)


@contextmanager
def _on_mysql(url: URL, own: URL, ours: bool) -> Iterator[None]:
    with _mysql(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {own.database}")
        earlier = _prepared(cursor)
    yield
    dropping = Retrying(
        retry=retry_if_exception_type(DatabaseInUseError), stop=stop_after_attempt(5), wait=wait_fixed(0.1), reraise=True
    )
    with _mysql(url) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION lock_wait_timeout = 1, innodb_lock_wait_timeout = 1")
        dropping(_drop_mysql, cursor, own, earlier, ours)


def _mysql(url: URL) -> pymysql.Connection[Cursor]:
    return pymysql.connect(
        host=url.host, port=url.port or 3306, user=url.username, password=str(url.password or ""), autocommit=True
    )


def _prepared(cursor: Cursor) -> set[str]:
    """The prepared transactions of the server, each XID as SQL writes it."""
    cursor.execute("XA RECOVER")
    found = set()
    for format_id, global_length, branch_length, data in cursor.fetchall():
        raw = data if isinstance(data, bytes) else data.encode()
        parts = raw[:global_length], raw[global_length : global_length + branch_length]
        found.add(f"X'{parts[0].hex()}', X'{parts[1].hex()}', {format_id}")
    return found


def _drop_mysql(cursor: Cursor, own: URL, earlier: set[str], ours: bool) -> None:
    cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (own.database,))
    for (number,) in cursor.fetchall():
        with contextlib.suppress(OperationalError):  # it has gone by itself
            cursor.execute(f"KILL {number}")
    for xid in _prepared(cursor) - earlier if ours else ():
        with contextlib.suppress(OperationalError):  # its killed connection has not let go of it yet
            cursor.execute(f"XA ROLLBACK {xid}")
    try:
        cursor.execute(f"DROP DATABASE {own.database}")
    except OperationalError as error:
        raise DatabaseInUseError(f"{own.database} cannot be dropped, is held by one of these: {_prepared(cursor)}") from error
