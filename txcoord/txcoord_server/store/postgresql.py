"""PostgreSQL: a group commit is one pipeline, one round trip, one statement per kind of row with arrays as columns.

What is sent up to the pipeline's end is one transaction of the server's: BEGIN and COMMIT need no messages, and the whole group
is on its way before the first answer is back. So the fence must not only be counted but must fail: a statement that finds no row
divides by zero, everything after it is refused, and nothing stays. A warning at COMMIT (a wait for synchronous standbys that was
cancelled) counts as unknown. It is sent and awaited in the engine's loop: hand-overs to a thread and back, and waiting for the
interpreter's lock there, cost a tenth of a transaction's latency.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import psycopg
from psycopg import errors
from sqlalchemy import BigInteger, Connection, Engine, Integer, LargeBinary, SmallInteger, Table, text
from txcoord_proto.errors import StoreError, StoreUnavailableError
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
from txcoord_server.store import schema, sql
from txcoord_server.store.arrays import array, parameter
from txcoord_server.store.dialect import Dialect
from txcoord_server.store.pipeline import Parameters, Pipeline, rows

T = TypeVar("T")

ANSWER_SECONDS = 10.0
_CONNECT = {
    "connect_timeout": 3, "keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 2, "tcp_user_timeout": 2000,
}  # fmt: skip
_TYPES: tuple[tuple[type, str], ...] = (
    (BigInteger, "int8"),
    (SmallInteger, "int2"),
    (Integer, "int4"),
    (LargeBinary, "bytea"),
)

_PLANS = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
"""A group commit finds its rows by their keys. Plans that were made while the tables were empty, and are kept, would read through
them however large they grow, until the next ANALYZE."""

_FENCE = """WITH fence AS (
    UPDATE txc_group SET commit_seq = $1, branch_ids = $2, locked = $3,
    renewed_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS int8)
    WHERE name = $4 AND epoch = $5 AND commit_seq = $6 RETURNING 1
) SELECT 1 / count(*) FROM fence"""
_OUTCOME = sql.OUTCOME.replace("IN ({})", "= ANY($1)")
_PURGED = sql.PURGED.format("$1", "$2", "$3")


def _arrays(table: Table, columns: tuple[str, ...]) -> str:
    """Placeholders of arrays, one a column."""
    kinds = (next((name for kind, name in _TYPES if isinstance(table.c[c].type, kind)), "text") for c in columns)
    return ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(kinds, start=1))


def _insert(table: Table, columns: tuple[str, ...]) -> str:
    return f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT * FROM unnest({_arrays(table, columns)})"


def _update(table: Table, keys: tuple[str, ...], columns: tuple[str, ...]) -> str:
    """One UPDATE for many rows, which fails unless it changes exactly as many as it is told."""
    names = [f"v{i}" for i in range(len(keys) + len(columns))]
    sets = ", ".join(f"{c} = v.{name}" for c, name in zip(columns, names[len(keys) :], strict=True))
    on = " AND ".join(f"t.{k} = v.{name}" for k, name in zip(keys, names, strict=False))
    source = f"unnest({_arrays(table, (*keys, *columns))}) AS v({', '.join(names)})"
    changed = f"UPDATE {table.name} AS t SET {sets} FROM {source} WHERE {on} RETURNING 1"
    return f"WITH changed AS ({changed}) SELECT sqrt(-abs(count(*) - ${len(names) + 1}::int8)) FROM changed"


_STATEMENTS = {
    "new_globals": _insert(schema.transaction, NEW_GLOBAL),
    "new_branches": _insert(schema.branch, NEW_BRANCH),
    "changed_globals": _update(schema.transaction, ("xid", "status"), CHANGED_GLOBAL),
    "changed_branches": _update(schema.branch, ("xid", "id"), CHANGED_BRANCH),
    "audit": _insert(schema.audit, AUDIT),
}
_REFUSED = ("22", "23")  # data exceptions and violated constraints: the same rows are refused for ever
_COUNTED = frozenset({"changed_globals", "changed_branches"})


def _limited(connection: psycopg.BaseConnection[Any], gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
    """What `gen` does, unless its server stands still: raises OperationalError and closes when the time is over."""
    until = time.monotonic() + ANSWER_SECONDS
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > until:
                connection.pgconn.finish()
                raise psycopg.OperationalError(f"PostgreSQL has not answered for {ANSWER_SECONDS} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


class LimitedConnection(psycopg.Connection[Any]):
    """A connection whose server has to answer within a time: one that stands still would hold us for ever."""

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """See `psycopg.Connection`."""
        return super().wait(_limited(self, gen), *args, **kwargs)


class CommitConnection(psycopg.AsyncConnection[Any]):
    """The same in the event loop, for group commits; one that is cancelled in the middle is of no use any more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commits = Pipeline(self)

    async def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """See `psycopg.AsyncConnection`."""
        try:
            return await super().wait(_limited(self, gen), *args, **kwargs)
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise


