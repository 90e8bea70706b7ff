"""The lock of a whole table, by which serializable global transactions keep rows from coming and going for each other.

Global locks have one strength only. So who writes a table at this level holds all of it, and so does who reads it by anything but
full primary keys: whatever is written could become part of what was read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod

from txcoord_proto.errors import UnsupportedSqlError

from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.statement import Source, Statement, Verb
from txcoord_rm.sql.unsupported import refuse

_QUERY = re.compile(r"\bselect\b", re.IGNORECASE)
_OF = re.compile(r"\bof\b", re.IGNORECASE)


def whole(table: Table) -> str:
    """The key of all rows of a table, those that are not there among them."""
    return f"{'.'.join(table.root)}=*"


def check_reads(statement: Statement) -> None:
    """Refuse a statement that reads what it does not lock.

    Raises:
        UnsupportedSqlError: It is one.
    """
    if statement.verb in (Verb.READ, Verb.OTHER) or statement.unseen is not None:
        raise refused_elsewhere(statement)
    beside = len(_QUERY.findall(statement.sql)) > (statement.verb is Verb.LOCKING_READ)
    if statement.locking is not None:
        beside |= _OF.search(statement.locking.of(statement.sql)) is not None
    if beside or statement.with_ is not None or statement.others is not None or statement.source is Source.QUERY:
        raise refuse(
            statement.sql,
            "with isolation 'serializable' rows that it reads beside those that it changes or locks would not be locked",
            "read them by a statement of their own, or run it within `txcoord_rm.isolation('read_committed')`",
        )


def refused_elsewhere(statement: Statement) -> UnsupportedSqlError:
    """The error for a statement that may change rows of other tables than its own."""
    return refuse(
        statement.sql,
        "with isolation 'serializable' the other tables of which it may change rows would not be locked as a whole",
        "run it within `txcoord_rm.isolation('read_committed')`",
    )


def named_rows(statement: Statement, primary_key: Iterable[str]) -> int:
    """How many rows a read is about at most, each by its full primary key; 0: that is not how it names them."""
    if statement.verb is not Verb.LOCKING_READ or len(statement.locked) > 1:
        return 0
    equal = {equality.column.lower(): len(equality.values) for equality in statement.equalities}
    return prod(equal.get(name.lower(), 0) for name in primary_key)
