"""What has to hold in a quiet world, asked of its databases."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, text

ACTIONS = frozenset({"withdraw", "deposit", "advise"})
_FENCE_SAYS = {"CONFIRMED": "COMMIT", "CANCELLED": "ROLLBACK", "SUSPENDED": "ROLLBACK"}


def unfinished(store: Engine) -> int:
    """Transactions that have not ended."""
    return int(rows(store, "SELECT count(*) FROM txc_global WHERE status NOT IN ('COMMITTED', 'ROLLED_BACK')")[0][0])


def decision(store: Engine, xid: str) -> str:
    """What is decided of one; empty: nothing yet."""
    found = rows(store, f"SELECT decision FROM txc_global WHERE xid = '{xid}'")
    return str(found[0][0] or "") if found else ""


def check(store: Engine, banks: Mapping[str, Engine], capital: int, told: Mapping[str, str], decided: dict[str, str]) -> None:
    """Raise unless all is well.

    Args:
        store: The coordinator's.
        banks: Their databases by name.
        capital: All the money there is.
        told: What initiators were told, by XID.
        decided: What the store has said so far, by XID; the store forgets old commits, this does not.
    """
    assert unfinished(store) == 0
    for xid, outcome in rows(store, "SELECT xid, decision FROM txc_global WHERE name = 'transfer'"):
        assert decided.setdefault(xid, outcome) == outcome, f"{xid} was decided to {decided[xid]} and is {outcome} now"
    for xid, what in told.items():
        if what == "COMMIT":
            assert decided.get(xid) == "COMMIT", f"{xid} was told to be committed and is {decided.get(xid)}"
        elif what == "ROLLBACK":
            assert decided.get(xid) != "COMMIT", f"{xid} was told to be rolled back and is committed"
    assert open_branches(store) == []
    money = [row for engine in banks.values() for row in rows(engine, "SELECT balance, pending FROM account")]
    assert [pending for _, pending in money] == [0] * len(banks), "money is left pending"
    assert sum(balance for balance, _ in money) == capital, "money is lost or made"
    confirmed: dict[str, set[str]] = defaultdict(set)
    for name, engine in banks.items():
        for xid, action in _check_bank(name, engine, decided):
            confirmed[xid].add(action)
    for xid, outcome in decided.items():
        wanted = ACTIONS if outcome == "COMMIT" else set()
        assert confirmed[xid] == wanted, f"{xid} is {outcome}, and of it were confirmed {sorted(confirmed[xid])}"


def open_branches(store: Engine, savepoints: bool = False) -> list[str]:
    """Branches of committed transactions that were not done, of rolled back ones not settled.

    Args:
        store: The coordinator's.
        savepoints: Whether a branch of a committed one may have failed: that of a savepoint which was rolled back.
    """
    failed = "b.status = 'FAILED'" if savepoints else "b.status = 'FAILED' AND t.decision = 'ROLLBACK'"
    query = (
        "SELECT b.xid, b.id, t.settled_branches FROM txc_branch b JOIN txc_global t ON t.xid = b.xid "
        f"WHERE b.status <> 'SETTLED' AND NOT ({failed})"
    )
    return [xid for xid, id, settled in rows(store, query) if id not in {told[0] for told in json.loads(settled or "[]")}]


def _check_bank(name: str, engine: Engine, decided: Mapping[str, str]) -> list[tuple[str, str]]:
    """Fence rows and effects of one bank; returns what was confirmed there: XID and action."""
    for xid, branch_id, state in rows(engine, "SELECT xid, branch_id, state FROM txcoord_fence"):
        assert state in _FENCE_SAYS, f"{name}: branch {branch_id} of {xid} is left {state}"
        assert decided.get(xid, "ROLLBACK") == _FENCE_SAYS[state], f"{name}: branch {branch_id} of {xid} is {state}"
    steps: dict[tuple[str, int, str], Counter[str]] = defaultdict(Counter)
    for xid, branch_id, action, step in rows(engine, "SELECT xid, branch_id, action, step FROM entry"):
        steps[xid, branch_id, action][step] += 1
    confirmed = []
    for (xid, branch_id, action), seen in steps.items():
        tries = 0 if action == "advise" else 1
        if decided.get(xid) == "COMMIT":
            wanted = Counter({"try": tries, "confirm": 1})
            confirmed.append((xid, action))
        else:
            wanted = Counter({"try": tries, "cancel": 1})
        assert seen == +wanted, f"{name}: {action} of {xid}, branch {branch_id}, {decided.get(xid)}: {dict(seen)}"
    return confirmed


def rows(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    """What a query finds."""
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]
