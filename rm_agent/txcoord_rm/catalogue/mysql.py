"""MySQL's and MariaDB's catalogue, asked through a DB-API cursor and remembered.

What is remembered may be old: another session changes a table. So the text of SHOW CREATE TABLE is remembered beside the facts,
and `confirmed` compares it once a local transaction holds the table's metadata lock, which keeps every ALTER away until it ends:
after that no column and no index of its own can be missed. What stands outside of the table's own text - triggers, foreign keys
of other tables, stored functions - is read again when it is older than `MAX_AGE_S`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from txcoord_rm.catalogue.table import Column, Event, Reference, Table, Trigger, Unique
from txcoord_rm.sql.backticks import literal, quoted

MAX_AGE_S = 10.0
_COUNTER = re.compile(r" AUTO_INCREMENT=\d+")
_TEMPORARY = "CREATE TEMPORARY"
_KINDS = {
    "VIEW": "it is a view",
    "SYSTEM VIEW": "it is a view",
    "SEQUENCE": "it is a sequence",
    "SYSTEM VERSIONED": "its history would keep what an undo takes back",
}
_NOTHING_SUCH = (1146, 1049)
"""There is no such table, or no such database."""
_OWN_ROW = re.compile(r"\s*SET\s+NEW\s*\.\s*(?:`[^`]+`|\w+)\s*=(?P<value>[^;]*);?\s*", re.IGNORECASE | re.DOTALL)
_CALL = re.compile(r"([\w$`]+)\s*\(")
_HARMLESS = frozenset(
    {"now", "current_timestamp", "sysdate", "utc_timestamp", "curdate", "curtime", "upper", "lower", "trim", "ltrim", "rtrim"}
    | {"concat", "coalesce", "ifnull", "nullif", "if", "round", "abs", "length", "char_length", "md5", "sha1", "sha2", "uuid"}
    | {"left", "right", "substring", "substr", "replace", "greatest", "least", "floor", "ceiling"}
)
"""Functions of the database that change nothing."""

_TABLE = "SELECT table_schema, table_name, table_type, engine FROM information_schema.tables WHERE "
_COLUMNS = (
    "SELECT column_name, data_type, column_type, character_set_name, collation_name, extra "
    "FROM information_schema.columns WHERE {} ORDER BY ordinal_position"
)
_INDEXES = (
    "SELECT index_name, column_name, sub_part FROM information_schema.statistics WHERE {} AND non_unique = 0 "
    "ORDER BY index_name, seq_in_index"
)
_TRIGGERS = (
    "SELECT trigger_name, action_timing, event_manipulation, action_statement FROM information_schema.triggers "
    "WHERE event_object_schema = {} AND event_object_table = {} ORDER BY trigger_name"
)
_REFERENCES = (
    "SELECT k.referenced_table_schema, k.referenced_table_name, k.table_schema, k.table_name, k.constraint_name, k.column_name, "
    "k.referenced_column_name, r.delete_rule, r.update_rule FROM information_schema.referential_constraints AS r "
    "JOIN information_schema.key_column_usage AS k ON k.constraint_schema = r.constraint_schema "
    "AND k.constraint_name = r.constraint_name AND k.table_name = r.table_name WHERE k.referenced_table_name IS NOT NULL "
    "ORDER BY k.table_schema, k.table_name, k.constraint_name, k.ordinal_position"
)
_FUNCTIONS = (
    "SELECT routine_name FROM information_schema.routines "
    "WHERE routine_type = 'FUNCTION' AND sql_data_access NOT IN ('NO SQL', 'READS SQL DATA')"
)
_LEAVES = frozenset({"RESTRICT", "NO ACTION"})


@dataclass(frozen=True, slots=True)
class _Known:
    """Facts, the text of the table that they tell of, and when they were read."""

    table: Table
    text: str
    read_at: float


class MysqlCatalogue:
    """Of one database server. May be shared by threads: what one of them reads twice is the same.

    A foreign key of a table on which the connection's user has no privilege is not seen, and neither are its triggers without the
    privilege TRIGGER on the table itself.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Known] = {}
        self._references: tuple[float, dict[tuple[str, str], tuple[Reference, ...]]] = (0.0, {})
        self._functions: tuple[float, frozenset[str]] = (0.0, frozenset())
        self._folds: bool | None = None
        """Whether names of tables are the same in upper and lower case."""
        self.returns_inserted = False
        """Whether INSERT ... RETURNING is known: MariaDB from 10.5 on."""

    def table(self, cursor: Any, schema: str, name: str) -> Table | None:
        """What is known of a table; None: there is none.

        Args:
            cursor: Of DB-API.
            schema: As the application writes it.
            name: As the application writes it.
        """
        if self._folds is None:
            ((folds, version),) = _rows(cursor, "SELECT @@lower_case_table_names, VERSION()")
            numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
            self.returns_inserted = "MARIADB" in version.upper() and numbers >= (10, 5)
            self._folds = bool(int(folds))
        key = (schema.lower(), name.lower()) if self._folds else (schema, name)
        known = self._known.get(key)
        if known is None or time.monotonic() - known.read_at > MAX_AGE_S:
            text = _text(cursor, *key)
            if text is None:
                return None
            table = self._read(cursor, *key, text)
            if table is None:
                return None
            known = _Known(table, text, time.monotonic())
            if not text.startswith(_TEMPORARY):  # what one session has hides nothing from others
                self._known[key] = known
        return known.table

    def confirmed(self, cursor: Any, table: Table) -> bool:
        """Whether the table is now what these facts say; if not, they are forgotten.

        Args:
            cursor: In a local transaction that has used the table, so that it stays as it is.
            table: The facts.
        """
        key = table.root
        known = self._known.get(key)
        if known is not None and known.table == table and known.text == _text(cursor, *key):
            return True
        self._known.pop(key, None)
        return False

    def writing_functions(self, cursor: Any) -> frozenset[str]:
        """Names, in lower case, of stored functions that do not declare that they only read."""
        read_at, names = self._functions
        if not read_at or time.monotonic() - read_at > MAX_AGE_S:
            names = frozenset(name.lower() for (name,) in _rows(cursor, _FUNCTIONS))
            self._functions = time.monotonic(), names
        return names

    def _read(self, cursor: Any, schema: str, name: str, text: str) -> Table | None:
        where = f"table_schema = {literal(schema)} AND table_name = {literal(name)}"
        found = [row for row in _rows(cursor, _TABLE + where) if self._folds or (row[0], row[1]) == (schema, name)]
        if not found and not text.startswith(_TEMPORARY):
            return None
        kind, engine = found[0][2:4] if found else ("", "")
        indexes: dict[str, list[Any]] = {}
        for index, column, part in _rows(cursor, _INDEXES.format(where)):
            indexes.setdefault(index, []).append((column, part))
        primary = indexes.pop("PRIMARY", [])
        columns = tuple(_column(*row) for row in _rows(cursor, _COLUMNS.format(where)))
        triggers = _rows(cursor, _TRIGGERS.format(literal(schema), literal(name)))
        return Table(
            oid=0,
            schema=schema,
            name=name,
            root=(schema, name),
            columns=columns,
            primary_key=tuple(column for column, _ in primary),
            uniques=tuple(_unique(index, parts) for index, parts in indexes.items()),
            triggers=tuple(_trigger(*row) for row in triggers),
            references=self._pointing_at(cursor, (schema, name)),
            obstacle=_obstacle(kind, engine, text, columns, primary),
        )

    def _pointing_at(self, cursor: Any, key: tuple[str, str]) -> tuple[Reference, ...]:
        """Foreign keys to a table. They are read for all tables at once: the database looks through all of them anyhow."""
        read_at, found = self._references
        if not read_at or time.monotonic() - read_at > MAX_AGE_S:
            keys: dict[tuple[str, ...], list[Any]] = {}
            for row in _rows(cursor, _REFERENCES):
                keys.setdefault((*row[:5], row[7], row[8]), []).append((row[5], row[6]))
            found = {}
            for (schema, name, their_schema, theirs, _, deleted, updated), columns in keys.items():
                target = (schema.lower(), name.lower()) if self._folds else (schema, name)
                reference = Reference(
                    f"{quoted(their_schema)}.{quoted(theirs)}",
                    tuple(their for their, _ in columns),
                    tuple(ours for _, ours in columns),
                    on_delete=deleted not in _LEAVES,
                    on_update=updated not in _LEAVES,
                    to_itself=(schema, name) == (their_schema, theirs),
                )
                found[target] = (*found.get(target, ()), reference)
            self._references = time.monotonic(), found
        return found.get(key, ())


