"""PostgreSQL: one statement changes the rows, writes their undo record and returns their lock keys.

From 18 on RETURNING shows old and new row. Before, an INSERT shows the new one and a DELETE the old one by itself, and an UPDATE
joins the rows it changes with themselves as they were when it locked them.

The images are what `ROW(...)::text` makes of the columns: exact for every type, as long as DateStyle is ISO and
extra_float_digits at least 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from txcoord_rm.capture.keys import Keys, Row
from txcoord_rm.capture.postgresql import checks
from txcoord_rm.capture.postgresql.admission import OLD_OR_NEW, check, may_change, shows_old
from txcoord_rm.capture.splice import Splice, Spliced
from txcoord_rm.catalogue.table import Event, Table
from txcoord_rm.sql.flavour import Binds
from txcoord_rm.sql.quoting import literal, quoted
from txcoord_rm.sql.statement import Span, Statement, Verb


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

    It always has a row. Where no row was touched, its lock keys are NULL.

    Args:
        spliced: It, with the parameters `xid`, `branch_id`, and `limit_ms` if it is to set limits.
        keys: Which column has a row's lock keys, an array of text.
        shown: The first column of the application, and the first behind its last; None: it wants no rows.
    """

    spliced: Spliced
    keys: int
    shown: tuple[int, int | None] | None


def capture(
    statement: Statement,
    table: Table,
    server: Server,
    binds: Binds,
    first: bool = False,
    limited: bool = False,
    recorded: bool = True,
) -> Captured:
    """What is run instead of `statement`, which changes rows of `table`.

    Args:
        statement: An INSERT, UPDATE, DELETE or MERGE.
        table: Its target.
        server: Where it runs.
        binds: How the driver marks parameters.
        first: Whether it looks at the session's settings, too.
        limited: Whether it first sets the limits of the local transaction.
        recorded: Whether it writes an undo record.

    Raises:
        UnsupportedSqlError: Its changes cannot be captured for certain.
    """
    check(statement, table, server.version)
    return _Rewriter(statement, table, server, binds).captured(first, limited, recorded)


