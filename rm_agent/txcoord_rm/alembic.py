"""Our tables in the user's own Alembic migrations.

from alembic import op
from txcoord_rm import alembic as txcoord

def upgrade() -> None:
txcoord.upgrade(op)

def downgrade() -> None:
txcoord.downgrade(op)
"""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy.schema import CreateTable, DropTable

from txcoord_rm.capture.postgresql.triggers import install, remove, run
from txcoord_rm.catalogue.facts import log_on, table_named
from txcoord_rm.schema import TABLES


class Operations(Protocol):
    """`alembic.op`, as far as it is needed."""

    def execute(self, statement: Any) -> Any:
        """Run a statement, or print it where migrations are printed."""

    def get_bind(self) -> Any:
        """The connection on which migrations run."""


def create_tables(op: Operations) -> None:
    """Create our tables where they are missing.

    Args:
        op: `alembic.op`.
    """
    for table in TABLES:
        op.execute(CreateTable(table, if_not_exists=True))


def install_capture(op: Operations, *tables: str) -> None:
    """Have triggers capture changes of tables, on PostgreSQL; again in each migration that alters one.

    Args:
        op: `alembic.op`, with a connection: what the triggers do hangs on what the table is.
        tables: Names as they are written in SQL.

    Raises:
        ConfigurationError: Triggers cannot capture one of them.
    """
    connection = op.get_bind()
    for name in tables:
        run(op.execute, install(table_named(connection, name), log_on(connection)))


def remove_capture(op: Operations, *tables: str) -> None:
    """Drop what `install_capture` made. Arguments are the same."""
    for name in tables:
        run(op.execute, remove(table_named(op.get_bind(), name)))


def drop_tables(op: Operations) -> None:
    """Drop our tables: nothing that is unfinished can be undone after that, and the database loses its identity.

    Args:
        op: `alembic.op`.
    """
    for table in reversed(TABLES):
        op.execute(DropTable(table, if_exists=True))
