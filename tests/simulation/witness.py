"""What has become durable in the store and in the services' databases, in its order: the judge of everything that is told.

It reads the rows back after each group commit that has happened, whoever made it and whatever he was told of its outcome, through
a connection of its own. So it knows at every moment what the store says, and what it has ever said, also of transactions whose
rows retention has purged. What can be judged at once is judged here; see `check` for the list of invariants.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from txcoord_proto.status import BranchStatus, BranchType, Decision, GlobalStatus
from txcoord_rm.at.participant import ONLY_LOCKS
from txcoord_server.engine.storage import GroupWrite

_FINAL = (GlobalStatus.COMMITTED, GlobalStatus.ROLLED_BACK)
_ENDED = (BranchStatus.FAILED, BranchStatus.SETTLED, BranchStatus.FORCED)
Lock = tuple[str, str]
"""Resource and key."""


@dataclass(slots=True)
class Fact:
    """What the store says of one transaction, or last said of it.

    Attributes:
        status, decision: Of its row.
        branches: By id: type, resource, status, lock keys.
        locks: Global locks that these rows say it holds.
        only_locks: Branches that hold further keys of others, and change nothing.
        purged: Whether its row has gone.
    """

    status: str = ""
    decision: str = ""
    branches: dict[int, tuple[str, str, str, tuple[str, ...]]] = field(default_factory=dict)
    locks: frozenset[Lock] = frozenset()
    only_locks: frozenset[int] = frozenset()
    purged: bool = False


@dataclass(slots=True)
class Witness:
    """See the module.

    Args:
        store: The store's file.
        time: The simulation's clock.
        tried: Whether a branch's phase one has been committed in its database.
        kept: Whether rows of a branch can still be put back in its database.
    """

    store: Path
    time: Callable[[], float]
    tried: Callable[[str, str, int], bool]
    kept: Callable[[str, str, int], bool]
    violations: list[str] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)
    committed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """XIDs that an initiator was told are committed, with the services that had said yes."""
    rolled_back: set[str] = field(default_factory=set)
    """XIDs that an initiator was told are rolled back."""
    may_park: set[str] = field(default_factory=set)
    """XIDs of which a participant has said that a person has to look."""
    acts: list[tuple[str, int, str]] = field(default_factory=list)
    """What a person did and was told to be done: XID, version that he saw, act."""
    purged: int = 0
    _epoch: int = 0
    _holders: dict[Lock, str] = field(default_factory=dict)
    _history: dict[Lock, list[tuple[float, str]]] = field(default_factory=dict)
    """When the holder of a lock changed, and who it was from then on, empty: nobody."""
    _reading: sqlite3.Connection | None = None

    # ------------------------------------------------------------ the store

    def taken_over(self, epoch: int) -> None:
        """A node has a new epoch."""
        if epoch <= self._epoch:
            self.violations.append(f"TC-2: epoch {epoch} follows epoch {self._epoch}")
        self._epoch = max(self._epoch, epoch)

    def committed_group(self, write: GroupWrite) -> None:
        """A group commit has happened."""
        if write.epoch < self._epoch:
            self.violations.append(f"TC-2: a group commit of epoch {write.epoch} was taken in epoch {self._epoch}")
        rows = (write.new_globals, write.changed_globals, write.new_branches, write.changed_branches)
        changed = {row[0]: None for some in rows for row in some}
        facts = {xid: self._read(xid) for xid in changed}
        for row in (*write.new_globals, *write.changed_globals):
            if facts[row[0]].purged and row[2] in _FINAL:  # it became durable, and was old enough to leave, in one commit
                facts[row[0]] = Fact(row[2], row[3])
        for xid, fact in facts.items():
            self._judge(xid, self.facts.get(xid, Fact()), fact)
        self._move_locks(facts)
        self.facts.update(facts)
        if write.purge_ranges or write.purge_xids:
            self._look_for_purged()

    def _connected(self) -> sqlite3.Connection:
        if self._reading is None:
            self._reading = sqlite3.connect(self.store, timeout=0, isolation_level=None)
        return self._reading

    def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.close()

    def _read(self, xid: str) -> Fact:
        raw = self._connected()
        row = raw.execute("SELECT status, decision, settled_branches FROM txc_global WHERE xid = ?", (xid,)).fetchone()
        branches = raw.execute("SELECT id, type, resource, status, lock_keys, arguments FROM txc_branch WHERE xid = ?", (xid,))
        found, only_locks = {}, set()
        for branch, kind, resource, status, keys, arguments in branches:
            found[branch] = (kind, resource, status, tuple(json.loads(keys or "[]")))
            if arguments == ONLY_LOCKS:
                only_locks.add(branch)
        status, decision, settled = row if row is not None else ("", None, None)
        for told in json.loads(settled or "[]"):  # their rows were not written again
            kind, resource, _, keys = found[told[0]]
            found[told[0]] = (kind, resource, BranchStatus.SETTLED, keys)
        return Fact(status, decision or "", found, _locks(decision or "", found), frozenset(only_locks), row is None)

    def _judge(self, xid: str, before: Fact, now: Fact) -> None:
        if now.purged:
            self.violations.append(f"TC-5: {xid} was written to and has no row")
        if before.decision and now.decision != before.decision:
            self.violations.append(f"TC-1: the store said {before.decision} of {xid}, and says {now.decision or 'nothing'}")
        if before.decision and (late := now.branches.keys() - before.branches.keys()):
            self.violations.append(f"TC-4: branches {sorted(late)} of {xid} were registered after its decision")
        if now.status == GlobalStatus.PARKED and xid not in self.may_park:
            self.violations.append(f"TC-8: {xid} is parked, and a person has nothing to repair there")
        if now.decision and not before.decision:
            self._decided(xid, now)
        for branch, (kind, resource, status, _) in now.branches.items():
            if kind == BranchType.AT and status == BranchStatus.SETTLED and self.kept(resource, xid, branch):
                self.violations.append(f"AT-2: branch {branch} of {xid} on {resource} is settled, and its undo records are there")

    def _decided(self, xid: str, now: Fact) -> None:
        if now.decision == Decision.ROLLBACK:
            return
        if xid in self.rolled_back:
            self.violations.append(f"TC-1: {xid} was told to be rolled back, and then committed")
        for branch, (_, resource, status, _) in now.branches.items():
            if branch in now.only_locks or status == BranchStatus.FAILED:
                continue
            if not self.tried(resource, xid, branch):
                self.violations.append(f"TC-3: {xid} was committed while branch {branch} on {resource} had not done its part")

    def _look_for_purged(self) -> None:
        kept = {xid for (xid,) in self._connected().execute("SELECT xid FROM txc_global")}
        for xid, fact in self.facts.items():
            if xid not in kept and not fact.purged:
                fact.purged = True
                self.purged += 1
                if fact.status not in _FINAL:
                    self.violations.append(f"TC-5: {xid} was purged while it was {fact.status}")

    # ------------------------------------------------------------ global locks

    def _move_locks(self, facts: dict[str, Fact]) -> None:
        """Locks that rows of one group commit give back, then those that they take."""
        before = {xid: self.facts[xid].locks if xid in self.facts else frozenset() for xid in facts}
        for xid, fact in facts.items():
            for lock in sorted(before[xid] - fact.locks):
                if self._holders.get(lock) == xid:
                    self._hold(lock, "")
        for xid, fact in facts.items():
            for lock in sorted(fact.locks - before[xid]):
                if other := self._holders.get(lock):
                    self.violations.append(f"AT-1: lock {lock[1]} was granted to {xid} while {other} held it")
                self._hold(lock, xid)

    def _hold(self, lock: Lock, xid: str) -> None:
        self._holders[lock] = xid
        self._history.setdefault(lock, []).append((self.time(), xid))

    def held(self) -> list[Lock]:
        """Locks that somebody holds at the moment."""
        return [lock for lock, xid in self._holders.items() if xid]

    def told_free(self, lock: Lock, asked: float) -> None:
        """Somebody who asked at `asked` is told now that a lock is free: it must have been, at some moment in between."""
        holder = ""
        for since, xid in self._history.get(lock, ()):
            if since <= asked:
                holder = xid
            elif not xid:
                return
        if holder:
            self.violations.append(f"AT-1: lock {lock[1]} was told to be free, and {holder} held it since before that was asked")

    # ------------------------------------------------------------ initiators

    def told_committed(self, xid: str, agreed: tuple[str, ...]) -> None:
        """An initiator is told that a transaction is committed.

        Args:
            xid: It.
            agreed: Services that had said yes.
        """
        self.committed[xid] = agreed
        fact = self.facts.get(xid, Fact())
        if fact.decision != Decision.COMMIT:
            self.violations.append(f"TC-1: {xid} was told to be committed, and the store says {fact.decision or 'nothing'}")

    def told_rolled_back(self, xid: str) -> None:
        """An initiator is told that a transaction is rolled back: by its row, or because it never had one."""
        self.rolled_back.add(xid)
        fact = self.facts.get(xid, Fact())
        if fact.decision == Decision.COMMIT or (fact.status and not fact.decision):
            self.violations.append(f"TC-1: {xid} was told to be rolled back, and the store says {fact.decision or 'ACTIVE'}")


def _locks(decision: str, branches: dict[int, tuple[str, str, str, tuple[str, ...]]]) -> frozenset[Lock]:
    """Until the decision all locks are held; then those on resources where a branch still needs them."""
    needed = {
        resource
        for kind, resource, status, _ in branches.values()
        if not decision or (status not in _ENDED and not (decision == Decision.COMMIT and kind == BranchType.AT))
    }
    return frozenset((resource, key) for _, resource, _, keys in branches.values() if resource in needed for key in keys)