class _Rewriter:
    def __init__(self, statement: Statement, table: Table, server: Server, binds: Binds) -> None:
        self.s = statement
        self.table = table
        self.log = server.log
        self.both = shows_old(server.version)
        self.splice = Splice(statement, binds)
        self.keys = Keys(table)
        assert statement.target is not None
        self.target = statement.target
        self.reference = self.target.reference(statement.sql, binds)
        self.alias = self.reference if self.target.alias else ""
        self.image = self._image()
        self.joins_itself = statement.verb is Verb.UPDATE and not self.both

    def captured(self, first: bool, limited: bool, recorded: bool) -> Captured:
        s, splice = self.s, self.splice
        splice.ours("WITH RECURSIVE " if s.recursive else "WITH ")
        if s.with_ is not None:
            splice.theirs(s.with_).ours(", ")
        old = self._locked() if self.joins_itself else Row("")
        names = self._returned()
        aliases = "".join(f", txcoord_r{n}" for n in range(len(names)))
        splice.ours(f"txcoord_u (txcoord_keys, txcoord_before, txcoord_after{aliases}) AS (")
        self._change(old)
        if s.returning is not None:
            splice.ours(", ")
            self._theirs(s.returning)
        if recorded:
            splice.ours("), txcoord_i AS (")
            self._record()
        shown = "".join(f", txcoord_r{n} AS {quoted(name)}" for n, name in enumerate(names))
        whole = s.returning is not None and not names
        splice.ours(") SELECT txcoord_s.*, " + ("txcoord_u.*" if whole else f"txcoord_keys{shown}") + " FROM (")
        self._checks(old, first, limited)
        splice.ours(") AS txcoord_s LEFT JOIN txcoord_u ON true")
        return Captured(splice.spliced(), 1, (4 if whole else 2, None) if s.returning is not None else None)

    def _returned(self) -> list[str]:
        """Names of the application's columns; none: they are not known, so that all that it has not asked for comes with them."""
        names: list[str] = []
        for name in self.s.returned:
            if name:
                names.append(name)
            elif self.s.others is None:
                names += [column.name for column in self.table.columns]
            else:
                return []
        return names

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
        )
        several = "array_agg(txcoord_before), array_agg(txcoord_after) FROM txcoord_u", " HAVING count(*) > 0"
        images, end = ("ARRAY[txcoord_before], ARRAY[txcoord_after] FROM txcoord_u", "") if self._is_one() else several
        self.splice.ours(f"{images} WHERE txcoord_before IS DISTINCT FROM txcoord_after{end}")

    def _is_one(self) -> bool:
        """Whether it can only be about one row. If it were about two, their records would have one key, and it would fail."""
        pinned = {equality.column for equality in self.s.equalities if len(equality.values) == 1}
        return pinned.issuperset(self.table.primary_key)

    def _checks(self, old: Row, first: bool, limited: bool) -> None:
        wrong = {checks.TABLE: checks.altered(self.target, self.table)}
        if self.joins_itself:
            wrong[checks.MOVED] = self._missed(old)
        checks.write(self.splice, wrong, first, limited)

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

    def _change(self, locked: Row) -> None:
        if self.both:
            old, new = ("old", "new") if self._says_old_or_new() else ("txcoord_o", "txcoord_n")
            names = "" if old == "old" else "WITH (OLD AS txcoord_o, NEW AS txcoord_n) "
            self.splice.theirs(self.s.main).ours(f" RETURNING {names}")
            self._columns(Row(old), Row(new))
        elif self.joins_itself:
            self._self_join(locked)
            self.splice.ours(" RETURNING ")
            self._columns(locked, Row(self.reference))
        else:
            self.splice.theirs(self.s.main).ours(" RETURNING ")
            self._columns(Row(self.reference), Row(self.reference))

    def _columns(self, old: Row, new: Row) -> None:
        """Lock keys and images of the row that is called `old` before, and `new` after."""
        verb, before, after = self.s.verb, old.record(self.image), new.record(self.image)
        changed = may_change(self.s, self.table)
        if verb is Verb.MERGE:
            old, new = (Row(row.name, absent=f"{row.cell(self.table.primary_key[0])} IS NULL") for row in (old, new))
            keys = [key for event in (Event.INSERT, Event.DELETE) for key in self.keys.expressions(event, changed, old, new)]
            before, after = (f"CASE WHEN {row.absent} THEN NULL ELSE {image} END" for row, image in ((old, before), (new, after)))
        else:
            keys = self.keys.expressions(Event(verb.value), changed, old, new)
        if verb is Verb.INSERT and self.s.assigned:
            absent = f"{old.cell(self.table.primary_key[0])} IS NULL"
            keys += self.keys.expressions(Event.UPDATE, changed, Row(old.name, absent=absent), new)
            before = f"CASE WHEN {absent} THEN NULL ELSE {before} END"
        elif verb is Verb.INSERT:
            before = "NULL::text"
        elif verb is Verb.DELETE:
            after = "NULL::text"
        self.splice.ours(f"{self._together(list(dict.fromkeys(keys)))}, {before}, {after}")

    @staticmethod
    def _together(keys: list[str]) -> str:
        """A row's lock keys: an array, or the one that it has, which is its primary key's and so there."""
        if len(keys) == 1:
            return keys[0]
        array = f"ARRAY[{', '.join(keys)}]::text[]"
        return f"array_remove({array}, NULL)" if "NULL" in array else array

    def _says_old_or_new(self) -> bool:
        """Whether the application's RETURNING may use these names itself."""
        returning = self.s.returning
        return returning is not None and OLD_OR_NEW.search(returning.of(self.s.sql)) is not None

    def _locked(self) -> Row:
        """A query of the rows that an UPDATE changes as they are once they are locked; what such a row is called.

        Without the lock it could be older than the row that is changed. Its columns get names of our own, so that names of the
        application's still mean one thing.
        """
        s, splice, here = self.s, self.splice, Row(self.reference)
        needed = {*self.image, *self.table.primary_key}
        needed.update(name for unique in self.table.uniques for name in (*unique.columns, *unique.depends))
        old = Row("txcoord_b", {name: f"txcoord_c{n}" for n, name in enumerate(sorted(needed))})
        columns = ", ".join(f"{here.cell(name)} AS {called}" for name, called in old.columns.items())
        splice.ours(f"txcoord_b AS MATERIALIZED (SELECT {columns} FROM ")
        self._named()
        if s.others is not None:
            splice.ours(", ").theirs(s.others)
        if s.where is not None:
            splice.ours(" WHERE ").theirs(s.where)
        strength = "UPDATE" if self._sets_key() else "NO KEY UPDATE"
        splice.ours(f" FOR {strength} OF {self.alias or quoted(self.target.parts[-1])}), ")
        return old

    def _self_join(self, old: Row) -> None:
        """The UPDATE of the rows that are locked; only where it names other tables its condition says which goes with which."""
        s, splice, here = self.s, self.splice, Row(self.reference)
        splice.ours("UPDATE ")
        self._named()
        splice.ours(" SET ").theirs(s.set).ours(" FROM ")
        if s.others is not None:
            splice.theirs(s.others).ours(", ")
        joined = " AND ".join(f"{here.cell(name)} = {old.cell(name)}" for name in self.table.primary_key)
        splice.ours(f"txcoord_b WHERE {joined}")
        if s.others is not None and s.where is not None:
            splice.ours(" AND (").theirs(s.where).ours(")")

    def _named(self) -> None:
        """The target as an UPDATE or FROM names it."""
        self.splice.ours("ONLY " if self.target.only else "").theirs(self.target.name)
        self.splice.ours(f" AS {self.alias}" if self.alias else "")

    def _missed(self, old: Row) -> str:
        """A condition that a row which is locked was not changed: the primary key that it had got meanwhile was not found."""
        key = [old.cell(name) for name in self.table.primary_key]
        if self.table.fires(Event.UPDATE, after=False):  # a trigger may leave rows as they are
            name = f"{quoted(self.table.schema)}.{quoted(self.table.name)}"
            found = " AND ".join(
                f"{Row('t').cell(name)} = {cell}" for name, cell in zip(self.table.primary_key, key, strict=True)
            )
            return f"EXISTS (SELECT FROM txcoord_b WHERE NOT EXISTS (SELECT FROM {name} AS t WHERE {found}))"
        rows = f"(SELECT DISTINCT {', '.join(key)} FROM txcoord_b) AS l" if self.s.others is not None else "txcoord_b"
        return f"(SELECT count(*) FROM {rows}) <> (SELECT count(*) FROM txcoord_u)"

    def _sets_key(self) -> bool:
        keys = {*self.table.primary_key, *(name for unique in self.table.uniques for name in unique.columns)}
        return not keys.isdisjoint(self.s.assigned)
