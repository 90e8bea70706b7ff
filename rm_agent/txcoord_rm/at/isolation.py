"""What reads inside a global transaction may see: per block of code, so it needs nothing from callers or from the coordinator."""

from __future__ import annotations

from contextvars import ContextVar
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection
from txcoord_proto.errors import ConfigurationError

from txcoord_rm.block import Block


class Isolation(StrEnum):
    """What a plain SELECT of a block sees of other global transactions."""

    READ_UNCOMMITTED = "read_uncommitted"
    """What is there, be it taken back later."""
    READ_COMMITTED = "read_committed"
    """Only rows that belong to no other unfinished global transaction."""


_isolation: ContextVar[Isolation] = ContextVar("txcoord_isolation", default=Isolation.READ_UNCOMMITTED)


def reads_committed() -> bool:
    """Whether plain reads of the running code are global reads."""
    return _isolation.get() is Isolation.READ_COMMITTED


def level_of(connection: Connection) -> str:
    """The isolation level of a connection's local transactions in its database, as SQLAlchemy was told or has found it."""
    dialect: Any = connection.dialect
    default = getattr(dialect, "_on_connect_isolation_level", None) or dialect.default_isolation_level
    return str(connection.get_execution_options().get("isolation_level", default))


class isolation(Block[Isolation]):
    """A block, `with isolation("read_committed"):`, that says what plain SELECTs inside a global transaction see.

    With `read_committed` each is run as `SELECT ... FOR UPDATE` is: it takes the global locks of the rows that it returns, and
    waits while another global transaction holds one. So it sees no value that a global rollback takes back: whoever wrote it
    holds the row's global lock until his end, his rollback restores the row before it gives the lock back, and the rows are
    read anew after a wait. They stay locked until the reader's own end, so no other global transaction changes them meanwhile.

    Not covered: rows that were not found, since they have no lock (phantoms); queries inside an UPDATE, INSERT or DELETE; tables
    that an explicit FOR UPDATE OF does not name; what functions of your own read.

    On PostgreSQL. Elsewhere plain reads of tables are refused in such a block, as are statements of an engine enrolled with
    `mode="xa"`. Outside global transactions it changes nothing.

    Args:
        name: `read_uncommitted`, as without a block, or `read_committed`.

    Raises:
        ConfigurationError: There is no such isolation.
    """

    __slots__ = ()

    def __init__(self, name: str) -> None:
        try:
            chosen = Isolation(name)
        except ValueError:
            raise ConfigurationError(f"there is no isolation {name!r}: use {' or '.join(Isolation)}") from None
        super().__init__(_isolation, chosen)
