"""The store on a relational database: `Store` for every dialect.

Group commits go through a connection of their own (`writer`); everything else (takeover, loading, a person's questions) is rare
and goes through SQLAlchemy in a thread, so that no question waits behind a commit and no commit behind a question.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, and_, bindparam, delete, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from txcoord_proto.errors import StoreUnavailableError, UnsafeStoreError
from txcoord_proto.failpoints import Mode, durable, passes
from txcoord_proto.status import GlobalStatus

from txcoord_server.domain.effects import StoredOutcome
from txcoord_server.domain.tokens import Token
from txcoord_server.engine.storage import (
    AUDIT,
    BRANCH_ID_RESERVE,
    NEW_BRANCH,
    NEW_GLOBAL,
    GroupState,
    GroupWrite,
    Lease,
    ListFilter,
    Row,
    StoreBusyError,
)
from txcoord_server.store import schema
from txcoord_server.store.clock import DatabaseNow
from txcoord_server.store.dialect import Dialect
from txcoord_server.store.migrate import migrate
from txcoord_server.store.writer import Writer, run_in

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOAD_CHUNK = 2_000
_FINAL = (GlobalStatus.COMMITTED.value, GlobalStatus.ROLLED_BACK.value)
_GLOBAL_COLUMNS = [schema.transaction.c[name] for name in NEW_GLOBAL]
_GROUP = schema.group.c
_LOOK = select(_GROUP.holder, _GROUP.address, _GROUP.epoch, DatabaseNow() - _GROUP.renewed_at, _GROUP.locked).where(
    _GROUP.name == bindparam("group")
)
_BRANCH_COLUMNS = [schema.branch.c[name] for name in NEW_BRANCH]


class SqlStore:
    """A group's store on `engine`.

    Args:
        engine: For everything but group commits; the store owns and disposes of it.
        dialect: What differs on this database.
        group: Name of the group.
        node: Name of this node, for people.
        address: Where clients reach this node.
        writer: Thread of the group commits, where they need one; None runs the calls in place (for the simulation).
        reader: Thread of everything else; likewise.
    """

    def __init__(
        self,
        engine: Engine,
        dialect: Dialect,
        group: str,
        node: str,
        address: str,
        writer: Executor | None,
        reader: Executor | None,
    ) -> None:
        self._engine = engine
        self._dialect = dialect
        self._group = group
        self._node = node
        self.address = address
        """Where clients reach this node; known once its port is bound."""
        self.accepts_risks = False
        """Whether it starts on a database whose settings can lose acknowledged commits."""
        self._reader = reader
        self._writer = Writer(engine, dialect, writer)
        self.batch_cap = dialect.batch_cap
        self.url = engine.url.render_as_string(hide_password=True)
        """For people: without its password."""

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """See `Store.start`."""
        await self._run(self._start)

    def _start(self) -> None:
        with _wrapped(), self._engine.connect() as connection:
            self._judge(self._dialect.risks(connection))
        self._migrate()
        self._make_group()

    async def open(self) -> None:
        """Create or migrate the schema: enough for what belongs to no group."""
        await self._run(self._migrate)

    def _migrate(self) -> None:
        with _wrapped():
            migrate(self._engine)

    @durable("store.group", StoreUnavailableError)
    def _make_group(self) -> None:
        self._write(self._insert_group)

    def _insert_group(self, connection: Connection) -> None:
        known = connection.scalar(select(schema.group.c.epoch).where(schema.group.c.name == self._group))
        if known is None:
            row = {"name": self._group, "holder": "", "address": "", "epoch": 0, "commit_seq": 0, "branch_ids": 1}
            try:
                with connection.begin_nested():
                    connection.execute(insert(schema.group).values(row))
            except IntegrityError:
                pass  # another node started at the same moment

    def _judge(self, risks: list[str]) -> None:
        if not risks:
            return
        text = f"acknowledged decisions can be lost on this store: {'; '.join(risks)}"
        if not self.accepts_risks:
            raise UnsafeStoreError(f"{text}; or start the coordinator with --unsafe-store, where that does not matter")
        log.warning("%s (--unsafe-store: a global transaction may then be half committed)", text)

    async def release(self) -> None:
        """See `Store.release`."""
        await self._writer.disconnect()

    async def stop(self) -> None:
        """See `Store.stop`."""
        await self._writer.disconnect()
        await self._run(self._engine.dispose)

    async def forget(self) -> None:
        """Remove everything of this group, which nobody may lead any more."""
        await self._run(self._forget)

    @durable("store.forget", StoreUnavailableError)
    def _forget(self) -> None:
        self._write(self._delete_group)

    def _delete_group(self, connection: Connection) -> None:
        for table in (schema.branch, schema.audit, schema.transaction):
            mine = and_(table.c.xid >= f"{self._group}.", table.c.xid < f"{self._group}/")  # the character after the dot
            connection.execute(delete(table).where(mine))
        connection.execute(delete(schema.epoch).where(schema.epoch.c.grp == self._group))
        connection.execute(delete(schema.group).where(schema.group.c.name == self._group))

    # ------------------------------------------------------------ leadership

    async def look(self) -> GroupState:
        """See `Store.look`."""
        locked = await self._writer.try_lock()
        seen = await self._run(self._look, locked)
        if locked and seen.holder and not seen.gone:
            await self._writer.unlock()  # the leader lives and wants it
        return seen

    def _look(self, locked: bool) -> GroupState:
        with self._reading() as connection:
            row = connection.execute(_LOOK, {"group": self._group}).one()
        return GroupState(row[0], row[1], row[2], row[3], bool(locked and row[4]))

    async def take_over(self, seen_epoch: int, min_age: int, how: str) -> Lease | None:
        """See `Store.take_over`."""
        if how == "SELF":
            await self._writer.disconnect()
        lease = await self._run(self._take_over, seen_epoch, min_age, how)
        if lease is None:
            await self._writer.disconnect()
        else:
            await self._writer.try_lock()
        return lease

    @durable("store.take_over", StoreUnavailableError)
    def _take_over(self, seen_epoch: int, min_age: int, how: str) -> Lease | None:
        try:
            return self._write(lambda connection: self._claim(connection, seen_epoch, min_age, how))
        except StoreUnavailableError as error:
            if isinstance(error.__cause__, DBAPIError) and self._dialect.busy(error.__cause__.orig):
                raise StoreBusyError(error.message) from error
            raise

    def _claim(self, connection: Connection, seen_epoch: int, min_age: int, how: str) -> Lease | None:
        g = schema.group.c
        now = DatabaseNow()
        mine = and_(g.name == self._group, g.epoch == seen_epoch, g.renewed_at <= now - min_age)
        # The row is locked before it is read: a group commit under way ends first, and is read.
        locked = update(schema.group).where(mine).values(holder=self._node)
        if connection.execute(locked).rowcount != 1:
            return None
        row = connection.execute(
            select(g.commit_seq, g.branch_ids, g.renewed_at, now.label("now")).where(g.name == self._group)
        ).one()
        epoch = max(seen_epoch + 1, row.now)
        reserved = row.branch_ids + BRANCH_ID_RESERVE
        connection.execute(
            update(schema.group)
            .where(g.name == self._group)
            .values(
                address=self.address,
                epoch=epoch,
                branch_ids=reserved,
                locked=int(self._writer.locked),
                renewed_at=row.now,
                taken_at=row.now,
            )
        )
        connection.execute(
            insert(schema.epoch).values(
                grp=self._group, epoch=epoch, holder=self._node, how=how, started_at=row.now, purged_sequence=0
            )
        )
        outage = row.now - row.renewed_at if row.renewed_at else 0
        return Lease(epoch, row.commit_seq, row.branch_ids, reserved, row.now, outage)

    # ------------------------------------------------------------ group commit

    async def commit(self, write: GroupWrite) -> dict[str, StoredOutcome]:
        """See `Store.commit`."""
        return await self._writer.commit(write)

    # ------------------------------------------------------------ reading

    async def unfinished(self) -> AsyncIterator[tuple[Sequence[Row], Sequence[Row]]]:
        """See `Store.unfinished`; the next chunk is read while the present one is made use of."""
        chunk = await self._run(self._unfinished, "")
        while chunk[0]:
            following = asyncio.ensure_future(self._run(self._unfinished, chunk[0][-1][0]))
            try:
                yield chunk
                chunk = await following
            finally:
                following.cancel()

    def _unfinished(self, after: str) -> tuple[Sequence[Row], Sequence[Row]]:
        t, b = schema.transaction.c, schema.branch.c
        wanted = and_(t.grp == self._group, t.status.not_in(_FINAL), t.xid > after)
        with self._reading() as connection:
            rows = connection.execute(select(*_GLOBAL_COLUMNS).where(wanted).order_by(t.xid).limit(_LOAD_CHUNK)).all()
            if not rows:
                return (), ()
            # By a list of XIDs: joined, SQLite would look at every branch in between, of all that is kept.
            xids = select(t.xid).where(wanted, t.xid <= rows[-1][0])
            mine = and_(b.xid > after, b.xid <= rows[-1][0], b.xid.in_(xids))
            query = select(*_BRANCH_COLUMNS).where(mine).order_by(b.xid, b.registered_at, b.id)
            return list(map(tuple, rows)), list(map(tuple, connection.execute(query)))

    async def epochs(self) -> dict[int, int]:
        """See `Store.epochs`."""

        def read() -> dict[int, int]:
            e = schema.epoch.c
            with self._reading() as connection:
                rows = connection.execute(select(e.epoch, e.purged_sequence).where(e.grp == self._group))
                return {epoch: purged for epoch, purged in rows}

        return await self._run(read)

    async def purgeable(self, now: int, committed_before: int, below: str, limit: int) -> list[str]:
        """See `Store.purgeable`."""
        t = schema.transaction.c
        old_epochs = and_(
            t.grp == self._group,
            t.status == GlobalStatus.COMMITTED.value,
            t.purge_at.is_(None),
            t.settled_at < committed_before,
            t.xid >= f"{self._group}.",
            t.xid < below,
        )

        def read() -> list[str]:
            with self._reading() as connection:
                due = select(t.xid).where(t.purge_at <= now, t.grp == self._group).limit(limit)
                xids = list(connection.scalars(due))
                if below and len(xids) < limit:
                    xids += connection.scalars(select(t.xid).where(old_epochs).order_by(t.xid).limit(limit - len(xids)))
                return xids

        return await self._run(read)

    async def older(self, below: str, newest: int) -> str:
        """See `Store.older`."""
        if not newest:
            return below
        t = schema.transaction.c
        query = (
            select(t.xid)
            .where(t.grp == self._group, t.status == GlobalStatus.COMMITTED.value, t.purge_at.is_(None))
            .where(t.xid >= f"{self._group}.", t.xid < below)
            .order_by(t.xid.desc())
            .offset(newest - 1)
            .limit(1)
        )

        def read() -> str:
            with self._reading() as connection:
                return connection.scalar(query) or ""

        return await self._run(read)

    async def find(self, xid: str) -> tuple[Row, Sequence[Row]] | None:
        """See `Store.find`."""

        def read() -> tuple[Row, Sequence[Row]] | None:
            with self._reading() as connection:
                row = connection.execute(select(*_GLOBAL_COLUMNS).where(schema.transaction.c.xid == xid)).first()
                if row is None:
                    return None
                return tuple(row), self._branches(connection, [xid])

        return await self._run(read)

    @staticmethod
    def _branches(connection: Connection, xids: Sequence[str]) -> list[Row]:
        b = schema.branch.c
        query = select(*_BRANCH_COLUMNS).where(b.xid.in_(xids)).order_by(b.xid, b.registered_at, b.id)
        return [tuple(row) for row in connection.execute(query)]

    async def listing(self, wanted: ListFilter) -> tuple[Sequence[Row], Sequence[Row]]:
        """See `Store.listing`."""
        t = schema.transaction.c
        query = select(*_GLOBAL_COLUMNS).where(t.grp == self._group).order_by(t.xid.desc()).limit(wanted.limit)
        query = query.where(t.status.in_(wanted.statuses) if wanted.statuses else t.status.not_in(_FINAL))
        if wanted.service:
            query = query.where(t.service == wanted.service)
        if wanted.key:
            query = query.where(t.business_key == wanted.key)
        if wanted.after:
            query = query.where(t.xid < wanted.after)

        def read() -> tuple[Sequence[Row], Sequence[Row]]:
            with self._reading() as connection:
                rows = [tuple(row) for row in connection.execute(query)]
                return rows, self._branches(connection, [row[0] for row in rows])

        return await self._run(read)

    async def audit(self, xid: str) -> list[Row]:
        """See `Store.audit`."""
        a = schema.audit.c
        query = select(*(a[name] for name in AUDIT)).where(a.xid == xid).order_by(a.version)

        def read() -> list[Row]:
            with self._reading() as connection:
                return [tuple(row) for row in connection.execute(query)]

        return await self._run(read)

    # ------------------------------------------------------------ tokens

    async def tokens(self) -> list[Token]:
        """See `Store.tokens`."""

        def read() -> list[Token]:
            t = schema.token.c
            with self._reading() as connection:
                rows = connection.execute(select(t.hash, t.name, t.service, t.resources, t.role, t.created_at))
                return [Token(r[0], r[1], r[2], tuple(json.loads(r[3])), r[4], r[5]) for r in rows]

        return await self._run(read)

    async def add_token(self, token: Token) -> None:
        """See `Store.add_token`."""
        row = {
            "hash": token.hash,
            "name": token.name,
            "service": token.service,
            "resources": json.dumps(token.resources),
            "role": token.role,
            "created_at": token.created_at,
        }
        await self._run(self._add_token, row)

    @durable("store.add_token", StoreUnavailableError)
    def _add_token(self, row: dict[str, Any]) -> None:
        self._write(lambda connection: connection.execute(insert(schema.token).values(row)))

    async def drop_token(self, name: str) -> int:
        """See `Store.drop_token`."""
        return await self._run(self._drop_token, name)

    @durable("store.drop_token", StoreUnavailableError)
    def _drop_token(self, name: str) -> int:
        return self._write(
            lambda connection: connection.execute(delete(schema.token).where(schema.token.c.name == name)).rowcount
        )

    # ------------------------------------------------------------ inside

    def _write(self, work: Callable[[Connection], T]) -> T:
        """Run the statements of one small durable operation, and commit."""
        with _wrapped(), self._engine.begin() as connection:
            return self._work(connection, work)

    @staticmethod
    @passes(Mode.IN)
    def _work(connection: Connection, work: Callable[[Connection], T]) -> T:
        return work(connection)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection that only reads."""
        with _wrapped(), self._engine.connect() as connection:
            yield connection

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        return await run_in(self._reader, call, *args)


@contextmanager
def _wrapped() -> Iterator[None]:
    """Turns every failure of SQLAlchemy into `StoreUnavailableError`, at this one boundary."""
    try:
        yield
    except DBAPIError as error:
        raise StoreUnavailableError(f"the store cannot be used: {error.orig}") from error
    except SQLAlchemyError as error:
        raise StoreUnavailableError(f"the store cannot be used: {error}") from error
