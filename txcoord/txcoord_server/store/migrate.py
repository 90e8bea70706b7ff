"""Creates the coordinator's schema, or brings it to the version of this program.

Migrations are numbered, go forward only, and only add: a node of the version before can go on working on the migrated schema.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from txcoord_proto.errors import StoreError
from txcoord_proto.failpoints import Mode, durable, passes

VERSION_TABLE = "txc_version"


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
    with as_file(files("txcoord_server.store") / "migrations") as scripts:
        config = Config()
        config.set_main_option("script_location", str(scripts))
        head = ScriptDirectory.from_config(config).get_current_head()
        retrying(_upgrade, engine, config, head)


def _lost_at_commit(text: str) -> OperationalError:
    return OperationalError("COMMIT", None, ConnectionError(text))


@durable("store.migrate", _lost_at_commit)
def _upgrade(engine: Engine, config: Config, head: str | None) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        current = context.get_current_revision()
        connection.rollback()
        if current == head:
            return
        config.attributes["connection"] = connection
        try:
            _run_migrations(config)
        except CommandError as error:
            raise StoreError(
                f"the store's schema has version {current}, which this txcoord does not know (its newest is {head}): "
                "start the version of txcoord that made it, or a newer one"
            ) from error
        connection.commit()


@passes(Mode.IN)
def _run_migrations(config: Config) -> None:
    command.upgrade(config, "head")
