"""States of transactions and branches, and the other closed sets of names that travel and are stored.

Every set is an enum of text: a name in a table, in a log line and on the screen is the member's name. Which change is allowed is
not said here but in the coordinator's transition table.
"""

from __future__ import annotations

from enum import StrEnum


class Name(StrEnum):
    """Base of these sets: a member is hashed as the text that it is, in C, since tables are looked into at every step."""

    __hash__ = str.__hash__


class GlobalStatus(Name):
    """State of a global transaction."""

    ACTIVE = "ACTIVE"
    """Begun, not decided: branches may register."""
    COMMITTING = "COMMITTING"
    """Commit is decided and durable; second phases are under way."""
    COMMITTED = "COMMITTED"
    """Commit is decided and every branch has settled."""
    ROLLING_BACK = "ROLLING_BACK"
    """Rollback is decided and durable; second phases are under way."""
    ROLLED_BACK = "ROLLED_BACK"
    """Rollback is decided and every branch has settled."""
    PARKED = "PARKED"
    """A person is needed; the decision stays and the other branches go on."""


class Decision(Name):
    """The write-once outcome of a global transaction."""

    COMMIT = "COMMIT"
    """Every branch commits."""
    ROLLBACK = "ROLLBACK"
    """Every branch rolls back."""


class Reason(Name):
    """Why a global transaction was decided as it was."""

    REQUESTED = "REQUESTED"
    """Its initiator asked for it."""
    TIMEOUT = "TIMEOUT"
    """Its deadline passed before a decision."""
    BRANCH_UNFINISHED = "BRANCH_UNFINISHED"
    """Commit was asked for, and a branch had not reported its phase one in time."""
    BRANCH_UNKNOWN = "BRANCH_UNKNOWN"
    """A branch reported that the outcome of its phase one is not known."""
    LATE_BRANCH = "LATE_BRANCH"
    """A branch registered while commit was waiting for reports."""
    ROLLBACK_ONLY = "ROLLBACK_ONLY"
    """A participant marked it rollback-only, mostly because a call got no answer."""
    DEADLOCK = "DEADLOCK"
    """It was chosen to end a deadlock of global locks."""
    FORCED = "FORCED"
    """An operator decided it."""


class BranchType(Name):
    """Kind of a branch: which front end made it and who does its second phase."""

    AT = "AT"
    """SQL with undo records and global locks."""
    XA = "XA"
    """A prepared transaction of the database."""
    TCC = "TCC"
    """Try, confirm, cancel."""
    SAGA = "SAGA"
    """A step with a compensation."""
    MESSAGE = "MESSAGE"
    """A half message."""
    NOTIFY = "NOTIFY"
    """A best-effort notification."""


class BranchStatus(Name):
    """State of a branch."""

    REGISTERED = "REGISTERED"
    """Known to the coordinator; its phase one has not been reported."""
    DONE = "DONE"
    """Its phase one is durable in its resource."""
    FAILED = "FAILED"
    """Its phase one was certainly rolled back; it takes no part in the second phase."""
    UNKNOWN = "UNKNOWN"
    """The outcome of its phase one is not known; the transaction rolls back."""
    SETTLED = "SETTLED"
    """Its second phase is done."""
    PARKED = "PARKED"
    """Its second phase needs a person."""
    FORCED = "FORCED"
    """An operator declared its second phase done."""


class PhaseOne(Name):
    """What a participant reports of a branch's phase one."""

    DONE = "DONE"
    """Its local COMMIT returned."""
    FAILED = "FAILED"
    """Its local rollback is certain."""
    UNKNOWN = "UNKNOWN"
    """Neither is certain."""


class CommandResult(Name):
    """What a participant answers to a command of the second phase."""

    DONE = "DONE"
    """Done, now or earlier."""
    RETRY = "RETRY"
    """This branch failed; try it again later."""
    UNAVAILABLE = "UNAVAILABLE"
    """The resource cannot be reached; nothing was tried."""
    PARK = "PARK"
    """A person has to look at it."""


class Settlement(Name):
    """Answer to the question whether a transaction's settlements are all durable."""

    UNSETTLED = "UNSETTLED"
    """It is not finished."""
    SETTLED = "SETTLED"
    """It is finished, and every settlement is durable."""
    EXPIRED = "EXPIRED"
    """It is finished; its outcome is no longer kept."""
    UNKNOWN = "UNKNOWN"
    """No such transaction, or of an epoch that the store does not know."""


class Wait(Name):
    """What a returned commit or rollback means."""

    SETTLED = "SETTLED"
    """The second phases of XA and TCC branches (in a rollback: of all) are done as well, unless that exceeds a limit."""
    DECIDED = "DECIDED"
    """The decision is durable."""
