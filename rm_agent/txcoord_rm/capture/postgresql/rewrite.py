"""PostgreSQL: one statement changes the rows, writes their undo record and returns their lock keys.

From 18 on RETURNING shows old and new row. Before, an INSERT shows the new one and a DELETE the old one by itself, and an UPDATE
joins the rows it changes with themselves as they were when it locked them.

The images are what `ROW(...)::text` makes of the columns: exact for every type, as long as DateStyle is ISO and
extra_float_digits at least 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from txcoord_rm.capture.keys import Keys, Row
from txcoord_rm.capture.splice import Splice, Spliced
from txcoord_rm.catalogue.table import Event, Table
from txcoord_rm.sql.flavour import Binds
from txcoord_rm.sql.quoting import literal, quoted
from txcoord_rm.sql.statement import Span, Statement, Verb
from txcoord_rm.sql.unsupported import refuse

_OLD_OR_NEW = re.compile(r"\b(?:old|new)\b", re.IGNORECASE)
_OLD_AND_NEW = 180_000
"""`server_version_num` of the first version whose RETURNING shows both."""
_OURS = frozenset({"txcoord_undo_log", "txcoord_fence"})
_UNSTABLE = frozenset({"money"})
_LIMITED = "idle_in_transaction_session_timeout", "statement_timeout", "transaction_timeout", "lock_timeout"
# current_setting of what does not exist is NULL
_LIMITS = (
    "(SELECT count(set_config(name, ms::text, true)) AS changed FROM (VALUES ({})) AS l (ms), (VALUES "
    + ", ".join(f"('{name}')" for name in _LIMITED)
    + ") AS n (name) WHERE current_setting(name, true) = '0' OR current_setting(name, true)::interval > ms * interval '1 ms') "
)
_SETTINGS = {
    "DateStyle": "current_setting('DateStyle') NOT LIKE 'ISO%'",
    "extra_float_digits": "current_setting('extra_float_digits')::integer < 1",
    "IntervalStyle": "current_setting('IntervalStyle') = 'sql_standard'",
    "standard_conforming_strings": "current_setting('standard_conforming_strings') <> 'on'",
}
TABLE = "table"


@dataclass(frozen=True, slots=True)
class Server:
    """What has to be known of a database.

    Args:
        version: `server_version_num`.
        log: The undo log's name, as it is written in SQL.
    """

    version: int
    log: str


@dataclass(frozen=True, slots=True)
class Captured:
    """What is run instead of a statement.

    It always has a row. In each, the columns are: what is not as it was taken to be, names with a comma between them, empty if
    all is; the row's lock keys, an array of text, NULL if no row was touched; what else is `hidden`; those of the application.

    Args:
        spliced: It, with the parameters `xid`, `branch_id`, and `limit_ms` if it is to set limits.
        hidden: How many columns stand before those of the application.
        returns: Whether the application wants rows.
    """

    spliced: Spliced
    hidden: int
    returns: bool


def capture(
    statement: Statement, table: Table, server: Server, binds: Binds, first: bool = False, limited: bool = False
) -> Captured:
    """What is run instead of `statement`, which changes rows of `table`.

    Args:
        statement: An INSERT, UPDATE or DELETE.
        table: Its target.
        server: Where it runs.
        binds: How the driver marks parameters.
        first: Whether it looks at the session's settings, too.
        limited: Whether it first sets the limits of the local transaction.

    Raises:
        UnsupportedSqlError: Its changes cannot be captured for certain.
    """
    _check(statement, table, server.version)
    return _Rewriter(statement, table, server, binds).captured(first, limited)


def may_change(statement: Statement, table: Table) -> frozenset[str]:
    """Columns of rows that an UPDATE may change: what it sets and what follows from it, or what a trigger makes of the row."""
    if table.fires(Event.UPDATE, after=False):
        return frozenset(column.name for column in table.columns)
    return table.follows(statement.assigned)


def _check(statement: Statement, table: Table, version: int) -> None:
    name = f"{table.schema}.{table.name}"
    if table.obstacle or table.name in _OURS:
        reason = table.obstacle or "it is txcoord's own"
        raise refuse(statement.sql, f"{name} cannot be captured: {reason}", "do the work in a TCC branch")
    if unknown := set(statement.assigned) - {column.name for column in table.columns}:
        raise refuse(statement.sql, f"{name} has no column {min(unknown)}", "write names as the catalogue has them")
    for column in table.columns:
        if column.base in _UNSTABLE or column.base.startswith("reg"):
            raise refuse(statement.sql, f"how {name}.{column.name} of type {column.type} is written depends on settings")
        if column.identity and column.name in statement.assigned:
            raise refuse(statement.sql, f"{name}.{column.name} is numbered by the database and cannot be set back")
    now, then = _events(statement, table)
    for column in table.columns:
        if column.writer and (statement.verb is Verb.INSERT or column.name in statement.assigned):
            raise refuse(
                statement.sql,
                f"the default of {name}.{column.name} calls {column.writer}(), which may write rows",
                "declare the function STABLE if it only reads",
            )
    effects = [table.carried_on(event, table.follows(statement.assigned)) for event in now]
    effects += [table.triggered(event) for event in (*now, *then)]
    if effect := next(filter(None, effects), ""):
        raise refuse(statement.sql, f"{effect}, without undo records", "change those rows by statements of their own")
    returning = statement.returning
    if returning is not None and all(map(_OLD_OR_NEW.search, (returning.of(statement.sql), statement.sql[: returning.start]))):
        raise refuse(statement.sql, "old and new may be names of its own", "name its tables and columns otherwise")
    if version < _OLD_AND_NEW and statement.others is not None and statement.verb is Verb.UPDATE and statement.stars:
        raise refuse(
            statement.sql, "RETURNING * of an UPDATE ... FROM cannot be told apart before version 18", "name its columns"
        )
    if statement.verb is Verb.INSERT and statement.assigned and version < _OLD_AND_NEW:
        raise refuse(
            statement.sql,
            "before version 18 PostgreSQL does not tell which rows ON CONFLICT DO UPDATE has changed",
            "update first, and insert where that changed nothing",
        )


def _events(statement: Statement, table: Table) -> tuple[list[Event], list[Event]]:
    """What happens to rows now, and what happens to them in an undo."""
    now = {Event(statement.verb.value)} | ({Event.UPDATE} if statement.assigned else set())
    if statement.assigned and table.partitioned:
        now = set(Event)  # a row that moves to another partition goes here and comes there
    undone = {Event.INSERT: Event.DELETE, Event.DELETE: Event.INSERT, Event.UPDATE: Event.UPDATE}
    return [event for event in Event if event in now], [undone[event] for event in now]


class _Rewriter:
    def __init__(self, statement: Statement, table: Table, server: Server, binds: Binds) -> None:
        self.s = statement
        self.table = table
        self.log = server.log
        self.both = server.version >= _OLD_AND_NEW
        self.splice = Splice(statement, binds)
        self.keys = Keys(table)
        assert statement.target is not None
        self.target = statement.target
        written = self.target.alias or self.target.name.of(statement.sql)
        self.reference = written.replace("%%", "%") if binds is Binds.PERCENT else written  # `ours` doubles it again
        self.image = self._image()
        self.joins_itself = statement.verb is Verb.UPDATE and not self.both

    def captured(self, first: bool, limited: bool) -> Captured:
        s, splice = self.s, self.splice
        splice.ours("WITH RECURSIVE " if s.recursive else "WITH ")
        if s.with_ is not None:
            splice.theirs(s.with_).ours(", ")
        splice.ours("txcoord_u (txcoord_keys, txcoord_before, txcoord_after) AS (")
        self._change()
        if s.returning is not None:
            splice.ours(", ")
            self._theirs(s.returning)
        splice.ours("), txcoord_i AS (")
        self._record()
        splice.ours(") SELECT txcoord_s.*, " + ("txcoord_u.*" if s.returning is not None else "txcoord_keys") + " FROM (")
        self._checks(first, limited)
        splice.ours(") AS txcoord_s LEFT JOIN txcoord_u ON true")
        return Captured(splice.spliced(), 4 if s.returning is not None else 2, s.returning is not None)

    def _record(self) -> None:
        """The undo record. Behind a guard, or in a branch that is undone, its key is there already, and it fails."""
        table = self.table
        self.splice.ours(
            f"INSERT INTO {self.log} "
            "(branch_id, seq, state, xid, format, created_at, table_schema, table_name, columns, befores, afters) SELECT "
        ).parameter("branch_id", "bigint").ours(
            f", COALESCE((SELECT CASE state WHEN 'IMAGE' THEN seq + 1 ELSE 1 END FROM {self.log} WHERE branch_id = "
        ).parameter("branch_id", "bigint").ours(" ORDER BY seq DESC LIMIT 1), 1), 'IMAGE', ").parameter("xid", "text").ours(
            ", 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, "
            f"{literal(table.schema)}, {literal(table.name)}, ARRAY[{', '.join(literal(name) for name in self.image)}]::text[], "
            "array_agg(txcoord_before), array_agg(txcoord_after) FROM txcoord_u "
            "WHERE txcoord_before IS DISTINCT FROM txcoord_after HAVING count(*) > 0"
        )

    def _checks(self, first: bool, limited: bool) -> None:
        """What is not as it was taken to be. It stands on the outer side of a join, so that limits are set before rows wait.

        A name is resolved where the statement is parsed, as its own are; that of the table stays right with a prepared statement.
        """
        name = literal(".".join(quoted(part) for part in self.target.parts))
        wrong = {TABLE: f"{name}::regclass::oid <> {self.table.oid} OR {self.table.altered}"} | (_SETTINGS if first else {})
        cases = ", ".join(f"CASE WHEN {condition} THEN {literal(name)} END" for name, condition in wrong.items())
        self.splice.ours(f"SELECT concat_ws(', ', {cases}) AS txcoord_unfit")
        if limited:
            before, after = _LIMITS.split("{}")
            self.splice.ours(f" FROM {before}").parameter("limit_ms", "integer").ours(f"{after}AS l WHERE changed IS NOT NULL")

    def _theirs(self, returning: Span) -> None:
        """What the application wants back; where the rows are joined with themselves, a star is the target's columns only."""
        at = returning.start
        if self.joins_itself:
            for star in self.s.stars:
                self.splice.theirs(Span(at, star.start)).ours(f"{self.reference}.*")
                at = star.end
        self.splice.theirs(Span(at, returning.end))

    def _image(self) -> tuple[str, ...]:
        """Columns of the images: of an UPDATE the key and what it sets, if no trigger may set more; else all that is written."""
        written = (column.name for column in self.table.columns if not column.generated)
        if self.s.verb is not Verb.UPDATE or self.table.fires(Event.UPDATE, after=False):
            return tuple(written)
        if not set(self.table.primary_key).isdisjoint(self.s.assigned):
            return tuple(written)  # a row that has moved is known again by all that it has
        needed = {*self.table.primary_key, *self.s.assigned}
        return tuple(name for name in written if name in needed)

    # ------------------------------------------------------------ the change, up to the hidden columns

    def _change(self) -> None:
        if self.both:
            old, new = ("old", "new") if self._says_old_or_new() else ("txcoord_o", "txcoord_n")
            names = "" if old == "old" else "WITH (OLD AS txcoord_o, NEW AS txcoord_n) "
            self.splice.theirs(self.s.main).ours(f" RETURNING {names}")
            self._columns(Row(old), Row(new))
        elif self.joins_itself:
            old_row = self._self_join()
            self.splice.ours(" RETURNING ")
            self._columns(old_row, Row(self.reference))
        else:
            self.splice.theirs(self.s.main).ours(" RETURNING ")
            self._columns(Row(self.reference), Row(self.reference))

    def _columns(self, old: Row, new: Row) -> None:
        """Lock keys and images of the row that is called `old` before, and `new` after."""
        verb, before, after = self.s.verb, old.record(self.image), new.record(self.image)
        changed = may_change(self.s, self.table)
        keys = self.keys.expressions(Event(verb.value), changed, old, new)
        if verb is Verb.INSERT and self.s.assigned:
            absent = f"{old.cell(self.table.primary_key[0])} IS NULL"
            keys += self.keys.expressions(Event.UPDATE, changed, Row(old.name, absent=absent), new)
            before = f"CASE WHEN {absent} THEN NULL ELSE {before} END"
        elif verb is Verb.INSERT:
            before = "NULL::text"
        elif verb is Verb.DELETE:
            after = "NULL::text"
        array = f"ARRAY[{', '.join(dict.fromkeys(keys))}]::text[]"
        self.splice.ours(f"array_remove({array}, NULL), {before}, {after}" if "NULL" in array else f"{array}, {before}, {after}")

    def _says_old_or_new(self) -> bool:
        """Whether the application's RETURNING may use these names itself."""
        returning = self.s.returning
        return returning is not None and _OLD_OR_NEW.search(returning.of(self.s.sql)) is not None

    def _self_join(self) -> Row:
        """The UPDATE, joined with the rows that it changes as they are once they are locked; what such a row is called.

        The condition is evaluated where they are locked; only where it names other tables it also says which of their rows goes
        with which. Without the lock the row joined could be older than the row that is changed. Its columns get names of our own,
        so that names of the application's still mean one thing.
        """
        s, splice, here = self.s, self.splice, Row(self.reference)
        only = "ONLY " if self.target.only else ""
        alias = f" AS {self.target.alias}" if self.target.alias else ""
        needed = {*self.image, *self.table.primary_key}
        needed.update(name for unique in self.table.uniques for name in (*unique.columns, *unique.depends))
        old = Row("txcoord_b", {name: f"txcoord_c{n}" for n, name in enumerate(sorted(needed))})
        splice.ours(f"UPDATE {only}").theirs(self.target.name).ours(f"{alias} SET ").theirs(s.set).ours(" FROM ")
        if s.others is not None:
            splice.theirs(s.others).ours(", ")
        columns = ", ".join(f"{here.cell(name)} AS {called}" for name, called in old.columns.items())
        splice.ours(f"(SELECT {columns} FROM {only}").theirs(self.target.name).ours(alias)
        if s.others is not None:
            splice.ours(", ").theirs(s.others)
        if s.where is not None:
            splice.ours(" WHERE ").theirs(s.where)
        strength = "UPDATE" if self._sets_key() else "NO KEY UPDATE"
        joined = " AND ".join(f"{here.cell(name)} = {old.cell(name)}" for name in self.table.primary_key)
        splice.ours(f" FOR {strength} OF {self.target.alias or quoted(self.target.parts[-1])}) AS txcoord_b WHERE {joined}")
        if s.others is not None and s.where is not None:
            splice.ours(" AND (").theirs(s.where).ours(")")
        return old

    def _sets_key(self) -> bool:
        keys = {*self.table.primary_key, *(name for unique in self.table.uniques for name in unique.columns)}
        return not keys.isdisjoint(self.s.assigned)
