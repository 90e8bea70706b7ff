"""The services' business: an account, three rows, and a record of every effect, written in the local transaction that has it.

Rows are changed as the AT agent does it, which is not part of the SDK: global locks and an undo record in miniature, around the
real fence and enlistment.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.ext.asyncio import AsyncConnection
from txcoord_proto.status import BranchType, PhaseOne
from txcoord_sdk import schema
from txcoord_sdk.database import Database
from txcoord_sdk.fence import fence
from txcoord_sdk.fence.retention import boot_time
from txcoord_sdk.local_transaction import enlist
from txcoord_sdk.participant import BranchCommand, Command
from txcoord_sdk.session.requests import Registration
from txcoord_sdk.tcc.branch import TccBranch, current_branch
from txcoord_sdk.tcc.enlistment import BranchEnlistment
from txcoord_sdk.transaction.transaction import GlobalTransaction

ROWS = ("a", "b", "c")
_BUSINESS = (
    "PRAGMA journal_mode = WAL",
    "CREATE TABLE effect (xid TEXT, branch_id INTEGER, kind TEXT, item TEXT)",
    "CREATE TABLE account (reserved INTEGER, sold INTEGER)",
    "INSERT INTO account VALUES (0, 0)",
    "CREATE TABLE item (name TEXT PRIMARY KEY, value INTEGER)",
    f"INSERT INTO item VALUES {', '.join(f'({name!r}, 0)' for name in ROWS)}",
    "CREATE TABLE undo (xid TEXT, branch_id INTEGER, item TEXT, before INTEGER)",
)
_EFFECT = text("INSERT INTO effect VALUES (:x, :b, :k, :i)")
_ACCOUNT = text("UPDATE account SET reserved = reserved + :r, sold = sold + :s")
_ITEM = text("SELECT value FROM item WHERE name = :i")
_CHANGE = text("UPDATE item SET value = :v WHERE name = :i")
_KEEP = text("INSERT INTO undo VALUES (:x, :b, :i, :v)")
_UNDO = text("SELECT branch_id, item, before FROM undo WHERE xid = :x ORDER BY rowid DESC")
_FORGET = text("DELETE FROM undo WHERE xid = :x AND branch_id = :b")
_BACK = text("UPDATE item SET value = :v WHERE name = :i AND value = :v + 1")


def make_business_database(path: Path, identity: str) -> None:
    """A service's database with the SDK's tables and its own, and an identity that is the same in every run."""
    raw = sqlite3.connect(path)
    for statement in _BUSINESS:
        raw.execute(statement)
    raw.commit()
    raw.close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        schema.metadata.create_all(connection)
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
    await connection.execute(_EFFECT, {"x": branch.xid, "b": branch.branch_id, "k": kind, "i": ""})
    await connection.execute(_ACCOUNT, {"r": reserved, "s": sold})


async def change_rows(database: Database, transaction: GlobalTransaction, resource: str, items: list[str], wait: float) -> None:
    """Add one to some rows, as the AT agent does: register with their locks, then change them and keep what was before.

    Args:
        database: Where they are.
        transaction: In whose name.
        resource: Of the rows.
        items: Which.
        wait: Seconds to wait for their locks.
    """
    too_old = boot_time() + database.fence_retention / 2
    registration = Registration(BranchType.AT, resource, tuple(items), json.dumps(items).encode(), wait)
    branch = TccBranch(transaction.known_xid, await transaction.aregister(registration), resource)
    enlisted: list[BranchEnlistment] = []

    def work(connection: Connection) -> None:
        fence.tried(connection, branch.xid, branch.branch_id, branch.resource)
        enlistment = BranchEnlistment(transaction, branch, connection, True, too_old)
        enlist(connection, enlistment)
        enlisted.append(enlistment)
        for item in items:
            before = connection.execute(_ITEM, {"i": item}).scalar_one()
            connection.execute(_KEEP, {"x": branch.xid, "b": branch.branch_id, "i": item, "v": before})
            connection.execute(_CHANGE, {"i": item, "v": before + 1})
            connection.execute(_EFFECT, {"x": branch.xid, "b": branch.branch_id, "k": "try", "i": item})

    try:
        await database.arun(work)
    except BaseException as error:
        if enlisted:
            enlisted[0].failure = error
        else:
            transaction.report(branch.branch_id, PhaseOne.FAILED, repr(error))
        raise


class RowsParticipant:
    """The second phase of changed rows: what was before is forgotten, or put back where nobody has changed it since.

    Args:
        database: Where they are.
        stumble: Given the XID, raises now and then.
        wrong: Told where somebody else has changed a row meanwhile.
    """

    def __init__(self, database: Database, stumble: Callable[[str], None], wrong: Callable[[str], None]) -> None:
        self.database = database
        self._stumble = stumble
        self._wrong = wrong

    def is_async(self, command: Command) -> bool:
        """See `txcoord_sdk.participant.Participant.is_async`."""
        return True

    async def settle(self, command: Command, branch: BranchCommand) -> None:
        """See `txcoord_sdk.participant.Participant.settle`."""
        await self.database.arun(lambda connection: self._settle(connection, command, branch.branch_id))

    def _settle(self, connection: Connection, command: Command, branch: int) -> None:
        if command.commit:
            self._forget(connection, command.xid, branch)
        else:
            self._put_back(connection, command)
        self._stumble(command.xid)

    @staticmethod
    def _forget(connection: Connection, xid: str, branch: int) -> None:
        if fence.confirmed(connection, xid, branch):
            connection.execute(_FORGET, {"x": xid, "b": branch})
            connection.execute(_EFFECT, {"x": xid, "b": branch, "k": "confirm", "i": ""})

    def _put_back(self, connection: Connection, command: Command) -> None:
        """All branches of the transaction in one local transaction, the newest change first."""
        xid = command.xid
        for commanded in command.branches:  # before anything is read: a try may be under way
            self._cancel(connection, command, commanded.branch_id)
        changes = connection.execute(_UNDO, {"x": xid}).all()
        for other in dict.fromkeys(branch for branch, _, _ in changes):
            self._cancel(connection, command, other)
        for branch, item, before in changes:
            if connection.execute(_BACK, {"i": item, "v": before}).rowcount != 1:
                self._wrong(f"AT-3: {item} was changed by others before {xid} ended")
            connection.execute(_FORGET, {"x": xid, "b": branch})

    @staticmethod
    def _cancel(connection: Connection, command: Command, branch: int) -> None:
        if fence.cancelled(connection, command.xid, branch, command.resource):
            connection.execute(_EFFECT, {"x": command.xid, "b": branch, "k": "cancel", "i": ""})
