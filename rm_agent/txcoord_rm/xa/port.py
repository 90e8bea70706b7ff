"""What XA mode asks of a family of databases.

Cursors are the driver's as SQLAlchemy's dialect has them: they look synchronous also where the driver is not.
"""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy import Connection

from txcoord_rm.xa.identifier import Identifier


class Preparing(Protocol):
    """Prepared transactions of one kind of database."""

    begins: bool
    """Whether a local transaction has to be begun as one that may be prepared, by its very first statement."""
    keeps: bool
    """Whether the session that has prepared a transaction is to end it, and nobody else can while it lives."""

    def check(self, cursor: Any) -> None:
        """Look whether the database prepares transactions at all.

        Raises:
            ConfigurationError: It does not; the text says what to set.
        """

    def start(self, cursor: Any, identifier: Identifier) -> None:
        """Begin the local transaction, where it `begins`."""

    def prepare(self, cursor: Any, identifier: Identifier) -> None:
        """Prepare the local transaction; returning means that it is durable.

        Raises:
            UnsupportedSqlError: The database refuses to prepare what was done in it, and does not commit it.
            ConfigurationError: It refuses because of its settings, and does not commit it.
            Exception: The driver's: nothing is certain if the connection is lost, else it does not commit it.
        """

    def leave(self, cursor: Any, identifier: Identifier) -> None:
        """End a local transaction that has only read, where it `begins`."""

    def abandon(self, cursor: Any, identifier: Identifier) -> None:
        """Roll the local transaction back before it is prepared, where it `begins`."""

    def end_kept(self, cursor: Any, identifier: Identifier, commit: bool) -> None:
        """End the prepared transaction in the session that has prepared it."""

    def end(self, connection: Connection, identifier: Identifier, commit: bool) -> bool:
        """End the prepared transaction of a session that is gone.

        Args:
            connection: On which each statement commits by itself.
            identifier: It.
            commit: Whether to commit it, or roll it back.

        Returns:
            Whether it was there; what is not there may have been ended before.

        Raises:
            StillPreparedError: Its session lives.
        """

    def listed(self, connection: Connection, database_id: str) -> set[Identifier]:
        """All prepared transactions of this database that are ours."""
