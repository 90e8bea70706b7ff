"""The statements of a group commit, as text for the driver.

Built once from the tables: SQLAlchemy's executemany costs more than the database does on this path. What is the same on every
database is here; how rows travel is each dialect's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from txcoord_server.domain.effects import StoredOutcome
from txcoord_server.engine.storage import PurgeRange, Row

T = TypeVar("T")

MAX_CHUNK = 128

OUTCOME = "SELECT xid, status, reason, service FROM txc_global WHERE xid IN ({})"
_COMMITTED = "DELETE FROM txc_global WHERE xid >= {0} AND xid <= {1} AND status = 'COMMITTED' AND settled_at < {2}"
_COMMON = _COMMITTED + " AND purge_at IS NULL"
_KEYED = _COMMITTED + " AND business_key IS NOT NULL AND forced = 0 AND once_parked = 0"
_LEFT_BRANCHES = (
    "DELETE FROM txc_branch WHERE xid >= {0} AND xid <= {1} "
    "AND NOT EXISTS (SELECT 1 FROM txc_global g WHERE g.xid = txc_branch.xid)"
)
PURGED = "UPDATE txc_epoch SET purged_sequence = {0} WHERE grp = {1} AND epoch = {2} AND purged_sequence < {0}"


def purge(range: PurgeRange) -> tuple[str, str]:
    """The two statements by which a range leaves: transactions, then what is left of them.

    In both {0} and {1} stand for its ends, in the first {2} for the time before which they must have settled.
    """
    return _KEYED if range.keyed else _COMMON, _LEFT_BRANCHES


def chunks(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut rows into pieces whose sizes are powers of two, so that few statement texts occur and all stay prepared."""
    at = 0
    while at < len(rows):
        size = min(MAX_CHUNK, 1 << ((len(rows) - at).bit_length() - 1))
        yield rows[at : at + size]
        at += size


def outcomes(rows: Sequence[Row]) -> dict[str, StoredOutcome]:
    """Rows of OUTCOME by XID."""
    return {xid: StoredOutcome(xid, status, reason or "", service) for xid, status, reason, service in rows}
