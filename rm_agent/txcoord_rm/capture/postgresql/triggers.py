"""Triggers by which a table captures its own changes, whoever makes them: a cascade, a function, MERGE, another trigger.

They fire for each statement, with all of its rows in transition tables, and only while the setting `txcoord.capture` names a
branch of the local transaction: otherwise the database looks at the setting and no further. What they leave is an undo record as
any other, and the rows' lock keys in the setting `txcoord.keys`. What they do is made from the catalogue's facts of the table, so
whether they still fit it is a comparison of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from hashlib import md5

from sqlalchemy import TextClause, text
from txcoord_proto.errors import ConfigurationError

from txcoord_rm.capture.keys import Keys, Row
from txcoord_rm.capture.postgresql import admission
from txcoord_rm.catalogue.postgresql import CAPTURING
from txcoord_rm.catalogue.table import Event, Table, Unique
from txcoord_rm.sql.quoting import literal, quoted

ENTRY, KEYS = "txcoord.capture", "txcoord.keys"
"""Settings: the branch and the XID to which changes belong, or `ONLY_KEYS`; and keys of the rows that were changed."""
ONLY_KEYS = "keys"
_LONGEST = 63
"""Bytes of a name."""
_TRANSITIONS = {
    Event.INSERT: "REFERENCING NEW TABLE AS txcoord_n",
    Event.UPDATE: "REFERENCING OLD TABLE AS txcoord_o NEW TABLE AS txcoord_n",
    Event.DELETE: "REFERENCING OLD TABLE AS txcoord_o",
}
_OLD, _NEW = Row("txcoord_old"), Row("txcoord_new")
_PAIRS = (
    "(SELECT row_number() OVER () AS txcoord_place, txcoord_o.* FROM txcoord_o) AS txcoord_old JOIN "
    "(SELECT row_number() OVER () AS txcoord_place, txcoord_n.* FROM txcoord_n) AS txcoord_new USING (txcoord_place)"
)
"""A row that an UPDATE changes comes into both tables at once, so that its place in them is the same."""
_FROM = {Event.INSERT: "txcoord_n AS txcoord_new", Event.DELETE: "txcoord_o AS txcoord_old", Event.UPDATE: _PAIRS}


def obstacle(table: Table) -> str:
    """Why triggers cannot capture changes of a table; empty: they can."""
    if why := admission.obstacle(table):
        return why
    if table.partitioned or table.root != (table.schema, table.name):
        return "its rows are in partitions, which triggers of a statement do not tell apart"
    return next(filter(None, map(admission.unsteady_column, table.columns)), "")


def fault(table: Table, log: str) -> str:
    """What is wrong with the triggers of a table; empty: they capture all of its changes.

    Args:
        table: It.
        log: The undo log's name, as it is written in SQL.
    """
    if why := obstacle(table):
        return why
    if not table.capturing:
        return "no triggers capture it"
    if dict(table.capturing) == dict.fromkeys(_names(), _digest(table, log)):
        return ""
    if "" in dict(table.capturing).values():
        return "a trigger that captures it is disabled, or does not fire always"
    return "the triggers that capture it are of another version, or for the table as it was: install them again"


def install(table: Table, log: str) -> list[str]:
    """Statements after which triggers capture all changes of a table, and exactly these.

    Args:
        table: It.
        log: See `fault`.

    Raises:
        ConfigurationError: They cannot.
    """
    name = _named(table)
    if why := obstacle(table):
        raise ConfigurationError(f"triggers cannot capture changes of {table.schema}.{table.name}: {why}")
    body = _body(table, log)
    quoted_body = literal(body) if "$txcoord$" in body else f"$txcoord$\n{body}$txcoord$"
    statements = [
        # with the rights of its owner: whoever writes the table may need none on the log
        f"CREATE OR REPLACE FUNCTION {_function(table)}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER\n"
        "SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, MDY' SET extra_float_digits = 1\n"
        f"SET intervalstyle = 'postgres' SET standard_conforming_strings = on SET jit = off AS {quoted_body}"
    ]
    when = f"WHEN (pg_catalog.current_setting('{ENTRY}', true) <> '') EXECUTE FUNCTION {_function(table)}()"
    for trigger, begin in zip(_names(), (*(f"AFTER {event.value}" for event in Event), "BEFORE TRUNCATE"), strict=True):
        transition = next((f" {rows}" for event, rows in _TRANSITIONS.items() if begin.endswith(event.value)), "")
        statements += [
            f"DROP TRIGGER IF EXISTS {trigger} ON {name}",
            f"CREATE TRIGGER {trigger} {begin} ON {name}{transition}\nFOR EACH STATEMENT {when}",
            f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER {trigger}",
        ]
    return statements


def remove(table: Table) -> list[str]:
    """Statements after which no trigger of ours is on a table."""
    dropped = [f"DROP TRIGGER IF EXISTS {quoted(name)} ON {_named(table)}" for name in {*_names(), *dict(table.capturing)}]
    return [*sorted(dropped), f"DROP FUNCTION IF EXISTS {_function(table)}()"]


SOME = f"SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgname = '{CAPTURING}insert' AND tgenabled = 'A')"
"""Whether any table has them."""


def run(execute: Callable[[TextClause], object], statements: Iterable[str]) -> None:
    """Run such statements.

    Args:
        execute: Of a SQLAlchemy connection, or of `alembic.op`.
        statements: They.
    """
    for statement in statements:
        execute(text(statement.replace(":", "\\:")))  # no colon in it is a parameter


def _names() -> tuple[str, ...]:
    return (*(f"{CAPTURING}{event.value.lower()}" for event in Event), f"{CAPTURING}truncate")


def _named(table: Table) -> str:
    return f"{quoted(table.schema)}.{quoted(table.name)}"


def _function(table: Table) -> str:
    name = CAPTURING + table.name
    if len(name.encode()) > _LONGEST:
        digest = md5(name.encode(), usedforsecurity=False).hexdigest()[:8]
        name = name.encode()[: _LONGEST - 9].decode(errors="ignore") + "_" + digest
    return f"{quoted(table.schema)}.{quoted(name)}"


@lru_cache(4096)
def _digest(table: Table, log: str) -> str:
    body = _body(table, log)
    return md5((body if "$txcoord$" in body else f"\n{body}").encode(), usedforsecurity=False).hexdigest()


# ------------------------------------------------------------ what they do


def _body(table: Table, log: str) -> str:
    lines = [
        "DECLARE",
        f"    txcoord_entry text := current_setting('{ENTRY}');",
        f"    txcoord_branch bigint := NULLIF(split_part(txcoord_entry, ' ', 1), '{ONLY_KEYS}')::bigint;",
        "    txcoord_keys text[];",
        "BEGIN",
        *(line for event in Event for line in _captured(event, table, log)),
        "    IF TG_OP = 'TRUNCATE' THEN",
        f"        RAISE EXCEPTION USING MESSAGE = {literal(f'TRUNCATE of {table.schema}.{table.name} cannot be undone')};",
        "    END IF;",
        "    IF txcoord_keys IS NOT NULL THEN",
        f"        txcoord_keys := NULLIF(current_setting('{KEYS}', true), '')::text[] || txcoord_keys;",
        f"        PERFORM set_config('{KEYS}', txcoord_keys::text, true);",
        "    END IF;",
        "    RETURN NULL;",
        "END",
        "",
    ]
    return "\n".join(lines)


def _captured(event: Event, table: Table, log: str) -> Iterator[str]:
    written = [column.name for column in table.columns if not column.generated]
    before = "NULL::text" if event is Event.INSERT else _OLD.record(written)
    after = "NULL::text" if event is Event.DELETE else _NEW.record(written)
    keys = ", ".join(_keys(event, table))
    yield f"    IF TG_OP = '{event.value}' THEN"
    if event is Event.UPDATE:
        yield from _checked(table)
    yield f"        WITH txcoord_u AS MATERIALIZED (SELECT ARRAY[{keys}]::text[] AS keys,"
    yield f"            {before} AS before,"
    yield f"            {after} AS after"
    yield f"            FROM {_FROM[event]}"
    yield "        ), txcoord_i AS ("
    yield f"            INSERT INTO {log}"
    yield "                (branch_id, seq, state, xid, format, created_at, table_schema, table_name, columns, befores, afters)"
    yield "            SELECT txcoord_branch, COALESCE((SELECT CASE l.state WHEN 'IMAGE' THEN l.seq + 1 ELSE 1 END"
    yield f"                FROM {log} AS l WHERE l.branch_id = txcoord_branch ORDER BY l.seq DESC LIMIT 1), 1),"
    yield "                'IMAGE', split_part(txcoord_entry, ' ', 2), 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint,"
    yield f"                {literal(table.schema)}, {literal(table.name)}, ARRAY[{', '.join(map(literal, written))}]::text[],"
    yield "                array_agg(u.before), array_agg(u.after)"
    yield "            FROM txcoord_u AS u WHERE u.before IS DISTINCT FROM u.after AND txcoord_branch IS NOT NULL"
    yield "            HAVING count(*) > 0"
    yield "        ) SELECT array_agg(DISTINCT k.key) INTO txcoord_keys"
    yield "        FROM txcoord_u AS u, unnest(u.keys) AS k (key) WHERE k.key IS NOT NULL;"
    yield "    END IF;"


def _keys(event: Event, table: Table) -> list[str]:
    """Of an UPDATE those of the row before and after, of rules beside the primary key where they concern what has changed."""
    keys = Keys(table)
    if event is not Event.UPDATE:
        return keys.expressions(event, (), _OLD, _NEW)
    found = [keys.primary(_NEW), keys.primary(_OLD)]
    for need in keys.needs(event, [column.name for column in table.columns])[1:]:
        some = [literal(keys.shared(need))] if need.shared else [keys.of(need.unique, row) for row in (_NEW, _OLD)]
        found += [_if_changed(need.unique, key) for key in some]
    return found


def _if_changed(unique: Unique, key: str) -> str:
    if not unique.depends:
        return key
    differs = f"{_OLD.record(unique.depends)} IS DISTINCT FROM {_NEW.record(unique.depends)}"
    return f"CASE WHEN {differs} THEN {key} END"


def _checked(table: Table) -> Iterator[str]:
    """Refuse what has no pairs, or could not be set back."""
    wrong = {"its rows cannot be told apart": "(SELECT count(*) FROM txcoord_o) <> (SELECT count(*) FROM txcoord_n)"}
    numbered = [column.name for column in table.columns if column.identity]
    if numbered:
        differs = f"{_OLD.record(numbered)} IS DISTINCT FROM {_NEW.record(numbered)}"
        numbers = f"EXISTS (SELECT FROM {_PAIRS} WHERE {differs})"
        wrong[f"{', '.join(numbered)} of it is numbered by the database and cannot be set back"] = numbers
    for reason, condition in wrong.items():
        message = f"an UPDATE of {table.schema}.{table.name} cannot be undone: {reason}"
        yield f"        IF {condition} THEN RAISE EXCEPTION USING MESSAGE = {literal(message)}; END IF;"
