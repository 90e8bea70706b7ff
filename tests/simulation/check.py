"""What must hold when a simulation has come to rest, read from the databases alone."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

from tests.simulation.world import History


def violations(directory: Path, history: History) -> list[str]:
    """Everything that is wrong; empty: all is well."""
    found = list(history.violations)
    store = sqlite3.connect(directory / "store.db")
    rows = {xid: (status, decision) for xid, status, decision in store.execute("SELECT xid, status, decision FROM txc_global")}
    found += _told(history, rows)
    found += [f"{xid} is {status} at rest" for xid, (status, _) in rows.items() if status not in ("COMMITTED", "ROLLED_BACK")]
    epochs = [epoch for (epoch,) in store.execute("SELECT epoch FROM txc_epoch ORDER BY started_at, epoch")]
    if epochs != sorted(set(epochs)):
        found.append(f"epochs went back: {epochs}")
    branches = {(x, b): s for x, b, s in store.execute("SELECT xid, id, status FROM txc_branch")}
    store.close()
    confirmed: dict[str, Counter[str]] = {}
    for name in ("stock", "balance"):
        database = sqlite3.connect(directory / f"{name}.db")
        fences = database.execute("SELECT xid, branch_id, state FROM txcoord_fence").fetchall()
        found += _atomic(name, fences, rows, branches)
        found += _effects(name, database, fences)
        for xid, _, state in fences:
            if state == "CONFIRMED":
                confirmed.setdefault(xid, Counter())[name] += 1
        database.close()
    for xid, names in history.committed.items():
        for name in names:
            if not confirmed.get(xid, Counter())[name]:
                found.append(f"{xid} was told to be committed, and {name}, which had said yes, has not confirmed")
    return found


def _told(history: History, rows: dict[str, tuple[str, str | None]]) -> list[str]:
    found = []
    for xid in history.committed:
        if rows.get(xid, ("", None))[1] != "COMMIT":
            found.append(f"{xid} was told to be committed, the store says {rows.get(xid)}")
    for xid in history.rolled_back:
        if rows.get(xid, ("", "ROLLBACK"))[1] != "ROLLBACK":
            found.append(f"{xid} was told to be rolled back, the store says {rows[xid]}")
    return found


def _atomic(
    name: str,
    fences: list[tuple[str, int, str]],
    rows: dict[str, tuple[str, str | None]],
    branches: dict[tuple[str, int], str],
) -> list[str]:
    found = []
    for xid, branch, state in fences:
        decision = rows.get(xid, ("", "ROLLBACK"))[1]
        if state == "TRIED":
            found.append(
                f"{name}: branch {branch} of {xid} ({decision}) is TRIED at rest, the store says {branches.get((xid, branch))}"
            )
        elif (state == "CONFIRMED") != (decision == "COMMIT"):
            found.append(f"{name}: branch {branch} of {xid} is {state}, the decision is {decision}")
    return found


def _effects(name: str, database: sqlite3.Connection, fences: list[tuple[str, int, str]]) -> list[str]:
    found = []
    counts = Counter(database.execute("SELECT xid, branch_id, kind FROM effect"))
    found += [f"{name}: {effect} took effect {n} times" for effect, n in counts.items() if n > 1]
    wanted = {"CONFIRMED": {"try", "confirm"}, "CANCELLED": {"try", "cancel"}, "SUSPENDED": set()}
    states = {(xid, branch): state for xid, branch, state in fences}
    kinds: dict[tuple[str, int], set[str]] = {}
    for xid, branch, kind in counts:
        kinds.setdefault((xid, branch), set()).add(kind)
    for key in kinds.keys() | states.keys():
        have, state = kinds.get(key, set()), states.get(key, "no row")
        if state != "TRIED" and have != wanted.get(state):
            found.append(f"{name}: branch {key} is {state} and had the effects {sorted(have)}")
    reserved, sold = database.execute("SELECT reserved, sold FROM account").fetchone()
    if (reserved, sold) != (0, sum(s == "CONFIRMED" for s in states.values())):
        found.append(f"{name}: {reserved} reserved and {sold} sold at rest")
    return found
