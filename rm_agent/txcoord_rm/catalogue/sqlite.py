"""SQLite's catalogue: what its PRAGMAs and the text of its schema say of one table of the database `main`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from txcoord_proto.errors import UnsupportedSqlError

from txcoord_rm.catalogue.table import Column, Event, Reference, Table, Trigger, Unique
from txcoord_rm.sql.flavour import Binds, Family, Flavour
from txcoord_rm.sql.lexer import Token, tokens
from txcoord_rm.sql.quoting import quoted

Rows = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]
"""Runs a query and gives its rows, whatever the connection makes of rows and texts otherwise."""

OLDEST = (3, 35, 0)
BUILT_IN_COLLATIONS = frozenset({"BINARY", "NOCASE", "RTRIM"})
ROWID = frozenset({"rowid", "oid", "_rowid_"})
"""Names by which the column that is the rowid goes, too, unless columns have them."""

_FLAVOUR = Flavour(Family.SQLITE, Binds.NATIVE)
_CHANGES_TOO = frozenset({"CASCADE", "SET NULL", "SET DEFAULT"})
_EVENTS = {event.value: event for event in Event}
# As expressions, columns have no declared type by which a converter of the application could be chosen.
_OBJECT = (
    "SELECT +type, +name, CAST(sql AS TEXT) FROM {}.sqlite_master WHERE type IN ('table', 'view') AND name = ? COLLATE NOCASE"
)
_COLUMNS = "SELECT +name, +type, +pk, +hidden FROM pragma_table_xinfo(?, 'main') ORDER BY cid"
_INDEXES = (
    "SELECT +l.name, +l.origin, +l.partial, +x.name, +x.coll FROM pragma_index_list(?, 'main') AS l, "
    "pragma_index_xinfo(l.name, 'main') AS x WHERE l.\"unique\" AND x.key ORDER BY l.seq, x.seqno"
)
_TRIGGERS = "SELECT +name, CAST(sql AS TEXT) FROM {}.sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE"
_REFERENCES = (
    'SELECT +m.name, +f.id, +f."from", +f."to", +f.on_update, +f.on_delete FROM main.sqlite_master AS m, '
    "pragma_foreign_key_list(m.name, 'main') AS f WHERE m.type = 'table' AND f.\"table\" = ? COLLATE NOCASE "
    "ORDER BY m.name, f.id, f.seq"
)
_PARENTS = (
    'SELECT +f.id, +f."table", +f."to", +f."from", (SELECT +p.name FROM pragma_table_xinfo(f."table", \'main\') AS p '
    "WHERE p.pk = f.seq + 1) FROM pragma_foreign_key_list(?, 'main') AS f ORDER BY f.id, f.seq"
)


@dataclass(frozen=True, slots=True)
class SqliteTable(Table):
    """What only SQLite has to say of a table.

    Args:
        key_collations: By which values of the primary key are equal, column by column.
        unique_collations: The same of `uniques`, one by one.
        conflicts: What its constraints do by themselves with a row that violates them: REPLACE, IGNORE, FAIL, ROLLBACK, ABORT.
        rowid: The column that is the rowid; empty: none is.
        parents: Foreign keys of this table: `table` is the one that it refers to.
        schema_version: Of the database, when this was read.
    """

    key_collations: tuple[str, ...] = ()
    unique_collations: tuple[tuple[str, ...], ...] = ()
    conflicts: frozenset[str] = frozenset()
    rowid: str = ""
    parents: tuple[Reference, ...] = ()
    schema_version: int = 0

    def named(self, name: str) -> str | None:
        """The column that a statement calls so, as the catalogue writes it; None: there is none."""
        folded = _folded(name)
        found = next((column.name for column in self.columns if _folded(column.name) == folded), None)
        return (self.rowid or None) if found is None and folded in ROWID else found


def schema_version(rows: Rows) -> int:
    """A number that changes whenever the schema does."""
    return int(rows("PRAGMA main.schema_version", ())[0][0])


def table(rows: Rows, parts: Sequence[str]) -> SqliteTable | None:
    """The table that a statement names; None: there is none.

    Args:
        rows: Runs queries.
        parts: Its name, with that of its database if the statement says so.
    """
    name, database = parts[-1], _folded(parts[0]) if len(parts) > 1 else ""
    if (not database and rows(_OBJECT.format("temp"), (name,))) or database == "temp":
        return _obstructed(name, "it is temporary, and gone with the connection")
    if database not in ("", "main"):
        return _obstructed(name, f"it is in the attached database {parts[0]}")
    found = rows(_OBJECT.format("main"), (name,))
    if not found:
        return None if database else _attached(rows, name)
    kind, name, sql = found[0]
    columns = rows(_COLUMNS, (name,))
    indexes = [_index(list(group)) for _, group in groupby(rows(_INDEXES, (name,)), key=lambda row: row[0])]
    key = tuple(row[0] for row in sorted((row for row in columns if row[2]), key=lambda row: row[2]))
    primary = next((collations for unique, collations, origin in indexes if origin == "pk"), None)
    others = [(unique, collations) for unique, collations, origin in indexes if origin != "pk"]
    conflicts = _conflicts(sql)
    made = SqliteTable(
        oid=0,
        schema="main",
        name=name,
        root=("main", name),
        columns=tuple(Column(row[0], row[1], _affinity(row[1]), generated=row[3] in (2, 3)) for row in columns),
        primary_key=key,
        uniques=tuple(unique for unique, _ in others),
        triggers=tuple(_trigger(*row) for schema in ("main", "temp") for row in rows(_TRIGGERS.format(schema), (name,))),
        references=tuple(_references(rows(_REFERENCES, (name,)), name, key)),
        obstacle=_obstacle(kind, name, sql, key, conflicts) or _environment(rows),
        key_collations=("BINARY",) * len(key) if primary is None else primary,
        unique_collations=tuple(collations for _, collations in others),
        conflicts=conflicts or frozenset(),
        rowid=key[0] if key and primary is None else "",
        parents=tuple(_parents(rows(_PARENTS, (name,)))),
        schema_version=schema_version(rows),
    )
    strange = {*made.key_collations, *(c for collations in made.unique_collations for c in collations)} - BUILT_IN_COLLATIONS
    if strange and not made.obstacle:
        return _obstructed(name, f"the collation {min(strange)} is the application's own, and unknown where it is undone")
    return made


def _obstructed(name: str, obstacle: str) -> SqliteTable:
    return SqliteTable(0, "main", name, ("main", name), (), (), obstacle=obstacle)


def _attached(rows: Rows, name: str) -> SqliteTable | None:
    for (database,) in rows("SELECT +name FROM pragma_database_list WHERE name NOT IN ('main', 'temp')", ()):
        if rows(_OBJECT.format(quoted(database)), (name,)):
            return _obstructed(name, f"it is in the attached database {database}")
    return None


def _obstacle(kind: str, name: str, sql: str, key: tuple[str, ...], conflicts: frozenset[str] | None) -> str:
    if kind == "view":
        return "it is a view"
    if _folded(name).startswith("sqlite_"):
        return "it is SQLite's own"
    if conflicts is None:
        return "its definition cannot be read for certain"
    if sql.split(None, 2)[1].upper() == "VIRTUAL":
        return "it is a virtual table, whose rows are elsewhere"
    if ends := conflicts & {"FAIL", "ROLLBACK"}:
        return f"its constraints say ON CONFLICT {min(ends)}, which leaves statements half done or ends the transaction"
    return "" if key else "it has no primary key"


def _environment(rows: Rows) -> str:
    """What stands against the database as a whole."""
    ((version, encoding),) = rows("SELECT sqlite_version(), (SELECT +encoding FROM pragma_encoding)", ())
    if tuple(map(int, version.split("."))) < OLDEST:
        return f"this is SQLite {version}, older than {'.'.join(map(str, OLDEST))}"
    return "" if encoding == "UTF-8" else f"its database holds texts as {encoding}"


def _index(rows: list[tuple[Any, ...]]) -> tuple[Unique, tuple[str, ...], str]:
    """A unique index, its collations, and where it comes from."""
    name, origin, partial = rows[0][:3]
    columns = tuple(row[3] for row in rows)
    unique = Unique(name, () if None in columns else columns, bool(partial))
    return unique, tuple(str(row[4]).upper() for row in rows), origin


def _references(rows: Iterable[tuple[Any, ...]], name: str, key: tuple[str, ...]) -> Iterable[Reference]:
    for (child, _), group in groupby(rows, key=lambda row: row[:2]):
        pairs = list(group)
        columns = key if pairs[0][3] is None else tuple(row[3] for row in pairs)  # without names: the primary key
        yield Reference(
            f'"main".{quoted(child)}',
            tuple(row[2] for row in pairs),
            columns,
            on_delete=pairs[0][5].upper() in _CHANGES_TOO,
            on_update=pairs[0][4].upper() in _CHANGES_TOO,
            to_itself=child == name,
        )


def _parents(rows: Iterable[tuple[Any, ...]]) -> Iterable[Reference]:
    for _, group in groupby(rows, key=lambda row: row[0]):
        pairs = list(group)
        theirs = tuple(row[4] if row[2] is None else row[2] for row in pairs)
        if None not in theirs:  # else it refers to what does not exist, and nothing can be written anyway
            yield Reference(f'"main".{quoted(pairs[0][1])}', theirs, tuple(row[3] for row in pairs), False, False)


def _trigger(name: str, sql: str) -> Trigger:
    """What its text says: CREATE [TEMP] TRIGGER [IF NOT EXISTS] name [BEFORE | AFTER | INSTEAD OF] event ..."""
    found = _tokens(sql)
    words = [] if found is None else [token.text.upper() for token in found]
    try:
        place = words.index("TRIGGER") + 1
        place += 3 if words[place : place + 3] == ["IF", "NOT", "EXISTS"] else 0
        place += 3 if words[place + 1] == "." else 1
        after = words[place] == "AFTER"
        place += {"BEFORE": 1, "AFTER": 1, "INSTEAD": 2}.get(words[place], 0)
        return Trigger(name, frozenset({_EVENTS[words[place]]}), after, own_row_only=False)
    except (ValueError, IndexError, KeyError):
        return Trigger(name, frozenset(Event), after=True, own_row_only=False)


def _conflicts(sql: str | None) -> frozenset[str] | None:
    """What stands behind ON CONFLICT in the definition; None: that is not certain."""
    found = _tokens(sql or "")
    if found is None:
        return None
    return frozenset(after.text for token, after in pairwise(found) if token.text == "CONFLICT")


def _tokens(sql: str) -> list[Token] | None:
    try:
        return tokens(sql, _FLAVOUR)
    except UnsupportedSqlError:
        return None


def _affinity(declared: str) -> str:
    """By https://www.sqlite.org/datatype3.html#determination_of_column_affinity."""
    written = declared.upper()
    for affinity, signs in (("INTEGER", ("INT",)), ("TEXT", ("CHAR", "CLOB", "TEXT")), ("BLOB", ("BLOB",))):
        if any(sign in written for sign in signs):
            return affinity
    if not written:
        return "BLOB"
    return "REAL" if any(sign in written for sign in ("REAL", "FLOA", "DOUB")) else "NUMERIC"


def _folded(name: str) -> str:
    """Names are the same whatever the case of their ASCII letters."""
    return "".join(c.lower() if c.isascii() else c for c in name)
