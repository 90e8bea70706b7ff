"""What a prepared transaction is called in its database.

The name says whose it is: prepared transactions are listed for a whole server, whatever database, service or coordinator they are
of. Ours begin with `txcoord` and the identity of the database, so that those of other databases and of other transaction managers
are never touched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from txcoord_proto.xid import is_xid

_DATABASE = re.compile(r"[0-9a-f-]{1,36}")
_FORMAT = 0x7478
"""Of XA identifiers of ours: `tx`."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """One branch.

    Args:
        database_id: Identity of its database.
        xid: Of its global transaction.
        branch_id: Of it.
    """

    database_id: str
    xid: str
    branch_id: int

    def __post_init__(self) -> None:
        assert _DATABASE.fullmatch(self.database_id), self.database_id
        assert is_xid(self.xid), self.xid

    def __str__(self) -> str:
        """In one text of at most 129 characters, none of which needs quoting; PostgreSQL allows 199."""
        return f"txcoord:{self.database_id}:{self.xid}:{self.branch_id}"

    @property
    def in_parts(self) -> str:
        """As SQL of MariaDB and MySQL writes it: XID, the rest, and a format of our own; each part has at most 64 characters."""
        return f"'{self.xid}','txcoord:{self.database_id}:{self.branch_id}',{_FORMAT}"


def pattern(database_id: str) -> str:
    """What identifiers of a database are LIKE in SQL, as `str` writes them."""
    return f"txcoord:{database_id}:%"


def parse(text: str, database_id: str) -> Identifier | None:
    """The identifier that `str` has written; None: it is none of this database's."""
    parts = text.split(":")
    if len(parts) != 4 or parts[:2] != ["txcoord", database_id]:
        return None
    return _checked(*parts[1:])


def parse_parts(format_id: int, xid: str, qualifier: str, database_id: str) -> Identifier | None:
    """The identifier of which these are the parts; None: it is none of this database's."""
    parts = qualifier.split(":")
    if format_id != _FORMAT or len(parts) != 3 or parts[:2] != ["txcoord", database_id]:
        return None
    return _checked(database_id, xid, parts[2])


def _checked(database_id: str, xid: str, branch_id: str) -> Identifier | None:
    if not (_DATABASE.fullmatch(database_id) and is_xid(xid) and branch_id.isascii() and branch_id.isdigit()):
        return None
    return Identifier(database_id, xid, int(branch_id))
