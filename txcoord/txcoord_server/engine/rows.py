"""Between the domain's objects and the store's rows.

Rows are built in the engine's thread when a group is handed over, so that the writer never reads what is changing, and each row
is written once per group from its last state. (`_value_` is `value` without a detour through a property.)

Two things need not be written, since the transaction's row says them. A branch's DONE under a durable COMMIT: commit is decided
only when every branch has reported. And the end of the branches of a committed transaction, where all settled at their first
command: `settled_branches` has their times.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from json import JSONDecoder
from json.encoder import encode_basestring

from txcoord_proto.status import BranchStatus, BranchType, Decision, GlobalStatus, Reason

from txcoord_server.domain.effects import Effects
from txcoord_server.domain.session import Account, Branch, Transaction
from txcoord_server.domain.transitions import ENDED_BRANCH, FINAL
from txcoord_server.engine.retention import Retention
from txcoord_server.engine.storage import GroupWrite, Row

# A takeover reads hundreds of thousands of rows: a look into a dictionary costs a tenth of a call of an enumeration, and reading
# by a decoder at hand a fifth of `json.loads`.
_STATUSES = {status.value: status for status in GlobalStatus}
_DECISIONS = {decision.value: decision for decision in Decision}
_REASONS = {reason.value: reason for reason in Reason}
_BRANCH_TYPES = {type.value: type for type in BranchType}
_BRANCH_STATUSES = {status.value: status for status in BranchStatus}
_read_json = JSONDecoder().raw_decode


class RowBuilder:
    """Turns effects into rows.

    Args:
        group: Name of the group.
        retention: Says how long finished transactions stay.
    """

    def __init__(self, group: str, retention: Retention) -> None:
        self._group = group
        self._retention = retention

    def fill(self, write: GroupWrite, effects: Effects) -> None:
        """Add the rows of `effects` to `write`."""
        told = set()
        for transaction in effects.transactions:
            settled = settled_branches(transaction)
            if settled is not None:
                told.add(transaction)
            self._transaction(write, transaction, settled)
        for branch in effects.branches:
            if branch.transaction not in told:
                self._branch(write, branch)

    def _transaction(self, write: GroupWrite, t: Transaction, settled: str | None) -> None:
        status = t.status
        purge_at = self._retention.purge_at(t) if status in FINAL else None
        before = t.stored_status
        t.stored_status = status
        if before is None:
            write.new_globals.append(
                (
                    t.xid, self._group, status._value_, t.decision and t.decision._value_, t.reason and t.reason._value_, t.cause,
                    t.name, t.account.service, t.key or None, t.traceparent, t.begin_key, t.begun_at, t.first_begun_at,
                    t.deadline_at, t.decided_at, t.settled_at, t.version, int(t.once_parked), int(t.forced),
                    purge_at, write.commit_seq, settled,
                )
            )  # fmt: skip
        else:
            write.changed_globals.append(
                (
                    t.xid, before._value_, status._value_, t.decision and t.decision._value_, t.reason and t.reason._value_,
                    t.cause, t.decided_at, t.settled_at, t.version, int(t.once_parked), int(t.forced), purge_at, write.commit_seq,
                    settled,
                )
            )  # fmt: skip

    @staticmethod
    def _branch(write: GroupWrite, b: Branch) -> None:
        if not b.stored:
            b.stored = True
            write.new_branches.append(
                (
                    b.transaction.xid, b.id, b.type._value_, b.resource, b.status._value_,
                    json_list(b.lock_keys) if b.lock_keys else None, b.arguments, b.registered_at,
                    b.reported_at, b.first_command_at, b.settled_at, b.next_try_at, b.attempts, b.executor, b.error_code, b.error,
                )
            )  # fmt: skip
        elif b.status is not BranchStatus.DONE or b.transaction.decision is not Decision.COMMIT or b.attempts:
            write.changed_branches.append(
                (
                    b.transaction.xid, b.id, b.status._value_, b.reported_at, b.first_command_at, b.settled_at, b.next_try_at,
                    b.attempts, b.executor, b.error_code, b.error,
                )
            )  # fmt: skip


def settled_branches(t: Transaction) -> str | None:
    """What became of the branches of a committed transaction; None: it is not over, or their own rows have to tell more."""
    if t.status is not GlobalStatus.COMMITTED:
        return None
    told = []
    for b in t.branches:
        if b.status is not BranchStatus.SETTLED or b.attempts != 1 or b.error_code or not b.stored:
            return None
        told.append(f"[{b.id},{b.reported_at},{b.first_command_at},{b.settled_at},{encode_basestring(b.executor)}]")
    return f"[{','.join(told)}]"


def json_list(texts: tuple[str, ...]) -> str:
    """A JSON list of texts: what `json.dumps` makes of it, without making an encoder each time."""
    return "[" + ",".join(map(encode_basestring, texts)) + "]"


def restore(
    account: Callable[[str], Account], rows: Sequence[Row], branches: Sequence[Row], outage: int = 0
) -> list[Transaction]:
    """Objects from rows of NEW_GLOBAL and their rows of NEW_BRANCH.

    Args:
        account: The account of a service.
        rows: Transactions.
        branches: All their branches, in order.
        outage: Milliseconds by which open deadlines move: nobody is timed out for our absence.
    """
    transactions = {row[0]: _transaction(account, row, outage) for row in rows}
    for row in branches:
        _branch(transactions[row[0]], row)
    for row in rows:
        if row[-1] is not None:
            _settle(transactions[row[0]], row[-1])
    return list(transactions.values())


def _transaction(account: Callable[[str], Account], row: Row, outage: int) -> Transaction:
    (xid, _, status, decision, reason, cause, name, service, key, traceparent, begin_key, begun_at, first_begun_at, deadline_at,
     decided_at, settled_at, version, once_parked, forced, _, _, _) = row  # fmt: skip
    t = Transaction(xid, sys.intern(name), account(service), begun_at, deadline_at and deadline_at + outage)
    t.status = t.stored_status = _STATUSES[status]
    t.decision = _DECISIONS[decision] if decision else None
    t.reason = _REASONS[reason] if reason else None
    t.cause = cause
    t.key = key or ""
    t.traceparent = traceparent
    t.begin_key = begin_key
    t.first_begun_at = first_begun_at
    t.decided_at = decided_at
    t.settled_at = settled_at
    t.version = version
    t.once_parked = bool(once_parked)
    t.forced = bool(forced)
    return t


def _branch(t: Transaction, row: Row) -> None:
    (_, id, type, resource, status, lock_keys, arguments, registered_at, reported_at, first_command_at, settled_at, next_try_at,
     attempts, executor, error_code, error) = row  # fmt: skip
    keys = tuple(_read_json(lock_keys)[0]) if lock_keys else ()
    b = Branch(t, id, _BRANCH_TYPES[type], sys.intern(resource), keys, bytes(arguments))
    b.status = _BRANCH_STATUSES[status]
    if b.status is BranchStatus.REGISTERED and t.decision is Decision.COMMIT:
        b.status = BranchStatus.DONE
    b.registered_at = registered_at
    b.reported_at = reported_at
    b.first_command_at = first_command_at
    b.settled_at = settled_at
    b.next_try_at = next_try_at
    b.attempts = attempts
    b.executor = executor and sys.intern(executor)
    b.error_code = error_code and sys.intern(error_code)
    b.error = error
    b.stored = True
    t.branches.append(b)
    if b.status not in ENDED_BRANCH:
        t.open += 1
    if b.status is BranchStatus.REGISTERED:
        t.unreported += 1


def _settle(t: Transaction, told: str) -> None:
    """What `settled_branches` said."""
    settled = {item[0]: item for item in _read_json(told)[0]}
    for b in t.branches:
        _, b.reported_at, b.first_command_at, b.settled_at, executor = settled[b.id]
        b.executor = sys.intern(executor)
        b.status, b.attempts, b.next_try_at = BranchStatus.SETTLED, 1, 0
    t.open = t.unreported = 0