def connect(arguments: Sequence[Any], options: Mapping[str, Any]) -> LimitedConnection:
    """A connection that notices soon when its server is gone."""
    return LimitedConnection.connect(*arguments, **{**_CONNECT, **options})


def risks_of(settings: Mapping[str, str]) -> list[str]:
    """What is unsafe among the settings of a session of PostgreSQL, by name."""
    unsafe: dict[str, tuple[str, ...]] = {name: ("off",) for name in ("fsync", "full_page_writes", "synchronous_commit")}
    if settings["synchronous_standby_names"]:
        unsafe["synchronous_commit"] = ("off", "local")  # a standby that is promoted may lack what was acknowledged
    return [
        f"PostgreSQL runs with {name} = {settings[name]}: set it to on" for name, bad in unsafe.items() if settings[name] in bad
    ]


class PostgresqlDialect(Dialect):
    """See the module.

    Args:
        group: Name of the group.
        lease_ttl: Milliseconds; a session that stands still within a transaction is ended by the server after a third of it.
    """

    batch_cap: ClassVar[int] = 128

    def __init__(self, group: str, lease_ttl: int) -> None:
        super().__init__(group)
        self._idle_limit = max(200, lease_ttl // 3)
        digest = hashlib.blake2b(f"txcoord.{group}".encode(), digest_size=8).digest()
        self._lock_key = int.from_bytes(digest, signed=True)
        self._warned = ""

    @override
    def risks(self, connection: Connection) -> list[str]:
        encoding = connection.scalar(text("SHOW server_encoding"))
        if encoding != "UTF8":
            raise StoreError(
                f"the database is encoded in {encoding}, which cannot hold every text: make one with ENCODING 'UTF8'"
            )
        names = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")
        query = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)")
        return risks_of({name: setting for name, setting in connection.execute(query, {"names": list(names)})})

    @override
    async def connect(self, engine: Engine) -> CommitConnection:
        arguments, options = engine.dialect.create_connect_args(engine.url)
        try:
            raw = await CommitConnection.connect(*arguments, **{**_CONNECT, **options, "autocommit": True})
        except psycopg.Error as error:
            raise StoreUnavailableError(f"PostgreSQL cannot be reached: {error}") from error
        try:
            await self._set_up(raw)
        except BaseException as error:
            await raw.close()
            if isinstance(error, psycopg.Error):
                raise StoreUnavailableError(f"PostgreSQL cannot be reached: {error}") from error
            raise
        raw.add_notice_handler(self._notice)
        return raw

    async def _set_up(self, raw: CommitConnection) -> None:
        settings = {
            "lock_timeout": "2s",
            "statement_timeout": "0",
            "idle_in_transaction_session_timeout": f"{self._idle_limit}ms",
            **_PLANS,
        }
        calls = (f"set_config('{name}', '{value}', false)" for name, value in settings.items())
        await raw.execute(f"SELECT {', '.join(calls)}")

    def _notice(self, diagnostic: errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self._warned = diagnostic.message_primary or "warning"

    @override
    async def close(self, raw: CommitConnection) -> None:
        await raw.close()

    @override
    def usable(self, raw: CommitConnection) -> bool:
        return not raw.closed and not raw.broken

    @override
    @durable("store.commit", UnknownCommitError)
    async def write(self, raw: CommitConnection, write: GroupWrite, locked: bool) -> dict[str, StoredOutcome]:
        self._warned = ""
        try:
            self._send(raw, self._statements(write, locked))
            results = await raw.commits.commit()
        except psycopg.Error as error:
            self._failed(raw, error, write)
        if self._warned:
            raise UnknownCommitError(f"PostgreSQL warned at COMMIT: {self._warned}")
        return sql.outcomes(rows(results[-1])) if write.asked else {}

    @passes(Mode.IN)
    def _send(self, raw: CommitConnection, statements: Sequence[tuple[str, Parameters]]) -> None:
        raw.commits.send(statements)

    def _statements(self, write: GroupWrite, locked: bool) -> list[tuple[str, Parameters]]:
        fence = (write.commit_seq, write.branch_ids, locked, self.group, write.epoch, write.commit_seq - 1)
        statements: list[tuple[str, Parameters]] = [(_FENCE, [parameter(value) for value in fence])]
        for kind, statement in _STATEMENTS.items():
            changes: list[Row] = getattr(write, kind)
            if changes:
                columns = [array(column) for column in zip(*changes, strict=True)]
                statements.append((statement, [*columns, parameter(len(changes))] if kind in _COUNTED else columns))
        statements += self._purge(write)
        if write.asked:
            statements.append((_OUTCOME, [array(write.asked)]))
        return statements

    def _purge(self, write: GroupWrite) -> Iterator[tuple[str, Parameters]]:
        for range in write.purge_ranges:
            ends = [parameter(range.first), parameter(range.last)]
            leaving, left = sql.purge(range)
            yield leaving.format("$1", "$2", "$3"), [*ends, parameter(range.settled_before)]
            yield left.format("$1", "$2"), ends
        if write.purge_xids:
            for table in ("txc_global", "txc_branch"):
                yield f"DELETE FROM {table} WHERE xid = ANY($1)", [array(write.purge_xids)]
        for epoch, sequence in write.purged.items():
            yield _PURGED, [parameter(value) for value in (sequence, self.group, epoch)]

    def _failed(self, raw: CommitConnection, error: psycopg.Error, write: GroupWrite) -> None:
        """Tell the three failures apart.

        Raises:
            FencedError, UnknownCommitError, StoreUnavailableError: As `Store.commit` says.
        """
        if not self.usable(raw) or error.sqlstate is None:
            raise UnknownCommitError(f"the connection to PostgreSQL was lost in a group commit: {error}") from error
        if isinstance(error, errors.DivisionByZero):
            raise FencedError(f"epoch {write.epoch} no longer leads group {self.group}") from error
        if isinstance(error, errors.InvalidArgumentForPowerFunction):
            raise UnknownCommitError(f"rows were not as expected, reloading: {error}") from error
        if error.sqlstate[:2] in _REFUSED:
            raise UnknownCommitError(f"PostgreSQL refuses these rows, reloading without them: {error}") from error
        raise StoreUnavailableError(f"PostgreSQL takes no commit: {error}") from error

    @override
    async def try_lock(self, raw: CommitConnection) -> bool:
        try:
            cursor = await raw.execute("SELECT pg_try_advisory_lock(%s)", (self._lock_key,))
            row = await cursor.fetchone()
        except psycopg.Error as error:
            raise StoreUnavailableError(f"PostgreSQL cannot be reached: {error}") from error
        return bool(row and row[0])

    @override
    async def unlock(self, raw: CommitConnection) -> None:
        try:
            await raw.execute("SELECT pg_advisory_unlock_all()")
        except psycopg.Error as error:
            raise StoreUnavailableError(f"PostgreSQL cannot be reached: {error}") from error
