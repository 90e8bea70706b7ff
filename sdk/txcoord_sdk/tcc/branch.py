"""Which branch the running code belongs to, in try, confirm and cancel."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TccBranch:
    """One branch of a TCC action.

    Args:
        xid: The global transaction.
        branch_id: The branch; with the XID it is the same in try, confirm and cancel and in every repetition of them, which
            makes the two an idempotency key for services that ask for one.
        resource: Service, action and database.
    """

    xid: str
    branch_id: int
    resource: str


_branch: ContextVar[TccBranch | None] = ContextVar("txcoord_branch", default=None)


def current_branch() -> TccBranch | None:
    """The branch whose try, confirm or cancel is running, or None."""
    return _branch.get()


class within:
    """A block with `branch` as the current one."""

    __slots__ = ("_branch", "_token")

    def __init__(self, branch: TccBranch) -> None:
        self._branch = branch

    def __enter__(self) -> None:
        self._token = _branch.set(self._branch)

    def __exit__(self, *_: object) -> None:
        _branch.reset(self._token)
