"""MariaDB and MySQL: a group commit is one text of several statements, one round trip; a huge one is several texts.

The server runs them one after the other and stops at the first that fails, so the fence and the counted updates are followed by a
guard that fails when they did not change as many rows as they had to. Strings are written as literals of our own making: the
session has NO_BACKSLASH_ESCAPES, so doubling the quote is all that is needed, and bytes are written in hexadecimal.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import aiomysql
import pymysql
from pymysql.constants import CLIENT, CR
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

T = TypeVar("T")

ANSWER_SECONDS = 10
_FENCE = (
    "UPDATE txc_group SET commit_seq = {0}, branch_ids = {1}, locked = {4}, "
    "renewed_at = CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000 AS SIGNED) "
    "WHERE name = {2} AND epoch = {3} AND commit_seq = {0} - 1"
)
_GUARD = "SELECT IF(ROW_COUNT() = {}, 1, (SELECT 1 UNION ALL SELECT 2))"
_MOST_CHARACTERS = 2 << 20
"""Of one text: at four bytes a character half of the smallest usual max_allowed_packet, 16 MiB; a row has 6 MiB at most."""
_NOT_ONE_ROW = 1242  # ER_SUBQUERY_NO_1_ROW: a guard has failed
_REFUSED = (3819, 4025)  # a CHECK, of MySQL and of MariaDB
_SESSION = (
    "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', autocommit = 1, "
    "innodb_lock_wait_timeout = 2, transaction_isolation = 'READ-COMMITTED'"
)
_SESSION_MARIADB = _SESSION.replace("transaction_isolation", "tx_isolation")


_SETTINGS = (
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN "
    "('innodb_flush_log_at_trx_commit', 'innodb_doublewrite', 'log_bin', 'sync_binlog')"
)
_OTHER_ENGINES = (
    "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name LIKE 'txc\\_%' "
    "AND table_type = 'BASE TABLE' AND engine <> 'InnoDB' ORDER BY table_name"
)


CONNECT = {"connect_timeout": 3, "read_timeout": ANSWER_SECONDS, "write_timeout": ANSWER_SECONDS}
"""Seconds after which a server that does not answer counts as gone."""


def risks_of(settings: Mapping[str, str]) -> list[str]:
    """What is unsafe among the global variables of MariaDB or MySQL, by name."""
    safe = {
        "innodb_flush_log_at_trx_commit": ("1", "3"),  # 3 is MariaDB's, and flushes once more than 1
        "innodb_doublewrite": ("ON", "1", "DETECT_AND_RECOVER"),
    }
    if settings["log_bin"] == "ON":
        safe["sync_binlog"] = ("1",)  # InnoDB rolls back at a restart what the binlog has lost
    return [
        f"the database runs with {name} = {settings[name]}: set it to {good[0]}"
        for name, good in safe.items()
        if settings[name] not in good
    ]


def literal(value: Any) -> str:
    """A value of ours as an SQL literal."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return str(int(value))


def _tuples(rows: Sequence[Row]) -> list[str]:
    return ["(" + ",".join(map(literal, row)) + ")" for row in rows]


def packed(pieces: Sequence[str], most: int = _MOST_CHARACTERS) -> Iterator[Sequence[str]]:
    """Consecutive pieces of text, together not much longer than one packet to the server may be; almost always all of them."""
    first, length = 0, 0
    for at, piece in enumerate(pieces):
        if length and length + len(piece) > most:
            yield pieces[first:at]
            first, length = at, 0
        length += len(piece)
    yield pieces[first:]


def _list(values: Sequence[str]) -> str:
    return "(" + ",".join(map(literal, values)) + ")"


def _update(table: str, keys: tuple[str, ...], columns: tuple[str, ...], rows: Sequence[Row]) -> str:
    """One UPDATE for many rows, joined with a table of literals."""
    names = [*(f"key_{k}" for k in keys), *columns]
    first = ",".join(f"{literal(value)} AS {name}" for name, value in zip(names, rows[0], strict=True))
    rest = "".join(" UNION ALL SELECT " + ",".join(map(literal, row)) for row in rows[1:])
    on = " AND ".join(f"t.{k} = v.key_{k}" for k in keys)
    sets = ", ".join(f"t.{c} = v.{c}" for c in columns)
    return f"UPDATE {table} t JOIN (SELECT {first}{rest}) v ON {on} SET {sets}"


