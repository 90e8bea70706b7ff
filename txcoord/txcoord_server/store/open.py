"""From a URL to a store: the only place that knows which databases there are."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from txcoord_proto.errors import ConfigurationError, MissingExtraError

from txcoord_server.store.dialect import Dialect
from txcoord_server.store.sql_store import SqlStore
from txcoord_server.store.sqlite import SqliteDialect

_POOL: dict[str, Any] = {"pool_size": 2, "max_overflow": 2, "pool_pre_ping": True}


def _postgresql(parsed: URL, group: str, lease_ttl: int) -> tuple[Engine, Dialect]:
    try:
        from txcoord_server.store.postgresql import PostgresqlDialect, connect
    except ImportError as error:
        raise MissingExtraError.of("a store on PostgreSQL", "postgres") from error
    engine = create_engine(parsed.set(drivername="postgresql+psycopg"), **_POOL)
    event.listen(engine, "do_connect", lambda dialect, record, arguments, options: connect(arguments, options))
    return engine, PostgresqlDialect(group, lease_ttl)


def _mysql(parsed: URL, group: str, lease_ttl: int) -> tuple[Engine, Dialect]:
    try:
        from txcoord_server.store.mysql import CONNECT, MysqlDialect
    except ImportError as error:
        raise MissingExtraError.of("a store on MariaDB or MySQL", "mysql") from error
    url = parsed.set(drivername="mysql+pymysql")
    engine = create_engine(url, isolation_level="READ COMMITTED", connect_args=CONNECT, **_POOL)
    return engine, MysqlDialect(group, lease_ttl)


def open_store(
    url: str,
    group: str = "default",
    node: str = "",
    address: str = "",
    lease_ttl: int = 3_000,
    writer: Executor | None = None,
    reader: Executor | None = None,
) -> SqlStore:
    """A store that is not yet started; for what belongs to no group and no node, its URL is enough.

    Args:
        url: SQLAlchemy URL: `sqlite:///PATH`, `postgresql://...` or `mysql://...` (MariaDB too).
        group: Name of the group.
        node: Name of this node.
        address: Where clients reach it.
        lease_ttl: Milliseconds without a group commit after which others may take over.
        writer: Thread of the group commits; None runs calls in place.
        reader: Thread of everything else; likewise.

    Raises:
        ConfigurationError: The URL is of no supported kind.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(f"the store's URL cannot be read: {error}") from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigurationError("the store must be a file: sqlite:///txcoord.db")
        folder = Path(parsed.database).absolute().parent
        if not folder.is_dir():
            raise ConfigurationError(f"the store's folder {folder} does not exist: make it, or name another with --store")
        engine = create_engine(parsed, connect_args={"timeout": 2.0, "check_same_thread": False})
        event.listen(engine, "connect", lambda raw, record: raw.execute("PRAGMA synchronous = FULL"))
        return SqlStore(engine, SqliteDialect(group, parsed.database), group, node, address, writer, reader)
    if backend == "postgresql":
        return SqlStore(*_postgresql(parsed, group, lease_ttl), group, node, address, writer, reader)
    if backend in ("mysql", "mariadb"):
        return SqlStore(*_mysql(parsed, group, lease_ttl), group, node, address, writer, reader)
    raise ConfigurationError(f"{backend} is no store for the coordinator: use SQLite, PostgreSQL, MariaDB or MySQL")
