"""What must hold, by number, and where it is judged.

The numbers are those of the project's list of invariants. *At once*: by `witness`, with each group commit, told outcome or lock
answer, against the rows that are durable at that moment. *At rest*: here, from the databases alone, when every fault has healed
and nothing is under way any more. In brackets: the planted bugs (`bugs`) that show that the check can fail.

- TC-1, at once: the decision in the store is written once; whoever is told an outcome is told the store's. [no compare-and-set,
  told before it is durable, reload after publishing]
- TC-2, at once: after a takeover no group commit of an older epoch is taken; at rest: epochs only grow. [no fence]
- TC-3, at once: when COMMIT becomes durable, the effects of phase one of each branch that takes part are durable in their
  database. [decision without reports]
- TC-4, at once: no branch is registered after the decision.
- TC-5, at once: only the rows of finished transactions leave the store; at rest: every act of a person that was told to be done
  is in the audit.
- TC-8, at once: nothing is parked unless its participant asked for a person; at rest: everything has ended within 600
  seconds. [fence cleaned early]
- A-1, at rest: the effects of every branch are those of its decision: try and confirm, try and cancel, or none. Services that
  said yes to a transaction that was told to be committed have confirmed it. [decision without reports]
- AT-1, at once: a lock has one holder, from the durable registration to the durable settlement, or to the commit of changed rows;
  a lock is told to be free only if it was, between question and answer. [lock query answered from memory, no fence]
- AT-2, at once: a branch that the store says is settled has no undo record; at rest: no record is left, and the value of each
  row is what committed changes and outsiders made of it: no update is lost, none is dirty. [restored without a look, acknowledged
  and not forgotten, ended in the middle of a statement]
- AT-3, as TC-8: a rollback is parked only if an outsider has written over its rows; as AT-2: what he wrote is not overwritten.
  [restored in the wrong order, restored without a look]
- AT-7, at rest: no lock without an unfinished holder in any coordinator's memory; as AT-1: none is given back before rows are
  put back. [locks given back by the decision, locks never given back]
- T-1, at rest: no step of a branch takes effect twice; reserved and sold are what the effects say. [no guard]
- T-3, at rest: no try stands alone: one that came after its cancel had no effect. [no guard]
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from pathlib import Path

from txcoord_proto.status import Decision, GlobalStatus

from tests.simulation.business import FOREIGN
from tests.simulation.witness import Fact, Witness

Branch = tuple[str, int]


def violations(directory: Path, services: list[str], witness: Witness) -> list[str]:
    """Everything that is wrong, with its number in front; empty: all is well."""
    found = list(witness.violations)
    store = sqlite3.connect(directory / "store.db")
    for xid, status in store.execute("SELECT xid, status FROM txc_global"):
        if status not in (GlobalStatus.COMMITTED, GlobalStatus.ROLLED_BACK):
            found.append(f"TC-8: {xid} is {status} at rest")
    epochs = [epoch for (epoch,) in store.execute("SELECT epoch FROM txc_epoch ORDER BY rowid")]
    if epochs != sorted(set(epochs)):
        found.append(f"TC-2: epochs went back: {epochs}")
    audit = set(store.execute("SELECT xid, version, act FROM txc_audit"))
    found += [
        f"TC-5: {act} of {xid} at version {version} is not in the audit"
        for xid, version, act in witness.acts
        if (xid, version, act) not in audit
    ]
    store.close()
    confirmed: dict[str, set[str]] = defaultdict(set)
    for name in services:
        database = sqlite3.connect(directory / f"{name}.db")
        effects = _effects(name, database, found)
        for (xid, branch), kinds in effects.items():
            fact = witness.facts.get(xid, Fact())
            _follows(f"{name}: branch {branch} of {xid}", kinds, fact, found)
            if "confirm" in kinds:
                confirmed[xid].add(name)
        _states(name, database, effects, found)
        _balances(name, database, effects, found)
        for call, xid in _rows(name, database, witness, found):
            confirmed[xid].add(f"{name}:{call}")
        database.close()
    for xid, names in witness.committed.items():
        for name in names:
            if name not in confirmed[xid]:
                found.append(f"A-1: {xid} was told to be committed, and {name}, which had said yes, has not confirmed")
    return found


def _effects(name: str, database: sqlite3.Connection, found: list[str]) -> dict[Branch, set[str]]:
    """Steps that took effect, by branch."""
    effects: dict[Branch, set[str]] = defaultdict(set)
    for (xid, branch, kind), times in Counter(database.execute("SELECT xid, branch_id, kind FROM effect")).items():
        effects[xid, branch].add(kind)
        if times > 1:
            found.append(f"T-1: {name}: {kind} of branch {branch} of {xid} took effect {times} times")
    return effects


def _follows(branch: str, kinds: set[str], fact: Fact, found: list[str]) -> None:
    decision = fact.decision or Decision.ROLLBACK
    if kinds == {"try"}:
        found.append(f"T-3: {branch} ({decision}) has been tried and neither confirmed nor cancelled")
    elif kinds != {"try", "confirm" if decision == Decision.COMMIT else "cancel"}:
        found.append(f"A-1: {branch} had the effects {sorted(kinds)}, the decision is {decision}")


def _states(name: str, database: sqlite3.Connection, effects: dict[Branch, set[str]], found: list[str]) -> None:
    """Fence rows that are still kept say what has happened; a cancel that is repeated after its row was purged leaves a guard."""
    cancelled = {"try", "cancel"}
    may = {"CONFIRMED": [{"try", "confirm"}], "CANCELLED": [cancelled], "SUSPENDED": [set(), cancelled]}
    for xid, branch, state in database.execute("SELECT xid, branch_id, state FROM txcoord_fence"):
        have = effects.get((xid, branch), set())
        if have not in may.get(state, []):
            found.append(f"T-1: {name}: branch {branch} of {xid} is {state} and had the effects {sorted(have)}")


def _balances(name: str, database: sqlite3.Connection, effects: dict[Branch, set[str]], found: list[str]) -> None:
    sold = sum("confirm" in kinds for kinds in effects.values())
    have = database.execute("SELECT reserved, sold FROM account").fetchone()
    if have != (0, sold):
        found.append(f"T-1: {name}: {have[0]} reserved and {have[1]} sold at rest, {sold} branches were confirmed")


def _rows(name: str, database: sqlite3.Connection, witness: Witness, found: list[str]) -> list[tuple[int, str]]:
    """What AT has left: rows as committed transactions and outsiders made them, and no record; returns calls with their XIDs."""
    lines: list[tuple[int, str, str]] = database.execute("SELECT call, xid, item FROM ledger").fetchall()
    for _, xid, item in lines:
        if witness.facts.get(xid, Fact()).decision != Decision.COMMIT:
            found.append(f"AT-2: {name}: a line of {xid} on row {item} is left, which is not committed")
    over = Counter(item for (item,) in database.execute("SELECT item FROM overwritten WHERE taken_back = 0"))
    committed = Counter(item for _, _, item in lines)
    for item, value in database.execute("SELECT name, value FROM item"):
        if value != committed[item] + FOREIGN * over[item]:
            found.append(f"AT-2: {name}: row {item} is {value} after {committed[item]} changes, {over[item]} by outsiders")
    for xid, branch, state in database.execute("SELECT xid, branch_id, state FROM txcoord_undo_log"):
        decision = witness.facts.get(xid, Fact()).decision
        if state == "IMAGE" or decision == Decision.COMMIT:
            found.append(f"AT-2: {name}: a record {state} of branch {branch} of {xid} ({decision or 'unknown'}) is left at rest")
    return [(call, xid) for call, xid, _ in lines]
