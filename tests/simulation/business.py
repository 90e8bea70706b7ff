"""The services' business: an account that takes part by TCC, and rows that do by AT, in the real agent's way.

Steps of TCC leave a record of their effect in the local transaction that has it. A change of rows leaves a line in a ledger,
which is a captured table like any other, so that rows and ledger can be compared. Others, who do not know of global transactions,
write the same rows now and then.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from txcoord_rm.catalogue.facts import facts_on
from txcoord_rm.undo import operator
from txcoord_rm.undo.log import metadata
from txcoord_sdk import schema
from txcoord_sdk.tcc.branch import TccBranch, current_branch

ROWS = ("a", "b", "c")
FOREIGN = 1_000
"""What somebody else adds to a row."""
_BUSINESS = (
    "PRAGMA journal_mode = WAL",
    "CREATE TABLE effect (xid TEXT, branch_id INTEGER, kind TEXT)",
    "CREATE TABLE account (reserved INTEGER, sold INTEGER)",
    "INSERT INTO account VALUES (0, 0)",
    "CREATE TABLE item (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL, colour TEXT NOT NULL)",
    "INSERT INTO item VALUES " + ", ".join(f"('{name}', 0, 'colour of {name}')" for name in ROWS),
    "CREATE TABLE ledger (number INTEGER PRIMARY KEY, call INTEGER NOT NULL, xid TEXT NOT NULL, item TEXT NOT NULL)",
    "CREATE TABLE overwritten (item TEXT, xids TEXT, taken_back INTEGER)",
)
_EFFECT = text("INSERT INTO effect VALUES (:x, :b, :k)")
_ACCOUNT = text("UPDATE account SET reserved = reserved + :r, sold = sold + :s")
_BY_KEY = text("UPDATE item SET value = value + :v WHERE name = :i")
_BY_COLOUR = text("UPDATE item SET value = value + :v WHERE colour = 'colour of ' || :i")
_LINE = text("INSERT INTO ledger VALUES (:n, :c, :x, :i)")
_TAKEN_BACK = text("UPDATE overwritten SET taken_back = 1 WHERE rowid = :r")
_STEPS = ((1,), (1,), (1, 1, -1), (2, -1))
"""By which a row gets one more: also such that it has a value more than once."""
_UNFINISHED = (
    "SELECT DISTINCT l.xid FROM ledger AS l JOIN txcoord_undo_log AS u ON u.xid = l.xid "
    "WHERE l.item = ? AND u.state = 'IMAGE' ORDER BY l.xid"
)


def make_business_database(path: Path, identity: str) -> None:
    """A service's database with our tables and its own, and an identity that is the same in every run."""
    raw = sqlite3.connect(path)
    for statement in _BUSINESS:
        raw.execute(statement)
    raw.commit()
    raw.close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        schema.metadata.create_all(connection)
        metadata.create_all(connection)
        connection.execute(schema.database.insert().values(one=1, id=identity))
    engine.dispose()


def this_branch() -> TccBranch:
    """The branch whose step is running."""
    branch = current_branch()
    assert branch is not None
    return branch


async def effect(connection: AsyncConnection, kind: str, reserved: int = 0, sold: int = 0) -> None:
    """An effect of the running step of a branch, which no step has twice."""
    branch = this_branch()
    await connection.execute(_EFFECT, {"x": branch.xid, "b": branch.branch_id, "k": kind})
    await connection.execute(_ACCOUNT, {"r": reserved, "s": sold})


class Rows:
    """How a service changes its rows.

    Args:
        chance: For the ways.
        numbers: Of lines in ledgers.
    """

    def __init__(self, chance: random.Random, numbers: Iterator[int]) -> None:
        self._chance = chance
        self._numbers = numbers

    async def change(self, engine: AsyncEngine, xid: str, call: int, items: list[str]) -> None:
        """Add one to some rows, in one local transaction or in one for each.

        Args:
            engine: Enrolled.
            xid: The global transaction in which this runs.
            call: For which call of an order.
            items: Rows.
        """
        for some in [items] if self._chance.random() < 0.5 else [[item] for item in items]:
            async with engine.begin() as connection:
                await self._change(connection, xid, call, some)

    async def _change(self, connection: AsyncConnection, xid: str, call: int, items: list[str]) -> None:
        for item in items:
            statement = self._chance.choice((_BY_KEY, _BY_KEY, _BY_COLOUR))
            for step in self._chance.choice(_STEPS):
                await connection.execute(statement, {"v": step, "i": item})
            await connection.execute(_LINE, {"n": next(self._numbers), "c": call, "x": xid, "i": item})


class Outsiders:
    """Those who write rows and know nothing of global transactions, and the person who repairs what that leads to.

    Args:
        chance: Whose turn it is.
        databases: Files by service.
    """

    def __init__(self, chance: random.Random, databases: dict[str, Path]) -> None:
        self._chance = chance
        self._databases = databases

    def write(self) -> list[str]:
        """Write some row; gives the XIDs whose changes of that row are overwritten, and may yet have to be taken back."""
        name, item = self._chance.choice(sorted(self._databases)), self._chance.choice(ROWS)
        with closing(sqlite3.connect(self._databases[name], timeout=0, isolation_level=None)) as raw:
            try:
                raw.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return []  # another time
            xids = [xid for (xid,) in raw.execute(_UNFINISHED, (item,))]
            raw.execute("UPDATE item SET value = value + ? WHERE name = ?", (FOREIGN, item))
            raw.execute("INSERT INTO overwritten VALUES (?, ?, 0)", (item, json.dumps(xids)))
            raw.execute("COMMIT")
        return xids

    def repair(self, xid: str) -> None:
        """Make way for the rollback of a parked transaction: take back what was written over its rows, or restore by force."""
        for path in self._databases.values():
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as raw:
                over = raw.execute(
                    "SELECT rowid, item FROM overwritten WHERE taken_back = 0 AND instr(xids, ?)", (json.dumps(xid),)
                )
                rows = over.fetchall()
            engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
            try:
                with engine.begin() as connection:
                    self._repair(connection, xid, rows)
            except OperationalError:
                pass  # somebody writes: another time
            finally:
                engine.dispose()

    def _repair(self, connection: Connection, xid: str, over: list[tuple[int, str]]) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        if self._chance.random() < 0.5:
            for _, item in over:
                connection.execute(_BY_KEY, {"v": -FOREIGN, "i": item})
        else:
            assert not operator.force(connection, xid, facts_on(connection)), "rows can always be put back by force"
        for row, _ in over:
            connection.execute(_TAKEN_BACK, {"r": row})
