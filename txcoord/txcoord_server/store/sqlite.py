"""SQLite: WAL, synchronous=FULL; BEGIN IMMEDIATE orders the writers, an flock beside the file is the session lock."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from functools import cache
from typing import Any, ClassVar

from sqlalchemy import Connection, Engine, text
from txcoord_proto.errors import StoreUnavailableError
from txcoord_proto.failpoints import Mode, durable, passes
from typing_extensions import override

from txcoord_server.domain.effects import StoredOutcome
from txcoord_server.engine.storage import (
    AUDIT,
    CHANGED_BRANCH,
    CHANGED_GLOBAL,
    NEW_BRANCH,
    NEW_GLOBAL,
    FencedError,
    GroupWrite,
    Row,
    UnknownCommitError,
)
from txcoord_server.store import sql
from txcoord_server.store.dialect import Dialect
from txcoord_server.store.filesystem import network_filesystem

_FENCE = (
    "UPDATE txc_group SET commit_seq = ?, branch_ids = ?, locked = ?, "
    "renewed_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) WHERE name = ? AND epoch = ? AND commit_seq = ?"
)
_BUSY_SECONDS = 2.0


def _marks(columns: int, rows: int) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return ",".join([row] * rows)


@cache
def _insert(table: str, columns: tuple[str, ...], rows: int) -> str:
    return f"INSERT INTO {table} ({','.join(columns)}) VALUES {_marks(len(columns), rows)}"


@cache
def _update(table: str, keys: tuple[str, ...], columns: tuple[str, ...], rows: int) -> str:
    """One UPDATE for many rows: each row of VALUES holds first the keys, then the new values."""
    sets = ", ".join(f"{c} = v.column{len(keys) + i + 1}" for i, c in enumerate(columns))
    on = " AND ".join(f"t.{k} = v.column{i + 1}" for i, k in enumerate(keys))
    values = _marks(len(keys) + len(columns), rows)
    return f"UPDATE {table} AS t SET {sets} FROM (VALUES {values}) AS v WHERE {on}"


def _flat(rows: Any) -> list[Any]:
    return [value for row in rows for value in row]


class SqliteDialect(Dialect):
    """See the module."""

    embedded: ClassVar[bool] = True
    batch_cap: ClassVar[int] = 128

    def __init__(self, group: str, path: str) -> None:
        super().__init__(group)
        self._path = path
        self._lock_file: int | None = None

    @override
    def risks(self, connection: Connection) -> list[str]:
        found = []
        if kind := network_filesystem(self._path):
            found.append(
                f"{self._path} is on a network filesystem ({kind}): put it on a local disk, or use PostgreSQL or MariaDB"
            )
        mode = connection.scalar(text("PRAGMA journal_mode"))
        if mode != "wal" and connection.scalar(text("PRAGMA journal_mode=WAL")) != "wal":
            found.append(f"SQLite cannot use WAL for {self._path}: put it on a local disk")
        return found

    @override
    def connect(self, engine: Engine) -> sqlite3.Connection:
        try:
            raw = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=512
            )
            raw.execute("PRAGMA synchronous = FULL")
            raw.execute("PRAGMA cache_size = -8192")  # KiB: writes are at the end of the tables, reads are another's
            return raw
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"cannot open {self._path}: {error}") from error

    @override
    def close(self, raw: sqlite3.Connection) -> None:
        raw.close()
        self.unlock(raw)

    @override
    def usable(self, raw: sqlite3.Connection) -> bool:
        return not raw.in_transaction

    @override
    def busy(self, error: BaseException | None) -> bool:
        return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY

    @override
    @durable("store.commit", UnknownCommitError)
    def write(self, raw: sqlite3.Connection, write: GroupWrite, locked: bool) -> dict[str, StoredOutcome]:
        try:
            raw.execute("BEGIN IMMEDIATE")
            found = self._statements(raw, write, locked)
        except BaseException as error:
            _undo(raw)
            if isinstance(error, (sqlite3.IntegrityError, sqlite3.DataError, OverflowError)):
                raise UnknownCommitError(f"SQLite refuses these rows, reloading without them: {error}") from error
            if isinstance(error, sqlite3.Error):
                raise StoreUnavailableError(f"SQLite cannot write to {self._path}: {error}") from error
            raise
        try:
            raw.execute("COMMIT")
        except sqlite3.Error as error:
            if raw.in_transaction and _undo(raw):
                raise StoreUnavailableError(f"SQLite cannot commit to {self._path}: {error}") from error
            raise UnknownCommitError(f"SQLite failed within COMMIT: {error}") from error
        return found

    @passes(Mode.IN)
    def _statements(self, raw: sqlite3.Connection, write: GroupWrite, locked: bool) -> dict[str, StoredOutcome]:
        fence = (write.commit_seq, write.branch_ids, locked, self.group, write.epoch, write.commit_seq - 1)
        if raw.execute(_FENCE, fence).rowcount != 1:
            raise FencedError(f"epoch {write.epoch} no longer leads group {self.group}")
        self._insert(raw, "txc_global", NEW_GLOBAL, write.new_globals)
        self._insert(raw, "txc_branch", NEW_BRANCH, write.new_branches)
        self._update(raw, "txc_global", ("xid", "status"), CHANGED_GLOBAL, write.changed_globals)
        self._update(raw, "txc_branch", ("xid", "id"), CHANGED_BRANCH, write.changed_branches)
        if write.audit:
            self._insert(raw, "txc_audit", AUDIT, write.audit)
        for range in write.purge_ranges:
            for statement in sql.purge(range):
                raw.execute(statement.format("?1", "?2", range.settled_before), (range.first, range.last))
        for xids in sql.chunks(write.purge_xids):
            for table in ("txc_global", "txc_branch"):
                raw.execute(f"DELETE FROM {table} WHERE xid IN {_marks(len(xids), 1)}", xids)
        for epoch, sequence in write.purged.items():
            raw.execute(sql.PURGED.format("?1", "?2", "?3"), (sequence, self.group, epoch))
        rows: list[Row] = []
        for xids in sql.chunks(write.asked):
            rows += raw.execute(sql.OUTCOME.format(",".join("?" * len(xids))), xids)
        return sql.outcomes(rows)

    @staticmethod
    def _insert(raw: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: list[Row]) -> None:
        for chunk in sql.chunks(rows):
            raw.execute(_insert(table, columns, len(chunk)), _flat(chunk))

    @staticmethod
    def _update(raw: sqlite3.Connection, table: str, keys: tuple[str, ...], columns: tuple[str, ...], rows: list[Row]) -> None:
        for chunk in sql.chunks(rows):
            changed = raw.execute(_update(table, keys, columns, len(chunk)), _flat(chunk)).rowcount
            if changed != len(chunk):
                raise UnknownCommitError(f"{changed} of {len(chunk)} rows of {table} were as expected: reloading")

    @override
    def try_lock(self, raw: sqlite3.Connection) -> bool:
        if self._lock_file is not None:
            return True
        handle = os.open(f"{self._path}.leader", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._lock_file = handle
        return True

    @override
    def unlock(self, raw: sqlite3.Connection) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None


def _undo(raw: sqlite3.Connection) -> bool:
    """Roll back; True when that is certain."""
    try:
        if raw.in_transaction:
            raw.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return not raw.in_transaction