def _rows(cursor: Any, sql: str) -> list[Any]:
    cursor.execute(sql)
    return list(cursor.fetchall())


def _text(cursor: Any, schema: str, name: str) -> str | None:
    """How the table is made, without the counter that INSERT moves; None: there is no such table."""
    try:
        ((_, text, *_),) = _rows(cursor, f"SHOW CREATE TABLE {quoted(schema)}.{quoted(name)}")
    except Exception as error:  # the driver's own classes differ, the database's numbers do not
        if error.args and error.args[0] in _NOTHING_SUCH:
            return None
        raise
    return _COUNTER.sub("", str(text))


def _column(name: str, base: str, kind: str, charset: str | None, collation: str | None, extra: str) -> Column:
    said = extra.upper()
    return Column(
        name,
        kind,
        base.lower(),
        generated="GENERATED" in said and "DEFAULT_GENERATED" not in said,
        charset=charset or "",
        collation=collation or "",
        numbered="AUTO_INCREMENT" in said,
        touched="ON UPDATE" in said,
    )


def _unique(index: str, parts: list[Any]) -> Unique:
    plain = all(column is not None and part is None for column, part in parts)  # no expression, no part of a text
    return Unique(index, tuple(column for column, _ in parts) if plain else ())


def _trigger(name: str, timing: str, event: str, statement: str) -> Trigger:
    match = _OWN_ROW.fullmatch(statement)
    calls = {call.strip("`").lower() for call in _CALL.findall(match["value"])} if match else set()
    harmless = match is not None and calls <= _HARMLESS and ":=" not in match["value"] and timing.upper() == "BEFORE"
    return Trigger(name, frozenset({Event(event.upper())}), timing.upper() == "AFTER", harmless)


def _obstacle(kind: str, engine: str | None, text: str, columns: tuple[Column, ...], primary: list[Any]) -> str:
    key = {column for column, _ in primary}
    in_key = [column for column in columns if column.name in key]
    if text.startswith(_TEMPORARY):
        return "it is temporary, or hidden by one that is, and gone with the session"
    if kind.upper() != "BASE TABLE":
        return _KINDS.get(kind.upper(), "it is no table")
    if (engine or "").upper() != "INNODB":
        return f"its engine {engine} does not roll back"
    if "PERIOD FOR " in text:
        return "it has a period, whose overlaps no key tells"
    if any(part is not None for _, part in primary):
        return "its primary key takes a part of a text"
    if any(column.generated for column in in_key):
        return "its primary key is generated"
    if any(column.base == "float" for column in in_key):
        return "its primary key is a FLOAT, which cannot be compared exactly"
    return "" if primary else "it has no primary key"
