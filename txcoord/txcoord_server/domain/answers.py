"""What a request is answered with, and where answers go.

The domain says what is told to whom; how it travels is not its concern.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from txcoord_proto.errors import TxcoordError
from txcoord_proto.status import Settlement


@dataclass(frozen=True, slots=True)
class Ok:
    """Plain success; of commit and rollback: decided as asked."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Commit or rollback: decided as asked, and settled."""


@dataclass(frozen=True, slots=True)
class Begun:
    """Begin, alone or within a registration."""

    xid: str


@dataclass(frozen=True, slots=True)
class Registered:
    """A registration, for somebody who does not know the transaction's deadline.

    Args:
        xid: Of the transaction.
        timeout_left: Milliseconds until its deadline when the registration came; 0: it has none.
    """

    xid: str
    timeout_left: int


@dataclass(frozen=True, slots=True)
class Reported:
    """The report of a branch's phase one is durable."""

    branch_id: int


@dataclass(frozen=True, slots=True)
class Decided:
    """Commit or rollback whose outcome is not the plain one that was asked for."""

    xid: str
    status: str
    decision: str
    reason: str
    settled: bool
    explanation: str


@dataclass(frozen=True, slots=True)
class LockState:
    """Answer to a lock query: the XID of a holder, or empty when all keys are free."""

    holder: str


@dataclass(frozen=True, slots=True)
class Settlements:
    """Answer to a settled query, in the order of its XIDs."""

    settlements: tuple[Settlement, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The request changed nothing."""

    error: TxcoordError


Answer: TypeAlias = Ok | Settled | Begun | Registered | Reported | Decided | LockState | Settlements | Refused

OK = Ok()
SETTLED = Settled()


class Recipient(Protocol):
    """Whoever sent a request: a stream, or one unary call."""

    name: str
    """Of the process whose stream it is; else empty."""

    def may(self, resource: str) -> bool:
        """Whether its token covers `resource`."""

    def answer(self, request_id: int, answer: Answer) -> None:
        """Take the answer to a request of its own."""


Ticket: TypeAlias = tuple[Recipient, int]
"""Who asked, and under which request id."""
