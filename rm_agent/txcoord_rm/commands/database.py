"""The business database that a command works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, ProgrammingError
from txcoord_proto.errors import ConfigurationError
from txcoord_sdk.database import Database
from txcoord_sdk.dialects import dialect_of

from txcoord_rm.undo import schema as undo

url_argument = click.argument("url")
"""For commands about a database as a whole."""
database_option = click.option(
    "--database", "url", required=True, envvar="TXCOORD_DATABASE", show_envvar=True,
    help="SQLAlchemy URL of the business database, with a synchronous driver.",
)  # fmt: skip
"""For commands about something in a database."""


def open_database(url: str) -> Database:
    """The database at a URL.

    Raises:
        ConfigurationError: The URL is none, or its driver is asynchronous, missing or of no supported kind.
    """
    try:
        dialect_of(make_url(url).get_backend_name())
        engine = create_engine(url)
    except (ArgumentError, ImportError) as error:
        raise ConfigurationError(f"the database's URL cannot be used: {error}") from error
    if engine.dialect.is_async:
        raise ConfigurationError(
            f"{engine.url!r} names an asynchronous driver: commands use a synchronous one, such as postgresql+psycopg or "
            "mysql+pymysql"
        )
    database = Database(engine, engine.url.database or "")
    database.add_tables(undo.metadata)
    return database


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """The database at a URL, closed at the end; what it refuses is an error of ours.

    Raises:
        ConfigurationError: See `open_database`; or the database refuses something.
        UnavailableError: It cannot be reached.
    """
    database = open_database(url)
    try:
        yield database
    except DBAPIError as error:
        advice = "; `txcoord-agent check` tells what is missing" if isinstance(error, ProgrammingError) else ""
        raise ConfigurationError(f"database {database.name!r} refuses: {error.orig}{advice}") from error
    finally:
        database.close()
        database.sync_engine.dispose()
