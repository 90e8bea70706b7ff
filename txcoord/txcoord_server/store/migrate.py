"""Creates the coordinator's schema, or brings it to the version of this program.

Migrations are numbered, go forward only, and only add: a node of the version before can go on working on the migrated schema.
Alembic makes them. A store that has the newest version, as at every start but the first, is left alone without importing it.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from sqlalchemy import Connection, Engine, Select, column, inspect, select, table
from sqlalchemy.exc import DBAPIError, OperationalError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from txcoord_proto.errors import MissingExtraError, StoreError
from txcoord_proto.failpoints import Mode, durable, passes

VERSION = "0001"
"""The newest migration's."""

VERSION_TABLE = "txc_version"
_CURRENT: Select[str] = select(column("version_num")).select_from(table(VERSION_TABLE))


def migrate(engine: Engine) -> None:
    """Create the tables or migrate them.

    Two nodes may start at the same moment: the one that comes second finds the tables there and tries again.

    Raises:
        StoreError: The schema belongs to a newer version of txcoord.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(DBAPIError),
        stop=stop_after_attempt(5),
        wait=wait_random_exponential(multiplier=0.2, max=2),
        reraise=True,
    )
    retrying(_upgrade, engine)


def _lost_at_commit(text: str) -> OperationalError:
    return OperationalError("COMMIT", None, ConnectionError(text))


@durable("store.migrate", _lost_at_commit)
def _upgrade(engine: Engine) -> None:
    with engine.connect() as connection:
        current = _current(connection)
        connection.rollback()
        if current != VERSION:
            _run_migrations(connection, current)
            connection.commit()


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.scalar(_CURRENT)
    return version


@passes(Mode.IN)
def _run_migrations(connection: Connection, current: str | None) -> None:
    try:
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError
    except ImportError as error:
        raise MissingExtraError.of("making a coordinator's store", "server") from error
    with as_file(files("txcoord_server.store") / "migrations") as scripts:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(scripts))
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StoreError(
                f"the store's schema has version {current}, which this txcoord does not know (its newest is {VERSION}): "
                "start the version of txcoord that made it, or a newer one"
            ) from error
