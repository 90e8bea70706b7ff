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

from txcoord_rm.schema import TABLES


class Operations(Protocol):
    """`alembic.op`, as far as it is needed."""

    def execute(self, statement: Any) -> Any:
        """Run a statement, or print it where migrations are printed."""


def upgrade(op: Operations) -> None:
    """Create our tables where they are missing.

    Args:
        op: `alembic.op`.
    """
    for table in TABLES:
        op.execute(CreateTable(table, if_not_exists=True))


def downgrade(op: Operations) -> None:
    """Drop our tables: nothing that is unfinished can be undone after that, and the database loses its identity.

    Args:
        op: `alembic.op`.
    """
    for table in reversed(TABLES):
        op.execute(DropTable(table, if_exists=True))
