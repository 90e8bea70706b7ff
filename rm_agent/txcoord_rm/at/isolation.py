"""At which isolation level the running code reads: of its block or function, of its global transaction, or of its engine."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from txcoord_sdk.database import initialize
from txcoord_sdk.transaction.isolation import Isolation, chosen, isolation_of, stricter
from txcoord_sdk.transaction.transaction import GlobalTransaction

from txcoord_rm.block import Block


def level(transaction: GlobalTransaction | None, default: Isolation) -> Isolation:
    """At which level a statement runs.

    Args:
        transaction: The global one that it is part of; None: it is in none, where levels mean nothing.
        default: Of its engine.
    """
    if transaction is None:
        return Isolation.READ_UNCOMMITTED
    if (nearest := chosen.get()) is not None:
        return nearest
    return stricter(Isolation(transaction.isolation), default) if transaction.isolation else default


def level_of(connection: Connection) -> str:
    """The isolation level of a connection's local transactions in its database, as SQLAlchemy was told or has found it."""
    dialect: Any = connection.dialect
    initialize(connection)
    default = getattr(dialect, "_on_connect_isolation_level", None) or dialect.default_isolation_level
    return str(connection.get_execution_options().get("isolation_level", default))


class isolation(Block[Isolation | None]):
    """A block, `with isolation("read_committed"):`, that says what plain SELECTs inside a global transaction see.

    With `read_committed` each is run as `SELECT ... FOR UPDATE` is: it takes the global locks of the rows that it returns, and
    waits while another global transaction holds one. So it sees no value that a global rollback takes back: whoever wrote it
    holds the row's global lock until his end, his rollback restores the row before it gives the lock back, and the rows are
    read anew after a wait. They stay locked until the reader's own end, so no other global transaction changes them meanwhile.

    With `serializable` each statement also takes one lock of the whole table, if it changes rows or its condition does not name
    the whole primary key of rows that are there. So no row comes or goes for what was read, as long as all that write the table
    are at this level: their global transactions run one after the other. What the others write is not kept out.

    Not covered: with `read_committed` rows that were not found, since they have no lock (phantoms), and queries inside an UPDATE,
    INSERT or DELETE, which `serializable` refuses; tables that an explicit FOR UPDATE OF does not name; what functions of your
    own and foreign keys read.

    Plain reads whose rows cannot be locked are refused in such a block: groups, aggregates, unions, outer joins, queries in
    queries. So is every statement of an engine enrolled with `mode="xa"`. On SQLite a read takes the lock of the one who writes.
    Outside global transactions it changes nothing.

    Args:
        name: `read_uncommitted`, `read_committed` or `serializable`.

    Raises:
        ConfigurationError: There is no such isolation.
    """

    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__(chosen, isolation_of(name))
