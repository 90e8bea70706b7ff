"""Where an engine's statements are met: its dialect is given a subclass of its own class, and of its execution context's.

Outside a global transaction every statement gets the driver's own cursor, and what was written is remembered until the local
transaction ends, in case a global one begins in the middle of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine
from txcoord_proto.errors import ConfigurationError, TxcoordError, UnsupportedSqlError
from txcoord_sdk.context import current
from txcoord_sdk.dialects import dialect_of
from txcoord_sdk.local_transaction import (
    WatchedDialect,
    check_can_enlist,
    check_will_hold_together,
    commits_by_itself,
    enlist,
    open_state,
)
from txcoord_sdk.tcc.branch import current_branch
from txcoord_sdk.transaction.isolation import Isolation
from txcoord_sdk.transaction.transaction import GlobalTransaction

from txcoord_rm.at.alone import LoneBranch, LoneGuard
from txcoord_rm.at.branch import LocalBranch
from txcoord_rm.at.cursor import Cursor, Local
from txcoord_rm.at.guard import Guard, is_within
from txcoord_rm.at.isolation import level
from txcoord_rm.at.joining import check_same, written_before
from txcoord_rm.at.resource import LocalWrites
from txcoord_rm.at.statements import Statements
from txcoord_rm.capture.port import Result
from txcoord_rm.sql.statement import Verb
from txcoord_rm.xa.hook import XaDialect
from txcoord_rm.xa.locked import LockedXaBranch
from txcoord_rm.xa.mode import Mode

if TYPE_CHECKING:
    from txcoord_rm.at.resource import Resource
    from txcoord_rm.xa.resource import XaResource

_SELECT = frozenset({"SELECT", "select"})


def hook(engine: Engine, resource: Resource, xa: XaResource | None) -> None:
    """Have statements of `engine` inside global transactions captured, or prepared where `xa` says so."""
    dialect: Any = engine.dialect
    kind = type(dialect)
    assert issubclass(kind, WatchedDialect), "a bound engine is watched"
    dialect._txcoord_resource = resource
    dialect._txcoord_ignores = resource.local_writes is LocalWrites.IGNORE
    dialect._txcoord_xa = xa
    dialect._txcoord_seen = {}
    own: dict[str, Any] = {"supports_statement_cache": kind.supports_statement_cache}
    context = dialect.execution_ctx_cls
    own["execution_ctx_cls"] = type(f"Enrolled{context.__name__}", (EnrolledContext, context), {})
    dialect.__class__ = type(f"Enrolled{kind.__name__}", (EnrolledDialect, XaDialect, kind), own)


def resource_of_engine(engine: Engine) -> Resource | None:
    """What `hook` was given for the engine; None: it was not hooked."""
    return getattr(engine.dialect, "_txcoord_resource", None)


class EnrolledContext:
    """Mixed in before the dialect's own execution context."""

    def create_cursor(self: Any) -> Any:
        """The driver's cursor; inside a global transaction one that captures."""
        cursor = super().create_cursor()  # type: ignore[misc]
        local = capturing(self)
        if local is None:
            return cursor
        return Cursor(cursor, self.dialect._txcoord_resource, local, self.create_default_cursor if self._is_server_side else None)


def capturing(context: Any) -> Local | None:
    """The local transaction in which a statement is to be captured; None: the driver runs it as it is.

    Args:
        context: SQLAlchemy's, of the statement.
    """
    dialect = context.dialect
    transaction = current()
    if transaction is None and dialect._txcoord_ignores and not dialect._txcoord_open and not is_within():
        dialect._txcoord_see(context)
        return None
    if context.execution_options.get("txcoord_own") or current_branch() is not None:
        return None
    if not dialect._txcoord_locks and dialect._txcoord_takes_xa(context.root_connection, transaction):
        return None  # the dialect sees the statement
    local = _Local(context, transaction)
    if transaction is None and dialect._txcoord_ignores and not is_within() and local.known() is None:
        dialect._txcoord_see(context)
        return None
    return local


