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

url_argument = click.argument("url", envvar="TXCOORD_DATABASE")
"""For commands about a database as a whole; from the environment no list of processes shows its password."""
database_option = click.option(
    "--database", "url", required=True, envvar="TXCOORD_DATABASE", show_envvar=True,
    help="SQLAlchemy URL of the business database, with a synchronous driver.",
)  # fmt: skip
"""For commands about something in a database."""


def open_database(url: str, undoes: bool = True) -> Database:
    """The database at a URL.

    Args:
        url: It.
        undoes: Whether the undo log is one of our tables there.

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
    if undoes:
        database.add_tables(undo.metadata)
    return database


@contextmanager
def opened(url: str, undoes: bool = True) -> Iterator[Database]:
    """The database at a URL, closed at the end; what it refuses is an error of ours.

    Args:
        url: It.
        undoes: See `open_database`.

    Raises:
        ConfigurationError: See `open_database`; or the database refuses something.
        UnavailableError: It cannot be reached.
    """
    database = open_database(url, undoes)
    try:
        yield database
    except DBAPIError as error:
        advice = "; `txcoord-agent check` tells what is missing" if isinstance(error, ProgrammingError) else ""
        raise ConfigurationError(f"database {database.name!r} refuses: {error.orig}{advice}") from error
    finally:
        database.close()
        database.sync_engine.dispose()
