"""From a URL to a store: the only place that knows which databases there are."""

from __future__ import annotations

from concurrent.futures import Executor

from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from txcoord_proto.errors import ConfigurationError

from txcoord_server.store.sql_store import SqlStore
from txcoord_server.store.sqlite import SqliteDialect


def open_store(url: str, group: str, node: str, address: str, writer: Executor | None, reader: Executor | None) -> SqlStore:
    """A store that is not yet started.

    Args:
        url: SQLAlchemy URL: `sqlite:///PATH`, `postgresql://...` or `mysql://...` (MariaDB too).
        group: Name of the group.
        node: Name of this node.
        address: Where clients reach it.
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
        engine = create_engine(parsed, connect_args={"timeout": 2.0, "check_same_thread": False})
        event.listen(engine, "connect", lambda raw, record: raw.execute("PRAGMA synchronous = FULL"))
        return SqlStore(engine, SqliteDialect(group, parsed.database), group, node, address, writer, reader)
    raise ConfigurationError(f"{backend} is no store for the coordinator: use SQLite, PostgreSQL, MariaDB or MySQL")