class _Local:
    """The local transaction in which a statement runs; see `cursor.Local`."""

    __slots__ = ("_connection", "_context", "_dialect", "_transaction")

    def __init__(self, context: Any, transaction: GlobalTransaction | None) -> None:
        self._context = context
        self._connection: Connection = context.root_connection
        self._dialect = context.dialect
        self._transaction = transaction

    def known(self) -> LocalBranch | Guard | None:
        """What captures its statements already; None: nothing does."""
        state = open_state(self._connection)
        return None if state is None else next((e for e in state.enlistments if isinstance(e, (LocalBranch, Guard))), None)

    def reads_globally(self) -> bool:
        """See `Local.reads_globally`."""
        default = self._dialect._txcoord_resource.isolation
        return level(self._transaction, default) is not Isolation.READ_UNCOMMITTED or _says_for_update(self._context)

    def refusal(self, error: UnsupportedSqlError) -> TxcoordError:
        """See `Local.refusal`."""
        if self._transaction is not None:
            return error
        if self._must_not_write():
            return self._written()
        said = error.details
        return UnsupportedSqlError(
            f"refused where global locks are respected (local_writes='check', or global_lock()), {said['reason']}: which rows it "
            f"writes is not known, so run it through an engine that is not enrolled. The statement: {said['statement']}",
            said,
        )

    def _must_not_write(self) -> bool:
        refuses = self._dialect._txcoord_resource.local_writes is LocalWrites.REFUSE
        return refuses and self._transaction is None and self.known() is None

    def _written(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self._connection.engine.url!r} is enrolled with local_writes='refuse': write within a global transaction, and run "
            "DDL through an engine that is not enrolled"
        )

    def pass_by(self, verb: Verb) -> None:
        """See `Local.pass_by`."""
        if (known := self.known()) is not None:
            known.pass_by(verb)
        else:
            self._dialect._txcoord_seen.setdefault(id(self._connection.connection.dbapi_connection), "")

    def run(self, cursor: Any, work: Callable[[Statements], Result]) -> Result:
        """See `Local.run`."""
        resource, transaction = self._dialect._txcoord_resource, self._transaction
        if self._must_not_write():
            raise self._written()
        if not commits_by_itself(self._connection):
            return work(self._statements())
        if self._dialect._txcoord_takes_xa(self._connection, transaction):
            check_can_enlist(self._connection)  # which refuses it
        if transaction is None:
            return LoneGuard(resource, self._connection, True).run(cursor, work)
        return LoneBranch(resource, transaction, self._connection, True).run(cursor, work)

    def _statements(self) -> Statements:
        found, transaction = self.known(), self._transaction
        if isinstance(found, LocalBranch):
            check_same(found.transaction, transaction)
            return found
        if found is not None and transaction is None:
            return found
        resource = self._dialect._txcoord_resource
        raw = self._connection.connection.dbapi_connection
        seen: str | None = self._dialect._txcoord_seen.get(id(raw))
        fresh = seen is None and not dialect_of(self._dialect.name).is_open(raw)  # an event, or a TCC try, is not seen here
        if transaction is None:
            guard = Guard(resource, self._connection, fresh)
            enlist(self._connection, guard)
            return guard
        if seen or found is not None:
            raise written_before(seen or "")
        check_will_hold_together(self._connection)
        xa = self._dialect._txcoord_xa
        branch: LocalBranch
        if self._dialect._txcoord_takes_xa(self._connection, transaction):
            branch = LockedXaBranch(xa, transaction, self._connection, fresh)
        elif xa is not None and xa.mode is Mode.XA:
            raise ConfigurationError(
                f"{self._connection.engine.url!r} is enrolled in mode 'xa' and has no undo log: enrol it in mode 'at', and say "
                "`with txcoord_rm.mode('xa'):` for blocks of the other mode"
            )
        else:
            branch = LocalBranch(resource, transaction, self._connection, fresh)
        enlist(self._connection, branch)
        return branch


def _says_for_update(context: Any) -> bool:
    """Whether a query was made `with_for_update()` for SQLite, where SQLAlchemy has no words for it."""
    if context.dialect.name != "sqlite" or context.compiled is None:
        return False
    return getattr(context.compiled.statement, "_for_update_arg", None) is not None


class EnrolledDialect(WatchedDialect):
    """Mixed in before a watched dialect."""

    _txcoord_resource: Resource
    _txcoord_ignores: bool
    _txcoord_seen: dict[int, str]
    """By connection: the first statement of the open local transaction that wrote outside a global one; empty: it only read."""

    def _txcoord_see(self, context: Any) -> None:
        """Remember a statement that runs outside a global transaction."""
        seen, raw = self._txcoord_seen, id(context._dbapi_connection.dbapi_connection)
        statement = getattr(context, "unicode_statement", "SELECT")
        if statement[:6] in _SELECT or self._txcoord_resource.reads(statement):
            seen.setdefault(raw, "")
        else:
            seen[raw] = seen.get(raw) or statement

    def do_commit(self, dbapi_connection: Any) -> None:
        """See `WatchedDialect.do_commit`."""
        self._txcoord_seen.pop(id(dbapi_connection.dbapi_connection), None)
        super().do_commit(dbapi_connection)

    def do_rollback(self, dbapi_connection: Any) -> None:
        """See `WatchedDialect.do_rollback`."""
        self._txcoord_seen.pop(id(dbapi_connection.dbapi_connection), None)
        super().do_rollback(dbapi_connection)

    def _txcoord_closed(self, raw: object) -> None:
        self._txcoord_seen.pop(id(raw), None)
        super()._txcoord_closed(raw)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        """A statement with several rows of parameters: dialects that batch by themselves look behind our cursor."""
        if isinstance(cursor, Cursor):
            self._txcoord_execute(_executemany, cursor, statement, parameters, context)
        else:
            super().do_executemany(cursor, statement, parameters, context)


def _executemany(cursor: Cursor, statement: str, parameters: Any, context: Any = None) -> None:
    cursor.executemany(statement, parameters)
