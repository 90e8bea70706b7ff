"""PostgreSQL's catalogue: everything about one table in one query, as JSON, which every driver hands over alike."""

from __future__ import annotations

import json
from typing import Any

from txcoord_rm.catalogue.table import Column, Event, Reference, Table, Trigger, Unique
from txcoord_rm.sql.quoting import literal

# pg_trigger.tgtype, https://www.postgresql.org/docs/current/catalog-pg-trigger.html and src/include/catalog/pg_trigger.h
_ROW, _BEFORE, _INSERT, _DELETE, _UPDATE = 1, 2, 4, 8, 16
_EVENTS = ((_INSERT, Event.INSERT), (_UPDATE, Event.UPDATE), (_DELETE, Event.DELETE))
_KINDS = {
    "v": "it is a view",
    "m": "it is a materialised view",
    "f": "it is a foreign table, which this database cannot undo",
    "S": "it is a sequence",
}
_CHANGES_TOO = "cnd"  # CASCADE, SET NULL, SET DEFAULT

_FACTS = """
WITH RECURSIVE target AS (
    SELECT c.*, n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = pg_catalog.to_regclass(@name@)
), lineage(oid, depth) AS (
    SELECT oid, 0 FROM target
    UNION ALL
    SELECT i.inhparent, l.depth + 1 FROM lineage l
    JOIN pg_catalog.pg_inherits i ON i.inhrelid = l.oid JOIN pg_catalog.pg_class p ON p.oid = l.oid AND p.relispartition
), family(oid) AS (
    SELECT oid FROM target
    UNION
    SELECT i.inhrelid FROM family f JOIN pg_catalog.pg_inherits i ON i.inhparent = f.oid
    JOIN pg_catalog.pg_class k ON k.oid = i.inhrelid AND k.relispartition
)
SELECT pg_catalog.jsonb_build_object(
    'oid', c.oid::bigint, 'schema', c.nspname, 'name', c.relname, 'kind', c.relkind, 'persistence', c.relpersistence,
    'rules', c.relhasrules,
    'inherits', EXISTS (
        SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class k ON k.oid = i.inhrelid AND NOT k.relispartition
        WHERE i.inhparent = c.oid OR i.inhrelid = c.oid),
    'root', (
        SELECT pg_catalog.jsonb_build_array(n.nspname, r.relname)
        FROM lineage l JOIN pg_catalog.pg_class r ON r.oid = l.oid JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
        ORDER BY l.depth DESC LIMIT 1),
    'columns', (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
            'base', pg_catalog.format_type(COALESCE(NULLIF(t.typbasetype, 0), t.oid), NULL),
            'generated', a.attgenerated <> '', 'identity', a.attidentity = 'a',
            'deterministic', COALESCE(o.collisdeterministic, true)) ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    'indexes', (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'name', x.relname, 'primary', i.indisprimary,
            'nulls', pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct' = 'true',  -- from 15 on
            'plain', i.indexprs IS NULL AND NOT i.indisexclusion, 'partial', i.indpred IS NOT NULL,
            'columns', (
                SELECT pg_catalog.jsonb_agg(a.attname ORDER BY k.place)
                FROM pg_catalog.unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(attnum, place)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                WHERE k.place <= i.indnkeyatts)) ORDER BY i.indexrelid)
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
        WHERE i.indrelid = c.oid AND i.indislive AND (i.indisunique OR i.indisexclusion)),
    'triggers', (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'name', g.tgname, 'type', g.tgtype,
            'known', p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN (
                'tsvector_update_trigger', 'tsvector_update_trigger_column', 'suppress_redundant_updates_trigger')
            ) ORDER BY g.tgname)
        FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
        WHERE g.tgrelid IN (SELECT oid FROM family) AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A')),
    'references', (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'table', pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(r.relname),
            'delete', k.confdeltype, 'update', k.confupdtype, 'itself', k.conrelid = k.confrelid,
            'columns', (
                SELECT pg_catalog.jsonb_agg(a.attname ORDER BY f.place)
                FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS f(attnum, place)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = f.attnum),
            'theirs', (
                SELECT pg_catalog.jsonb_agg(a.attname ORDER BY f.place)
                FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS f(attnum, place)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = f.attnum)) ORDER BY k.oid)
        FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class r ON r.oid = k.conrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
        WHERE k.contype = 'f' AND k.confrelid IN (SELECT oid FROM lineage UNION SELECT oid FROM family))
)::text AS facts
FROM target c
"""


def query(name: str) -> str:
    """A query for one text, which `table` reads; no row: there is no such table.

    Args:
        name: The table's, as it is written in SQL.
    """
    return _FACTS.replace("@name@", literal(name))


def table(facts: str) -> Table:
    """The table of which the answer to `query` tells."""
    f: dict[str, Any] = json.loads(facts)
    indexes = f["indexes"] or []
    primary = next((tuple(i["columns"]) for i in indexes if i["primary"]), ())
    return Table(
        oid=f["oid"],
        schema=f["schema"],
        name=f["name"],
        root=(f["root"][0], f["root"][1]),
        columns=tuple(
            Column(c["name"], c["type"], c["base"], c["generated"], c["identity"], c["deterministic"]) for c in f["columns"] or []
        ),
        primary_key=primary,
        uniques=tuple(_unique(i) for i in indexes if not i["primary"]),
        triggers=tuple(trigger for t in f["triggers"] or [] if (trigger := _trigger(t)).events),
        references=tuple(
            Reference(
                r["table"],
                tuple(r["theirs"]),
                tuple(r["columns"]),
                on_delete=r["delete"] in _CHANGES_TOO,
                on_update=r["update"] in _CHANGES_TOO,
                to_itself=r["itself"],
            )
            for r in f["references"] or []
        ),
        partitioned=f["kind"] == "p",
        obstacle=_obstacle(f, primary),
    )


def _unique(i: dict[str, Any]) -> Unique:
    return Unique(i["name"], tuple(i["columns"]) if i["plain"] else (), i["partial"], bool(i["nulls"]))


def _trigger(t: dict[str, Any]) -> Trigger:
    events = frozenset(event for bit, event in _EVENTS if t["type"] & bit)
    return Trigger(t["name"], events, not t["type"] & _BEFORE, bool(t["known"] and t["type"] & _ROW and t["type"] & _BEFORE))


def _obstacle(f: dict[str, Any], key: tuple[str, ...]) -> str:
    if f["kind"] not in "rp":
        return _KINDS.get(f["kind"], "it is no table")
    if f["persistence"] == "t":
        return "it is temporary, and gone with the session"
    if f["rules"]:
        return "it has rules, which write other statements than the application"
    if f["inherits"]:
        return "it inherits, or is inherited from, so that a row's columns are not known from the statement"
    if any(column["generated"] and column["name"] in key for column in f["columns"] or []):
        return "its primary key is generated"
    return "" if key else "it has no primary key"
