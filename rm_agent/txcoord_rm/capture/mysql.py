"""MySQL and MariaDB: the rows that a statement will change are locked and read, changed by their keys, and read again.

The change names the keys of the rows that were read instead of the application's condition. So a condition is evaluated once, and
no row can slip in between that has no image: what is changed is what was locked. Every read after that is one that locks, too; a
consistent read would show rows as they were when the transaction began.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from txcoord_sdk.dialects import dialect_of

from txcoord_rm.capture.mysql_change import Change
from txcoord_rm.capture.mysql_check import SETTINGS, assigned, check, check_settings, events
from txcoord_rm.capture.mysql_foresight import columns_of, locks_only, pinned
from txcoord_rm.capture.mysql_insert import Insert
from txcoord_rm.capture.mysql_keys import Keys
from txcoord_rm.capture.mysql_read import LockingRead
from txcoord_rm.capture.mysql_run import together
from txcoord_rm.capture.port import Entry, Result, Savepoints
from txcoord_rm.catalogue.mysql import MysqlCatalogue
from txcoord_rm.catalogue.table import Event, Table
from txcoord_rm.sql.backticks import quoted
from txcoord_rm.sql.flavour import Flavour
from txcoord_rm.sql.statement import Statement, Verb
from txcoord_rm.sql.unsupported import refuse

_ATTEMPTS = 3
_BRANCHES = 4096
"""Branches of which is remembered what their local transactions have made sure of; older ones make sure once more."""


@dataclass(slots=True)
class _Branch:
    """What one local transaction has made sure of: it holds the metadata locks of these tables.

    Args:
        database: The current one.
        tables: Facts that are right until it ends, by name.
    """

    database: str = ""
    tables: dict[tuple[str, str], Table] = field(default_factory=dict)


class MysqlCapture:
    """See `port.Capture`. It may be shared by threads.

    Args:
        flavour: How the application's statements are read.
        catalogue: What is known of the server's tables.
    """

    begin = "START TRANSACTION"
    waits = True
    savepoints: Savepoints | None = None

    def __init__(self, flavour: Flavour, catalogue: MysqlCatalogue | None = None) -> None:
        self._flavour = flavour
        self._catalogue = catalogue or MysqlCatalogue()
        self._database = ""
        self._branches: dict[tuple[str, int], _Branch] = {}
        self._lock = threading.Lock()

    def is_idle(self, cursor: Any) -> bool:
        """See `Capture.is_idle`: whatever has run has begun a transaction."""
        return False

    def table(self, cursor: Any, statement: Statement) -> Table:
        """See `Capture.table`."""
        if not self._database:
            cursor.execute("SELECT DATABASE()")
            self._database = str(cursor.fetchall()[0][0] or "")
        return self._table(cursor, statement, self._database)

    def admit(self, cursor: Any, statement: Statement) -> bool:
        """See `Capture.admit`."""
        if statement.functions and (found := statement.functions & self._catalogue.writing_functions(cursor)):
            raise refuse(
                statement.sql,
                f"the stored function {min(found)} does not declare that it only reads",
                "declare it READS SQL DATA or NO SQL, or do the work in a TCC branch",
            )
        return False

    def foreseen(self, cursor: Any, statement: Statement, table: Table, parameters: Any) -> frozenset[str] | None:
        """See `Capture.foreseen`."""
        if statement.verb is Verb.LOCKING_READ:
            self.admit(cursor, statement)
            tables = [self._table(cursor, read, self._database) for read in _each(statement)]
            return LockingRead(cursor, statement, tables, parameters, self._flavour.given(parameters)).foreseen()
        self._check(cursor, statement, table)
        (event,) = events(statement)
        keys = Keys(table, event, table.follows(assigned(statement, table)))
        if event is Event.INSERT:
            return Insert(cursor, statement, table, parameters, self._flavour.given(parameters)).foreseen(keys)
        if not keys.foreseeable:
            return None
        if keys.by_primary_key and (pins := pinned(cursor, statement, table, [parameters])) is not None:
            return frozenset(keys.of(columns_of(pins[0], table.primary_key), None))
        seen = Change(cursor, statement, table, parameters, self._flavour.given(parameters)).look(keys.columns)
        return frozenset(keys.of(seen.canonical, None))

    def run(self, cursor: Any, statement: Statement, table: Table, parameters: Any, entry: Entry) -> Result:
        """See `Capture.run`."""
        if statement.verb is Verb.LOCKING_READ:
            return self._read(cursor, statement, parameters, entry)
        with self._sure(cursor, statement, entry) as sure:
            result = self._one(cursor, statement, sure, parameters, entry)
            return replace(result, exact=locks_only(statement, sure, parameters, bool(result.keys)))

    def _read(self, cursor: Any, statement: Statement, parameters: Any, entry: Entry) -> Result:
        with ExitStack() as stack:
            tables = [stack.enter_context(self._sure(cursor, read, entry)) for read in _each(statement)]
            result = LockingRead(cursor, statement, tables, parameters, self._flavour.given(parameters)).run()
            alone = len(tables) == 1 and locks_only(statement, tables[0], parameters, bool(result.keys))
            return replace(result, exact=alone)

    def _one(self, cursor: Any, statement: Statement, table: Table, parameters: Any, entry: Entry) -> Result:
        flavour = self._flavour.given(parameters)
        if statement.verb is not Verb.INSERT:
            change = Change(cursor, statement, table, parameters, flavour)
            return change.update(entry) if statement.verb is Verb.UPDATE else change.delete(entry)
        insert = Insert(cursor, statement, table, parameters, flavour)
        return insert.insert(entry) if self._catalogue.returns_inserted else insert.insert_by_key(entry)

    def run_many(self, cursor: Any, statement: Statement, table: Table, rows: Sequence[Any], entry: Entry) -> Result:
        """See `Capture.run_many`."""
        if not rows:
            return Result(frozenset(), 0)
        if statement.verb is Verb.LOCKING_READ:
            return together([self._read(cursor, statement, row, entry) for row in rows])
        with self._sure(cursor, statement, entry) as sure:
            at_once = self._at_once(cursor, statement, sure, rows, entry)
            result = at_once or self._one_by_one(cursor, statement, sure, rows, entry)
            exact = statement.verb is Verb.INSERT and locks_only(statement, sure, None, True)
            return replace(result, exact=exact)

    def _one_by_one(self, cursor: Any, statement: Statement, table: Table, rows: Sequence[Any], entry: Entry) -> Result:
        first = self._one(cursor, statement, table, rows[0], entry)
        later = replace(entry, first=False, again=False, limit_ms=0)
        return together([first, *(self._one(cursor, statement, table, row, later) for row in rows[1:])])

    def _at_once(self, cursor: Any, statement: Statement, table: Table, rows: Sequence[Any], entry: Entry) -> Result | None:
        if statement.verb is not Verb.INSERT:
            return Change(cursor, statement, table, None, self._flavour).many(rows, entry)
        if not self._catalogue.returns_inserted:
            return None
        return Insert(cursor, statement, table, None, self._flavour).many(rows, entry)

    # ------------------------------------------------------------ what is sure

    def _table(self, cursor: Any, statement: Statement, database: str) -> Table:
        assert statement.target is not None, "it changes rows"
        parts = statement.target.parts
        schema, name = parts[-2] if len(parts) > 1 else database, parts[-1]
        table = self._catalogue.table(cursor, schema, name) if schema else None
        if table is None:
            raise refuse(statement.sql, f"there is no table {'.'.join(parts)}", "name one that is there")
        return table

    def _check(self, cursor: Any, statement: Statement, table: Table) -> None:
        if statement.verb is not Verb.LOCKING_READ:
            check(statement, table)
        self.admit(cursor, statement)

    @contextmanager
    def _sure(self, cursor: Any, statement: Statement, entry: Entry) -> Iterator[Table]:
        """Facts of the statement's table that stay right until the local transaction ends, of which it holds the metadata lock.

        The first time in a local transaction the session is checked, too, and given its limits. What is sure is remembered once
        the statement has run: then there are row locks, without which a rollback to a savepoint gives the metadata lock back.
        """
        key = (entry.xid, entry.branch_id)
        branch = None if entry.first or entry.again else self._branches.get(key)  # metadata locks go back with a savepoint
        held = branch is None
        if branch is None:
            branch = self._branch(cursor, statement)
        if entry.limit_ms:
            cursor.execute(dialect_of("mysql").limit_transaction(entry.limit_ms))
        for _ in range(_ATTEMPTS):
            table = self._table(cursor, statement, branch.database)
            known = branch.tables.get(table.root)
            self._check(cursor, statement, known or table)
            if known is not None:
                yield known
                return
            if not held:
                cursor.execute(f"SELECT 1 FROM {quoted(table.schema)}.{quoted(table.name)} LIMIT 0")
                cursor.fetchall()
                held = True
            if self._catalogue.confirmed(cursor, table):
                yield table
                if not entry.branch_id:  # not one local transaction's own: those that have only read have none
                    return
                branch.tables[table.root] = table
                with self._lock:
                    self._branches[key] = branch
                    while len(self._branches) > _BRANCHES:
                        del self._branches[next(iter(self._branches))]
                return
        raise refuse(statement.sql, "its table is being altered all the time", "try again")

    def _branch(self, cursor: Any, statement: Statement) -> _Branch:
        """A local transaction that holds the metadata lock of the statement's table, in a session that falsifies nothing."""
        assert statement.target is not None, "it changes rows"
        name = ".".join(map(quoted, statement.target.parts))
        cursor.execute(f"{SETTINGS}, (SELECT 1 FROM {name} LIMIT 0)")
        settings = cursor.fetchall()[0]
        check_settings(statement.sql, settings, self._flavour)
        branch = _Branch(str(settings[0] or ""))
        self._database = branch.database or self._database
        return branch


def _each(statement: Statement) -> list[Statement]:
    """A locking read as one of each of its tables."""
    return [replace(statement, target=target) for target in statement.locked]
