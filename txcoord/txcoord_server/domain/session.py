"""The two things the coordinator keeps: a global transaction and its branches.

Mutable, slotted and without behaviour: there are hundreds of thousands of them, and the rules that change them live in
`transactions`. Times are integers, milliseconds since 1970 by the clock of the store; 0 means "not yet".
"""

from __future__ import annotations

from txcoord_proto.status import BranchStatus, BranchType, Decision, GlobalStatus, Reason, Wait

from txcoord_server.domain.answers import Ticket


class Account:
    """What one service has open, for its limit."""

    __slots__ = ("service", "unfinished")

    def __init__(self, service: str) -> None:
        self.service = service
        self.unfinished = 0


class Branch:
    """A participant's part of a global transaction."""

    __slots__ = (
        "arguments",
        "attempts",
        "error",
        "error_code",
        "executor",
        "first_command_at",
        "id",
        "lock_keys",
        "next_try_at",
        "registered_at",
        "registrant",
        "reported_at",
        "resource",
        "settled_at",
        "status",
        "stored",
        "transaction",
        "type",
        "weight",
        "work",
    )

    def __init__(
        self,
        transaction: Transaction,
        id: int,
        type: BranchType,
        resource: str,
        lock_keys: tuple[str, ...],
        arguments: bytes,
    ) -> None:
        self.transaction = transaction
        self.id = id
        self.type = type
        self.resource = resource
        self.status = BranchStatus.REGISTERED
        self.lock_keys = lock_keys
        self.arguments = arguments
        self.registered_at = 0
        self.registrant = ""
        """The process that registered it; empty: one without a stream, or under an earlier leader."""
        self.reported_at = 0
        self.first_command_at = 0
        self.settled_at = 0
        self.next_try_at = 0
        self.attempts = 0
        self.executor = ""
        self.error_code = ""
        self.error = ""
        self.stored = False
        self.work: object = None
        """The dispatcher's command that this branch is part of, if any."""
        self.weight = len(arguments) + sum(map(len, lock_keys))
        """Bytes that a client has handed over for us to keep."""


class Waiter:
    """Somebody who asked for commit or rollback and waits for more than the decision."""

    __slots__ = ("ticket", "until", "wait", "wanted")

    def __init__(self, ticket: Ticket, wanted: Decision, wait: Wait, until: int) -> None:
        self.ticket = ticket
        self.wanted = wanted
        self.wait = wait
        self.until = until


class Transaction:
    """A global transaction that is not finished."""

    __slots__ = (
        "account",
        "begin_key",
        "begun_at",
        "branches",
        "cause",
        "commit_wait",
        "deadline_at",
        "decided_at",
        "decision",
        "first_begun_at",
        "forced",
        "key",
        "name",
        "once_parked",
        "open",
        "reason",
        "settled_at",
        "status",
        "stored_status",
        "traceparent",
        "unreported",
        "version",
        "waiters",
        "xid",
    )

    def __init__(self, xid: str, name: str, account: Account, begun_at: int, deadline_at: int) -> None:
        self.xid = xid
        self.name = name
        self.account = account
        self.begun_at = begun_at
        self.first_begun_at = begun_at
        self.deadline_at = deadline_at
        """When it is rolled back unless decided; 0: it has no deadline."""
        self.status = GlobalStatus.ACTIVE
        self.decision: Decision | None = None
        self.reason: Reason | None = None
        self.cause = ""
        """What lies behind the reason, in the words of whoever brought it about."""
        self.key = ""
        self.traceparent = ""
        self.begin_key = 0
        self.decided_at = 0
        self.settled_at = 0
        self.version = 1
        """In its row; see `revision`."""
        self.branches: list[Branch] = []
        self.open = 0
        """Branches of which something is still expected."""
        self.unreported = 0
        """Branches in REGISTERED."""
        self.commit_wait = 0
        """Until when an asked-for commit waits for reports; 0: none was asked for."""
        self.waiters: list[Waiter] | None = None
        self.stored_status: GlobalStatus | None = None
        """The status in its row, for the compare-and-set; None: it has no row."""
        self.once_parked = False
        self.forced = False

    @property
    def service(self) -> str:
        """The service that began it."""
        return self.account.service

    @property
    def revision(self) -> int:
        """What an operator's order names: it grows with everything that he can see change, of its branches too."""
        if self.decision is None:
            return self.version + 2 * len(self.branches) - self.unreported
        return self.version + sum([branch.settled_at > 0 for branch in self.branches])

    def changed(self) -> None:
        """Its row changes: later revisions are above all that were seen, also for who finds the row only."""
        self.version = self.revision + 1
