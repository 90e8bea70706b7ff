"""What the driver sees of a service in each mode: the one place where modes differ for scenarios and for the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, text

Stuck = Literal["goods", "records", "process"]
"""What is held to hold a second phase up: the row of the product, the service's undo records, the whole process."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces of a product by where they are; or how they have moved, as others see it."""

    free: int = 0
    reserved: int = 0
    sold: int = 0

    def times(self, pieces: int) -> Pieces:
        """That many pieces."""
        return Pieces(self.free * pieces, self.reserved * pieces, self.sold * pieces)

    def since(self, before: Pieces) -> Pieces:
        """What has happened since then."""
        return Pieces(self.free - before.free, self.reserved - before.reserved, self.sold - before.sold)


@dataclass(frozen=True, slots=True)
class Way:
    """How one service takes part.

    Args:
        name: What the service is told in SHOP_MODE.
        undecided: What has become of goods after phase one, for people.
        moved: What others see of that.
        pending: How many local transactions of a database wait for their second phase.
        leaves_fences: Whether fence rows are written.
        rejected: Status of an order that was written down and then rolled back; empty: there is no trace of it.
        commit_waits_for: What holds a commit's second phase up.
        rollback_waits_for: What holds a rollback's up.
    """

    name: str
    undecided: str
    moved: Pieces
    pending: Callable[[Connection], int]
    leaves_fences: bool
    rejected: str
    commit_waits_for: Stuck
    rollback_waits_for: Stuck


def undo_records(connection: Connection) -> int:
    """Branches whose rows can still be put back."""
    return _count(connection, "SELECT count(DISTINCT branch_id) FROM txcoord_undo_log WHERE state = 'IMAGE'")


def prepared(connection: Connection) -> int:
    """Local transactions that the database has prepared."""
    if connection.dialect.name == "postgresql":
        return _count(connection, "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()")
    identity = connection.scalar(text("SELECT id FROM txcoord_database"))  # they are listed for a whole server
    return sum(f"txcoord:{identity}:" in str(row[-1]) for row in connection.execute(text("XA RECOVER")))


def tried(connection: Connection) -> int:
    """Tries that have been neither confirmed nor cancelled."""
    return _count(connection, "SELECT count(*) FROM txcoord_fence WHERE state = 'TRIED'")


def fences(connection: Connection) -> int:
    """Fence rows."""
    return _count(connection, "SELECT count(*) FROM txcoord_fence")


def _count(connection: Connection, query: str) -> int:
    return connection.scalar(text(query)) or 0


AT = Way(
    name="at",
    undecided="sold, and an undo record kept",
    moved=Pieces(free=-1, sold=+1),
    pending=undo_records,
    leaves_fences=False,
    rejected="",
    commit_waits_for="records",
    rollback_waits_for="goods",
)
XA = Way(
    name="xa",
    undecided="sold in a prepared transaction, which nobody sees",
    moved=Pieces(),
    pending=prepared,
    leaves_fences=True,
    rejected="",
    commit_waits_for="process",
    rollback_waits_for="process",
)
TCC = Way(
    name="tcc",
    undecided="reserved",
    moved=Pieces(free=-1, reserved=+1),
    pending=tried,
    leaves_fences=True,
    rejected="REJECTED",
    commit_waits_for="goods",
    rollback_waits_for="goods",
)

WAYS: Mapping[str, Mapping[str, Way]] = {
    **{way.name: dict.fromkeys(("order", "stock", "balance"), way) for way in (AT, XA, TCC)},
    "mixed": {"order": AT, "stock": TCC, "balance": XA},
}
"""By mode of the shop and service."""