def tls_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """TLS as the URL's parameters want it: `ssl_ca`, `ssl_capath`, `ssl_cert`, `ssl_key`, `ssl_cipher`, `ssl_check_hostname`.

    As with PyMySQL, a server that has TLS is spoken to over TLS in any case, and known only where there is an authority to verify
    its certificate by.
    """
    context = ssl.create_default_context(cafile=options.get("ca"), capath=options.get("capath"))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # certificates that MySQL has made for itself are not strict
    verifies = "ca" in options or "capath" in options
    context.check_hostname = verifies and options.get("check_hostname", True)
    if not verifies:
        context.verify_mode = ssl.CERT_NONE
    if "cert" in options:
        context.load_cert_chain(options["cert"], options.get("key"))
    if "cipher" in options:
        context.set_ciphers(options["cipher"])
    return context


async def _answered(answer: Awaitable[T]) -> T:
    """What the server answers, unless it stands still; raises as the driver does when it is gone."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await answer
    except TimeoutError as error:
        raise pymysql.OperationalError(CR.CR_SERVER_LOST, f"no answer for {ANSWER_SECONDS} s") from error


class MysqlDialect(Dialect):
    """See the module."""

    batch_cap: ClassVar[int] = 128

    def __init__(self, group: str, lease_ttl: int) -> None:
        super().__init__(group)
        self._idle_limit = max(1, lease_ttl // 3000)

    @override
    def risks(self, connection: Connection) -> list[str]:
        found = risks_of({str(name): str(value) for name, value in connection.execute(text(_SETTINGS))})
        tables = connection.scalars(text(_OTHER_ENGINES))
        return found + [f"{table} is not an InnoDB table: ALTER TABLE {table} ENGINE = InnoDB" for table in tables]

    @override
    async def connect(self, engine: Engine) -> aiomysql.Connection:
        url = engine.url.set(drivername="mysql+aiomysql")
        arguments, options = url.get_dialect()().create_connect_args(url)
        flags = int(options.pop("client_flag", 0)) | CLIENT.MULTI_STATEMENTS | CLIENT.FOUND_ROWS
        wanted = options.pop("ssl", None)
        options = {"connect_timeout": CONNECT["connect_timeout"], **options, "client_flag": flags, "autocommit": True}
        try:
            raw = await _answered(aiomysql.connect(*arguments, **options, ssl=tls_context(wanted or {})))
        except (pymysql.Error, OSError) as error:
            raise StoreUnavailableError(f"the database cannot be reached: {error.__cause__ or error}") from error
        try:
            await self._set_up(raw, wanted is not None)
        except BaseException as error:
            raw.close()
            if isinstance(error, pymysql.Error):
                raise StoreUnavailableError(f"the database cannot be reached: {error}") from error
            raise
        return raw

    async def _set_up(self, raw: aiomysql.Connection, must_be_encrypted: bool) -> None:
        async with raw.cursor() as cursor:
            if must_be_encrypted:  # the driver goes on in the clear where the server has no TLS
                await _answered(cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'"))
                if not (await cursor.fetchone())[1]:
                    raise StoreUnavailableError(
                        "the store's URL asks for TLS, which the database does not offer: set it up there"
                    )
            if "MariaDB" in raw.server_version:
                await _answered(cursor.execute(_SESSION_MARIADB))
                await _answered(cursor.execute(f"SET SESSION idle_transaction_timeout = {self._idle_limit}"))
            else:
                await _answered(cursor.execute(_SESSION))

    @override
    def close(self, raw: aiomysql.Connection) -> None:
        raw.close()

    @override
    def usable(self, raw: aiomysql.Connection) -> bool:
        return not raw.closed

    @override
    @durable("store.commit", UnknownCommitError)
    async def write(self, raw: aiomysql.Connection, write: GroupWrite, locked: bool) -> dict[str, StoredOutcome]:
        statements = self._statements(write, locked)
        at = 0
        found: tuple[Row, ...] = ()
        try:
            async with raw.cursor() as cursor:
                for texts in packed(statements):
                    await self._send(cursor, texts)
                    while True:
                        if statements[at].startswith("SELECT xid"):
                            found = tuple(await cursor.fetchall())
                        at += 1
                        if not await _answered(cursor.nextset()):
                            break
        except pymysql.Error as error:
            await self._failed(raw, error, write, at)
        if at != len(statements):
            raise UnknownCommitError(f"{at} of {len(statements)} statements of a group commit were answered")
        return sql.outcomes(found)

    @staticmethod
    @passes(Mode.IN)
    async def _send(cursor: aiomysql.Cursor, texts: Sequence[str]) -> None:
        """Returns with the first answer, while the server works on the rest."""
        await _answered(cursor.execute(";".join(texts)))

    def _statements(self, write: GroupWrite, locked: bool) -> list[str]:
        fence = (write.commit_seq, write.branch_ids, literal(self.group), write.epoch, int(locked))
        out = ["START TRANSACTION", _FENCE.format(*fence), _GUARD.format(1)]
        inserts: tuple[tuple[str, tuple[str, ...], list[Row]], ...] = (
            ("txc_global", NEW_GLOBAL, write.new_globals),
            ("txc_branch", NEW_BRANCH, write.new_branches),
            ("txc_audit", AUDIT, write.audit),
        )
        for table, columns, rows in inserts:
            if rows:
                into = f"INSERT INTO {table} ({','.join(columns)}) VALUES "
                out += [into + ",".join(tuples) for tuples in packed(_tuples(rows))]
        updates: tuple[tuple[str, tuple[str, ...], tuple[str, ...], list[Row]], ...] = (
            ("txc_global", ("xid", "status"), CHANGED_GLOBAL, write.changed_globals),
            ("txc_branch", ("xid", "id"), CHANGED_BRANCH, write.changed_branches),
        )
        for table, keys, columns, changed in updates:
            if changed:
                out += [_update(table, keys, columns, changed), _GUARD.format(len(changed))]
        for range in write.purge_ranges:
            out += [
                statement.format(literal(range.first), literal(range.last), range.settled_before)
                for statement in sql.purge(range)
            ]
        if write.purge_xids:
            out += [f"DELETE FROM {t} WHERE xid IN {_list(write.purge_xids)}" for t in ("txc_global", "txc_branch")]
        for epoch, sequence in write.purged.items():
            out.append(sql.PURGED.format(sequence, literal(self.group), epoch))
        if write.asked:
            out.append(sql.OUTCOME.format(",".join(map(literal, write.asked))))
        out.append("COMMIT")
        return out

    async def _failed(self, raw: aiomysql.Connection, error: pymysql.Error, write: GroupWrite, at: int) -> None:
        """Tell the three failures apart.

        Raises:
            FencedError, UnknownCommitError, StoreUnavailableError: As `Store.commit` says.
        """
        code = error.args[0] if error.args else 0
        answered = isinstance(code, int) and code > 0 and not 2000 <= code < 3000  # those are the client's own
        if not answered or raw.closed:
            raise UnknownCommitError(f"the connection to the database was lost in a group commit: {error}") from error
        try:
            async with raw.cursor() as cursor:
                while await _answered(cursor.nextset()):
                    pass
                await _answered(cursor.execute("ROLLBACK"))
        except pymysql.Error as lost:
            raise UnknownCommitError(f"the connection to the database was lost in a group commit: {lost}") from error
        if code == _NOT_ONE_ROW and at <= 2:
            raise FencedError(f"epoch {write.epoch} no longer leads group {self.group}") from error
        if code == _NOT_ONE_ROW:
            raise UnknownCommitError(f"rows were not as expected, reloading: {error}") from error
        if isinstance(error, (pymysql.IntegrityError, pymysql.DataError)) or code in _REFUSED:
            raise UnknownCommitError(f"the database refuses these rows, reloading without them: {error}") from error
        raise StoreUnavailableError(f"the database takes no commit: {error}") from error

    @override
    async def try_lock(self, raw: aiomysql.Connection) -> bool:
        try:
            async with raw.cursor() as cursor:
                await _answered(cursor.execute("SELECT GET_LOCK(%s, 0)", (f"txcoord.{self.group}",)))
                row = await cursor.fetchone()
        except pymysql.Error as error:
            raise StoreUnavailableError(f"the database cannot be reached: {error}") from error
        return bool(row and row[0] == 1)

    @override
    async def unlock(self, raw: aiomysql.Connection) -> None:
        try:
            async with raw.cursor() as cursor:
                await _answered(cursor.execute("SELECT RELEASE_LOCK(%s)", (f"txcoord.{self.group}",)))
        except pymysql.Error as error:
            raise StoreUnavailableError(f"the database cannot be reached: {error}") from error
