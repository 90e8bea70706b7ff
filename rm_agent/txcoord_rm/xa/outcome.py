"""What a second phase has come to where the database does not know the prepared transaction: pure rules.

"Not found" alone says nothing: it may have been ended before, never have been prepared, be prepared in a session that still lives
(MariaDB says so to all others), or be lost. So two more things are read. First whether a list of all prepared transactions shows
it. Then its fence row, which was written in the prepared transaction itself, so that it can be read only once that is committed;
a rollback first inserts a row that says SUSPENDED, unless there is one.

    listed  fence row    to be committed                        to be rolled back
    yes     any          not yet: try again                     not yet: try again
    no      TRIED        done: it was committed                 PARKED: it was committed although rollback is decided
    no      SUSPENDED    PARKED: it was rolled back although    done: it was rolled back, or never prepared, and cannot be
                         commit is decided                      prepared any more
    no      none         PARKED: it is lost                     (not possible: the row has just been inserted) try again
    no      CONFIRMED,   PARKED: the row is another action's    PARKED: the row is another action's
            CANCELLED

Nothing that contradicts the decision is put right by a guess: a person has to look.
"""

from __future__ import annotations

from txcoord_proto.errors import TxcoordError
from txcoord_sdk.fence.fence import FenceState
from txcoord_sdk.participant import ParkError

from txcoord_rm.xa.identifier import Identifier


class StillPreparedError(TxcoordError):
    """The prepared transaction is there and cannot be ended from here and now; it is tried again."""

    code = "STILL_PREPARED"
    retryable = True


_CHECK = "check the data, then `txcoord force-commit` or `txcoord force-rollback`"


def check_ended(identifier: Identifier, commit: bool, listed: bool, state: FenceState | None) -> None:
    """Return if a branch that was not found has ended as decided; see the table above.

    Args:
        identifier: It.
        commit: Whether commit is decided.
        listed: Whether a list that was read after it was not found, and without an error, shows it.
        state: What its fence row says, read after that list (of a rollback: before); None: there is none.

    Raises:
        StillPreparedError: It has not ended yet.
        ParkError: It has ended otherwise, or what became of it is not known.
    """
    branch = f"branch {identifier.branch_id} of {identifier.xid}"
    if listed or (state is None and not commit):
        raise StillPreparedError(
            f"{branch} is prepared, and another session holds it or is ending it: it is tried again", {"xid": identifier.xid}
        )
    match state:
        case FenceState.TRIED if commit:
            return
        case FenceState.SUSPENDED if not commit:
            return
        case FenceState.TRIED:
            raise ParkError(f"{branch} is to be rolled back, but it has been committed in the database: {_CHECK}")
        case FenceState.SUSPENDED:
            raise ParkError(f"{branch} is to be committed, but it has been rolled back in the database: {_CHECK}")
        case None:
            raise ParkError(
                f"{branch} is to be committed, but the database neither lists it as prepared nor has its fence row: was the "
                f"database restored, or was it ended by hand? {_CHECK}"
            )
        case _:
            raise ParkError(f"the fence row of {branch} says {state}, which no branch of XA does: {_CHECK}")
