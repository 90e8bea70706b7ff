"""What has to hold in an offices' world that is quiet, asked of its databases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Engine, inspect

from tests.chaos.invariants import open_branches, rows, unfinished
from tests.chaos.tables import ACCOUNTS, BALANCE, VAULT

_SHOWN = 5
Line = tuple[str, int, str, int, int]
"""Office, number, XID, account (0: the vault), amount."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One side of a transfer: at which office, how (a method of `Office`), which account, and whether it fails on purpose."""

    office: str
    how: str
    account: int
    amount: int
    fails: bool = False


@dataclass(slots=True)
class Transfer:
    """What was ordered, and what is known of it.

    Attributes:
        told: COMMIT, ROLLBACK, or the error that says that it is not known.
        why: What ended it, where that was no commit.
    """

    number: int
    legs: tuple[Leg, Leg]
    abandon: bool
    xid: str = ""
    told: str = ""
    why: str = field(default="")

    def lines(self) -> set[Line]:
        """What it leaves in the ledgers if it is committed."""
        vault = {"vault": 0}
        return {(leg.office, self.number, self.xid, vault.get(leg.how, leg.account), leg.amount) for leg in self.legs}


def check(store: Engine, offices: Mapping[str, Engine], transfers: Iterable[Transfer]) -> None:
    """Raise unless all is well.

    Args:
        store: The coordinator's.
        offices: Their databases by name.
        transfers: All there ever were.
    """
    assert unfinished(store) == 0
    open_still = open_branches(store, savepoints=True)
    assert open_still == [], [_story(store, transfer) for transfer in transfers if transfer.xid in open_still]
    decided = dict(rows(store, "SELECT xid, decision FROM txc_global WHERE name = 'transfer'"))
    wanted: set[Line] = set()
    by_number = {transfer.number: transfer for transfer in transfers}
    for transfer in by_number.values():
        assert "500" not in transfer.why[:20], f"an error that nobody expects: {transfer}"
        outcome = decided.get(transfer.xid, "ROLLBACK")
        if transfer.told in ("COMMIT", "ROLLBACK") and transfer.xid:
            assert outcome == transfer.told, f"told {transfer.told}, decided {outcome}: {_story(store, transfer)}"
        if outcome == "COMMIT":
            assert not transfer.abandon
            assert not any(leg.fails for leg in transfer.legs)
            wanted |= transfer.lines()
    found = {line for name, engine in offices.items() for line in _lines(name, engine)}
    for what, difference in (("missing", wanted - found), ("left", found - wanted)):
        stories = [_story(store, by_number[line[1]]) for line in sorted(difference)[:_SHOWN]]
        assert not difference, f"{len(difference)} lines are {what}: {sorted(difference)[:_SHOWN]}, {stories}"
    for name, engine in offices.items():
        _check_office(name, engine, [line for line in found if line[0] == name])
    money = sum(rows(engine, "SELECT sum(balance) FROM account")[0][0] for engine in offices.values())
    vaults = sum(rows(engine, "SELECT sum(balance) FROM vault")[0][0] for engine in offices.values())
    assert money + vaults == len(offices) * (ACCOUNTS * BALANCE + VAULT), "money is lost or made"


def _lines(name: str, engine: Engine) -> list[Line]:
    return [(name, *row) for row in rows(engine, "SELECT number, xid, account, amount FROM ledger")]


def _check_office(name: str, engine: Engine, lines: list[Line]) -> None:
    """Nothing is left over, and each account holds what its ledger says."""
    assert _prepared(engine) == [], f"{name}: still prepared"
    if inspect(engine).has_table("txcoord_undo_log"):
        assert rows(engine, "SELECT xid, branch_id, seq FROM txcoord_undo_log WHERE state = 'IMAGE'") == [], name
    tried = rows(engine, "SELECT xid, resource FROM txcoord_fence WHERE state = 'TRIED'")
    by_xa = {xid for xid, resource in tried if resource.startswith("db@")}  # which stay so when they are committed
    assert [row for row in tried if row[0] not in by_xa] == [], name
    assert by_xa <= {xid for _, _, xid, _, _ in lines}, f"{name}: fence rows of XA that is not committed"
    wanted = {0: VAULT} | dict.fromkeys(range(1, ACCOUNTS + 1), BALANCE)
    for _, _, _, account, amount in lines:
        wanted[account] += amount
    assert dict(rows(engine, "SELECT id, balance FROM account")) | {0: _vault(name, engine)} == wanted, name
    assert min(wanted.values()) >= 0, f"{name}: an account is below 0"


def _prepared(engine: Engine) -> list[str]:
    """Prepared transactions of a database; those of others are on the same server."""
    if engine.dialect.name == "sqlite":
        return []
    if engine.dialect.name == "postgresql":
        return [gid for (gid,) in rows(engine, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")]
    ((identity,),) = rows(engine, "SELECT id FROM txcoord_database")
    return [data for *_, data in rows(engine, "XA RECOVER") if identity in str(data)]


def _vault(name: str, engine: Engine) -> int:
    ((balance, pending),) = rows(engine, "SELECT balance, pending FROM vault")
    assert pending == 0, name
    return int(balance)


def _story(store: Engine, transfer: Transfer) -> str:
    """A transfer, and what the store says of it and of its branches."""
    of = f"WHERE xid = '{transfer.xid}' ORDER BY 1"
    transactions = rows(store, f"SELECT status, decision, reason, begun_at, decided_at, settled_at FROM txc_global {of}")
    branches = rows(store, f"SELECT id, type, resource, status, attempts, error FROM txc_branch {of}")
    return f"{transfer} {transactions} {branches}"
