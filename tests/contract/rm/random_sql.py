"""Random tables, rows and statements for PostgreSQL. None of them leaves to the database which row it takes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from txcoord_rm.sql.quoting import quoted

MARK = "\x01"
"""Where a parameter stands, until the text is finished."""
NAMES = ["a", "b", "Bal", "select", 'q"x', "p%c", "n m", "ü", "old", "k's"]
LITERALS: dict[str, list[str]] = {
    "integer": ["0", "1", "2", "3", "7", "'-5'", "2147483647"],
    "bigint": ["0", "1", "2", "3", "'-9223372036854775808'", "9007199254740993"],
    "smallint": ["0", "1", "2", "32767"],
    "numeric": ["0", "1", "1.0", "1.00", "2.50", "'-7.125'", "'NaN'", "12345678901234567890.123456789"],
    "numeric(8,2)": ["0", "1", "2.5", "'-3.14'", "999999.99"],
    "double precision": ["0", "'-0'", "1.5", "0.1", "1e300", "5e-324", "'NaN'", "'Infinity'"],
    "real": ["0", "1.5", "0.1", "16777216", "'-Infinity'"],
    "text": ["''", "'a'", "'A'", "'a b'", "'x,y'", "'(p)'", "'q\"q'", "E'b\\\\s'", "E'n\\nl'", "'100%'", "'é'", "'null'"],
    "character varying(12)": ["''", "'a'", "'b'", "'long enough'"],
    "character(4)": ["'a'", "'b '", "'abcd'"],
    "boolean": ["true", "false"],
    "date": ["'2026-01-31'", "'0044-03-15 BC'", "'infinity'"],
    "timestamp": ["'2026-01-31 12:00:00.000001'", "'-infinity'"],
    "timestamptz": ["'2026-03-29 02:30+00'", "'1900-01-01 00:00:00+00:19:32'"],
    "interval": ["'1 mon'", "'30 days'", "'-1 day +02:03:04.5'", "'0'"],
    "uuid": ["'00000000-0000-0000-0000-000000000001'", "'12345678-1234-5678-1234-567812345678'"],
    "bytea": ["''", "'\\x00ff'", "'\\x5c27'"],
    "json": ['\'{"a":  1, "a": 2}\'', "'null'", "'[]'"],
    "jsonb": ["'{\"a\": 1.0}'", "'null'", "'[1, \"x\"]'"],
    "integer[]": ["'{}'", "'{1,2,NULL}'", "'[0:1]={3,4}'"],
    "text[]": ["'{}'", '\'{"a,b",NULL,"NULL",""}\''],
    "inet": ["'10.0.0.1'", "'10.0.0.0/8'"],
    "bit(5)": ["B'10101'", "B'00000'"],
    "int4range": ["'[1,5)'", "'empty'"],
    "point": ["'(1,2)'", "'(0.1,-0)'"],
}
CHANGES: dict[str, list[str]] = {
    "integer": ["{} + 1", "{} * 2", "- {}", "10 / {}"],
    "bigint": ["{} + 1", "{} - 3"],
    "smallint": ["{} + 1::smallint"],
    "numeric": ["{} + 0.10", "{} * 2"],
    "numeric(8,2)": ["{} + 0.5", "{} * 1000"],
    "double precision": ["{} * 1.5", "{} + 1"],
    "text": ["{} || 'x'", "upper({})", "repeat({}, 2)"],
    "character varying(12)": ["{} || 'yz'"],
    "boolean": ["NOT {}"],
    "date": ["{} + 1"],
    "timestamptz": ["{} + interval '1 day'"],
    "interval": ["{} * 2"],
    "bytea": ["{} || '\\x00'"],
    "jsonb": ["jsonb_build_object('v', {})"],
    "integer[]": ["{} || 9", "array_remove({}, 1)"],
    "inet": ["{} + 1"],
}
KEYS = ["integer", "bigint", "text", "uuid", "numeric", "character(4)", "date", "timestamptz"]
UNIQUE = [*KEYS, "double precision", "boolean", "smallint", "interval", "integer[]", "bytea"]


@dataclass
class Column:
    name: str
    type: str
    generated: bool = False
    identity: bool = False

    @property
    def quoted(self) -> str:
        return quoted(self.name)


@dataclass
class Table:
    name: str
    columns: list[Column]
    key: list[Column]
    unique: set[str] = field(default_factory=set)
    """Columns of any unique index."""
    statements: list[str] = field(default_factory=list)

    @property
    def written(self) -> str:
        return quoted(self.name)

    @property
    def settable(self) -> list[Column]:
        return [column for column in self.columns if not column.generated and not column.identity]


@dataclass
class Statement:
    """One statement.

    Args:
        sql: It, with `%s` for parameters, if there are any.
        parameters: None: it has none.
        hangs_on_order: Whether a constraint may fail or not by the order in which rows are changed.
    """

    sql: str
    parameters: tuple[object, ...] | None
    hangs_on_order: bool


class Chance(random.Random):
    """Makes things by chance."""

    def literal(self, type_: str, null: float = 0.12) -> str:
        if self.random() < null:
            return "NULL"
        return f"{self.choice(LITERALS[type_])}::{type_}"

    # ------------------------------------------------------------ schemas

    def tables(self, actions: Sequence[str] = ("",)) -> list[Table]:
        """Some tables, the second of which may refer to the first one, with one of these actions."""
        made = [self._table(name) for name in self.sample(["t", "Order", 'x"%y', "child"], self.randint(1, 3))]
        if len(made) > 1 and len(made[0].key) == 1 and self.random() < 0.5:
            made[1].columns.append(Column("parent", made[0].key[0].type))
            made[1].statements.append(
                f"ALTER TABLE {made[1].written} ADD parent {made[0].key[0].type} REFERENCES {made[0].written}"
                f"{self.choice(actions) if len(actions) > 1 else actions[0]}"
            )
        return made

    def _table(self, name: str) -> Table:
        names = self.sample(NAMES, self.randint(3, 7))
        columns = [Column(each, self.choice(list(LITERALS))) for each in names]
        key = columns[: self.choice([1, 1, 2])]
        for column in key:
            column.type = self.choice(KEYS)
        defined = [f"{c.quoted} {c.type}{self._extra(c, c in key)}" for c in columns]
        numbers = [c for c in columns if c.type == "integer"]
        if numbers and self.random() < 0.3:
            columns.append(Column("gen", "integer", generated=True))
            defined.append(f"gen integer GENERATED ALWAYS AS ({numbers[0].quoted} % 100) STORED")
        if self.random() < 0.2:
            columns.append(Column("num", "bigint", identity=True))
            defined.append(f"num bigint GENERATED {self.choice(['ALWAYS', 'BY DEFAULT'])} AS IDENTITY")
        self.shuffle(defined)
        table = Table(name, columns, self.sample(key, len(key)))
        primary = f"PRIMARY KEY ({', '.join(c.quoted for c in table.key)})"
        parts = f" PARTITION BY HASH ({key[0].quoted})" if self.random() < 0.2 else ""
        table.statements.append(f"CREATE TABLE {table.written} ({', '.join([*defined, primary])}){parts}")
        for n in range(2 if parts else 0):
            leaf = quoted(f"{name}_{n}")
            table.statements.append(
                f"CREATE TABLE {leaf} PARTITION OF {table.written} FOR VALUES WITH (MODULUS 2, REMAINDER {n})"
            )
        table.statements += self._indexes(table, bool(parts))
        if self.random() < 0.1:
            table.statements.append(
                f"CREATE TRIGGER same BEFORE UPDATE ON {table.written} FOR EACH ROW "
                "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
            )
        return table

    def _extra(self, column: Column, key: bool) -> str:
        if not key and self.random() < 0.2:
            return f" DEFAULT {self.literal(column.type, 0)}"
        if not key and self.random() < 0.1:
            return " NOT NULL"
        if column.type in CHANGES and column.type in UNIQUE and self.random() < 0.1:
            return f" CHECK ({column.quoted} IS DISTINCT FROM {self.literal(column.type, 0)})"
        return ""

    def _indexes(self, table: Table, partitioned: bool) -> Iterator[str]:
        for column in table.columns:
            if column in table.key or column.type not in UNIQUE or self.random() > 0.25:
                continue
            expression, condition = column.quoted, ""
            if column.type == "text" and self.random() < 0.4:
                expression = f"lower({column.quoted})"
            if self.random() < 0.3:
                condition = f" WHERE {table.key[0].quoted} > {self.literal(table.key[0].type, 0)}"
            columns = [expression, *(c.quoted for c in table.key if partitioned)]
            table.unique.add(column.name)
            yield f"CREATE UNIQUE INDEX ON {table.written} ({', '.join(columns)}){condition}"

    # ------------------------------------------------------------ rows and statements

    def row(self, table: Table) -> str:
        columns = table.settable
        values = ", ".join(self.literal(c.type, 0 if c in table.key else 0.12) for c in columns)
        names = ", ".join(c.quoted for c in columns)
        return f"INSERT INTO {table.written} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING"

    def statement(self, tables: Sequence[Table]) -> Statement:
        table = self.choice(tables)
        many = [self._update, self._update, self._update_from, self._delete, self._insert, self._insert, self._upsert]
        make = self.choice([*many, *many, self._merge])
        sql, shifts = make(table)
        parameters = tuple(self._parameter(kind) for kind in sql.split(MARK)[1::2])
        if not parameters:
            return Statement(sql, None, shifts)
        texts = [part.replace("%", "%%") for part in sql.split(MARK)[::2]]
        return Statement("%s".join(texts), parameters, shifts)

    def _parameter(self, kind: str) -> object:
        numbers, texts = [0, 1, 2, 3, 7], ["", "a", "A", "a b", 'q"', "%"]
        return self.choice(texts) if kind == "text" else self.choice(numbers)

    def _value(self, type_: str) -> str:
        """A literal, or now and then a parameter."""
        if type_ in ("integer", "bigint", "text") and self.random() < 0.4:
            return f"{MARK}{type_}{MARK}{self.choice(['', f'::{type_}'])}"
        return self.literal(type_)

    def _set(self, table: Table, reference: str) -> tuple[str, bool]:
        columns = self.sample(table.settable, min(len(table.settable), self.choice([1, 1, 2, 3])))
        found, shifts = [], False
        for column in columns:
            if column in table.key and self.random() < 0.6:
                continue
            value = self.choice(["literal", "literal", "change", "default", "query"])
            if value == "change" and column.type in CHANGES:
                found.append(f"{column.quoted} = {self.choice(CHANGES[column.type]).format(f'{reference}.{column.quoted}')}")
            elif value == "default":
                found.append(f"{column.quoted} = DEFAULT")
            elif value == "query" and column.type in UNIQUE and column.type not in ("uuid", "boolean", "integer[]", "bytea"):
                found.append(f"{column.quoted} = (SELECT max(m.{column.quoted}) FROM {table.written} AS m)")
            else:
                found.append(f"{column.quoted} = {self._value(column.type)}")
            shifts |= column in table.key or column.name in table.unique
        if not found:
            column = columns[0]
            return f"{column.quoted} = {self._value(column.type)}", True
        return ", ".join(found), shifts

    def _where(self, table: Table, reference: str) -> str:
        column = self.choice(table.columns)
        key = table.key[0]
        match self.choice(["none", "key", "key", "keys", "in", "compare", "null", "exists", "or"]):
            case "none":
                return ""
            case "key":
                return f" WHERE {reference}.{key.quoted} = {self._value(key.type)}"
            case "keys":
                pinned = (f"{reference}.{c.quoted} = {self._value(c.type)}" for c in table.key)
                return f" WHERE {' AND '.join(pinned)}"
            case "in":
                return f" WHERE {key.quoted} IN ({self._value(key.type)}, {self._value(key.type)})"
            case "null":
                return f" WHERE {column.quoted} IS {self.choice(['', 'NOT '])}NULL"
            case "exists":
                return f" WHERE EXISTS (SELECT 1 FROM {table.written} AS e WHERE e.{key.quoted} > {reference}.{key.quoted})"
            case "or" if column.type in UNIQUE:
                return f" WHERE {column.quoted} = {self._value(column.type)} OR {key.quoted} = {self._value(key.type)}"
        if column.type in UNIQUE:
            return f" WHERE {column.quoted} {self.choice(['<', '>', '<=', '<>'])} {self._value(column.type)}"
        return ""

    def _returning(self, table: Table, reference: str, joined: bool = False) -> str:
        column = self.choice(table.columns)
        star = f"{reference}.*" if joined else "*"
        item = f"{reference}.{column.quoted}"
        return self.choice(
            [
                "",
                "",
                f" RETURNING {star}",
                f" RETURNING {item}, {item} AS {quoted('x y')}",
                f" RETURNING ({item}) IS NULL, {star}",
            ]
        )

    def _update(self, table: Table) -> tuple[str, bool]:
        alias = self.choice(["", " AS u", ' "A"'])
        reference = alias.split()[-1] if alias else table.written
        sets, shifts = self._set(table, reference)
        return (
            f"UPDATE {table.written}{alias} SET {sets}{self._where(table, reference)}{self._returning(table, reference)}",
            shifts,
        )

    def _update_from(self, table: Table) -> tuple[str, bool]:
        key = table.key[0]
        sets, shifts = self._set(table, table.written)
        values = ", ".join(f"({value})" for value in dict.fromkeys(self.literal(key.type, 0) for _ in range(3)))
        source = f"SELECT DISTINCT k FROM (VALUES {values}) AS v (k)"
        rest = f"SET {sets} FROM {{}} WHERE v.k = {table.written}.{key.quoted}{self._returning(table, table.written, True)}"
        if self.random() < 0.5:
            return f"WITH v AS ({source}) UPDATE {table.written} {rest.replace('{}', 'v')}", shifts
        return f"UPDATE {table.written} {rest.replace('{}', f'({source}) AS v')}", shifts

    def _delete(self, table: Table) -> tuple[str, bool]:
        if self.random() < 0.3:
            key = table.key[0]
            values = f"(VALUES ({self.literal(key.type, 0)})) AS v (k)"
            returning = self._returning(table, table.written, True)
            return f"DELETE FROM {table.written} USING {values} WHERE v.k = {table.written}.{key.quoted}{returning}", False
        return f"DELETE FROM {table.written}{self._where(table, table.written)}{self._returning(table, table.written)}", False

    def _insert(self, table: Table) -> tuple[str, bool]:
        columns = [c for c in table.settable if c in table.key or self.random() < 0.8]
        names = ", ".join(c.quoted for c in columns)
        rows = ", ".join(f"({', '.join(self._cell(table, c) for c in columns)})" for _ in range(self.choice([1, 1, 3])))
        conflict = self.choice(["", "", " ON CONFLICT DO NOTHING"])
        source = f"VALUES {rows}"
        if self.random() < 0.2:
            changed = (CHANGES[c.type][0].format(c.quoted) if c.type in CHANGES else c.quoted for c in columns)
            order = ", ".join(c.quoted for c in table.key)
            source = f"SELECT {', '.join(changed)} FROM {table.written} ORDER BY {order}"
        return f"INSERT INTO {table.written} ({names}) {source}{conflict}{self._returning(table, table.written)}", False

    def _cell(self, table: Table, column: Column) -> str:
        if column not in table.key and self.random() < 0.1:
            return "DEFAULT"
        return self._value(column.type) if column not in table.key else self.literal(column.type, 0.02)

    def _upsert(self, table: Table) -> tuple[str, bool]:
        columns = table.settable
        names = ", ".join(c.quoted for c in columns)
        values = ", ".join(self.literal(c.type, 0 if c in table.key else 0.12) for c in columns)
        sets, shifts = self._set(table, table.written)
        key = ", ".join(c.quoted for c in table.key)
        return (
            f"INSERT INTO {table.written} ({names}) VALUES ({values}) ON CONFLICT ({key}) DO UPDATE SET {sets}"
            f"{self._returning(table, table.written)}"
        ), shifts

    def _merge(self, table: Table) -> tuple[str, bool]:
        key, columns = table.key[0], table.settable
        keys = ", ".join(f"({value})" for value in dict.fromkeys(self.literal(key.type, 0) for _ in range(4)))
        names = ", ".join(c.quoted for c in columns)
        values = ", ".join("v.k" if c is key else self.literal(c.type, 0 if c in table.key else 0.12) for c in columns)
        sets, shifts = self._set(table, table.written)
        condition = self._where(table, table.written).replace(" WHERE ", " AND ", 1)
        source = f"(SELECT DISTINCT k FROM (VALUES {keys}) AS v (k)) AS v"
        clauses = [
            f"WHEN MATCHED{condition} THEN DELETE",
            f"WHEN MATCHED THEN UPDATE SET {sets}",
            f"WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})",
        ]
        kept = [clause for clause in clauses if self.random() < 0.8] or clauses
        returning = self._returning(table, table.written, True)
        return (
            f"MERGE INTO {table.written} USING {source} ON v.k = {table.written}.{key.quoted} {' '.join(kept)}{returning}",
            shifts,
        )
