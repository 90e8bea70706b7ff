"""What the hook asks of a family of databases: which rows a statement will touch, and running it with their images.

The order in which locks are taken is the hook's business: what is foreseen is locked globally before the statement runs and takes
row locks; what it then touched besides is asked for without waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.statement import Statement


@dataclass(frozen=True, slots=True)
class Entry:
    """Where undo records of a statement belong.

    Args:
        xid: The global transaction; empty: there is none, the keys are wanted and no record.
        branch_id: Its branch.
        first: Whether nothing of this branch has run in the local transaction before; then the session is checked, too.
        again: Whether the local transaction has been rolled back to a savepoint since the last statement of the branch.
        limit_ms: Milliseconds after which the database shall end the local transaction if it stands still; 0: it needs not be
            told.
    """

    xid: str
    branch_id: int
    first: bool = False
    again: bool = False
    limit_ms: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What the application is to see of a statement, and what it touched.

    Args:
        keys: Global lock keys of the rows.
        rowcount: As the plain statement would have had it.
        description: Of its columns, as DB-API has it; None: it returns no rows.
        rows: Those of the application.
        lastrowid: As the driver had it.
        exact: Whether the database locked nothing for it but these rows.
        elsewhere: Whether rows of other tables than its own may have changed with it.
    """

    keys: frozenset[str]
    rowcount: int
    description: Any = None
    rows: Sequence[Any] = ()
    lastrowid: Any = None
    exact: bool = True
    elsewhere: bool = False


class UnrecordedError(Exception):
    """A change has run, but its undo record was not written: the local transaction may only be rolled back. Its cause is why."""


class Savepoints(Protocol):
    """Taking back one statement, and its row locks with it."""

    def mark(self, cursor: Any, again: bool) -> None:
        """Have `back` take back what runs from now on, and not what ran before.

        Args:
            cursor: Of the local transaction.
            again: Whether the last savepoint in it is that of the last `mark`; it goes, and what it would take back stays.
        """

    def back(self, cursor: Any) -> None:
        """Take back what has run since the last `mark`."""


class Capture(Protocol):
    """One family of databases. Cursors are those of SQLAlchemy's dialect: they look synchronous also where the driver is not."""

    begin: str
    """Begins a local transaction that is going to write."""
    waits: bool
    """Whether a statement in the middle of a local transaction may wait for rows that it has not touched yet, as long as earlier
    ones locked nothing in the database but what they changed (`Result.exact`)."""
    savepoints: Savepoints | None
    """None: a statement that is rolled back to its savepoint does not give its row locks back, and so may not run again."""

    def is_idle(self, cursor: Any) -> bool:
        """Whether nothing is held in the database although statements have run, so that one may wait as if it was the first."""

    def admit(self, cursor: Any, statement: Statement) -> bool:
        """Look at a statement that changes no rows by its text; whether it has to be captured all the same.

        Raises:
            UnsupportedSqlError: It calls a function that may write rows.
        """

    def table(self, cursor: Any, statement: Statement) -> Table:
        """What the catalogue says of the statement's target.

        Raises:
            UnsupportedSqlError: There is no such table, or it cannot be captured.
        """

    def foreseen(self, cursor: Any, statement: Statement, table: Table, parameters: Any) -> frozenset[str] | None:
        """Keys of all rows that it will touch, found without locking any; None: that is not known before it has run.

        Raises:
            UnsupportedSqlError: Its changes cannot be captured for certain.
        """

    def run(self, cursor: Any, statement: Statement, table: Table, parameters: Any, entry: Entry) -> Result:
        """Run it, and write its undo record.

        Raises:
            UnsupportedSqlError: Its changes cannot be captured for certain; nothing has run.
            UnrecordedError: See there. Any other error is the driver's, of a statement that has changed nothing.
        """

    def run_many(self, cursor: Any, statement: Statement, table: Table, rows: Sequence[Any], entry: Entry) -> Result:
        """Run it once for each row of parameters. Raises like `run`."""
