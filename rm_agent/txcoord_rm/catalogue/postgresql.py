"""PostgreSQL's catalogue: everything about one table in one query, as JSON, which every driver hands over alike.

What can lose rows or locks once it is out of date has a condition, `Table.altered`, which a captured statement evaluates with its
own snapshot, when it has locked the table already: a change of the schema waits for the statement, or is seen by it. It sees that
columns have come, and changes of triggers, foreign keys to the table, rules, inheritance, partitions and unique indexes. It sees
neither that columns have exchanged their names nor, above READ COMMITTED, what has changed since the transaction's snapshot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from txcoord_rm.catalogue.table import Column, Event, Expression, Reference, Table, Trigger, Unique
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
CAPTURING = "txcoord_capture_"
"""With this begin the names of the triggers by which a table captures its own changes, and of their function."""
UNDOING = "txcoord.undoing"
"""A setting that is on while rows are put back."""
_ASIDE = re.compile(
    rf" WHEN \(\(?\(current_setting\('{UNDOING}'::text, true\) IS DISTINCT FROM 'on'::text\)(?: AND |\) EXECUTE )"
)
"""A trigger's condition of which this is the whole, or the first of terms that all have to be true."""
_OURS = f"(g.tgname ^@ '{CAPTURING}' AND p.proname ^@ '{CAPTURING}')"

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
    'foreign', EXISTS (
        SELECT FROM family f JOIN pg_catalog.pg_class k ON k.oid = f.oid WHERE k.relkind = 'f' AND f.oid <> c.oid),
    'altered', pg_catalog.jsonb_build_object(
        'columns', c.relnatts, 'triggers', c.relhastriggers, 'subclass', c.relhassubclass,
        'generated', (SELECT count(*) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated <> ''),
        'family', (SELECT pg_catalog.jsonb_agg(oid::bigint) FROM family),
        'members', (
            SELECT pg_catalog.jsonb_build_array(count(*), COALESCE(sum(i.inhrelid::bigint), 0))
            FROM pg_catalog.pg_inherits i WHERE i.inhparent IN (SELECT oid FROM family)),
        'indexes', (
            SELECT pg_catalog.jsonb_build_array(count(*), COALESCE(sum(i.indexrelid::bigint), 0))
            FROM pg_catalog.pg_index i
            WHERE i.indrelid IN (SELECT oid FROM family) AND (i.indisunique OR i.indisexclusion)),
        'fired', (
            SELECT pg_catalog.jsonb_build_array(
                count(*), COALESCE(sum(g.oid::bigint * 128 + ascii(g.tgenabled::text)), 0))
            FROM pg_catalog.pg_trigger g WHERE g.tgrelid IN (SELECT oid FROM family))),
    'columns', (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
            'base', pg_catalog.format_type(COALESCE(NULLIF(t.typbasetype, 0), t.oid), NULL),
            'generated', a.attgenerated <> '', 'identity', a.attidentity = 'a',
            'deterministic', COALESCE(o.collisdeterministic, true),
            'writer', (
                SELECT min(p.proname) FROM pg_catalog.pg_attrdef e
                JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = e.oid
                    AND d.refclassid = 'pg_catalog.pg_proc'::regclass
                JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid
                WHERE e.adrelid = c.oid AND e.adnum = a.attnum AND a.attgenerated = '' AND @writes@)) ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    'indexes', (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'name', x.relname, 'primary', i.indisprimary AND i.indrelid = c.oid,
            'nulls', pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct' = 'true',  -- from 15 on
            'partial', i.indpred IS NOT NULL,
            'keys', CASE WHEN NOT i.indisexclusion THEN (
                SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                    'column', a.attname, 'sql', pg_catalog.pg_get_indexdef(i.indexrelid, k.place::integer, false),
                    'base', pg_catalog.format_type(COALESCE(NULLIF(t.typbasetype, 0), t.oid), NULL),
                    'deterministic', COALESCE(o.collisdeterministic, true),
                    'usual', (n.opcdefault OR n.opcname IN ('varchar_ops', 'text_pattern_ops', 'varchar_pattern_ops'))
                        AND (z.typtype = 'p' OR z.oid IN (t.oid, t.typbasetype)
                            OR z.oid = 'text'::regtype AND 'varchar'::regtype IN (t.oid, t.typbasetype))
                        AND (a.attnum IS NULL OR a.attcollation = i.indcollation[k.place - 1]
                            OR COALESCE(o.collisdeterministic AND l.collisdeterministic, true))) ORDER BY k.place)
                FROM pg_catalog.unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, place)
                LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                JOIN pg_catalog.pg_attribute y ON y.attrelid = i.indexrelid AND y.attnum = k.place
                JOIN pg_catalog.pg_type t ON t.oid = COALESCE(a.atttypid, y.atttypid)
                JOIN pg_catalog.pg_opclass n ON n.oid = i.indclass[k.place - 1]
                JOIN pg_catalog.pg_type z ON z.oid = n.opcintype
                LEFT JOIN pg_catalog.pg_collation o ON o.oid = i.indcollation[k.place - 1]
                LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
                WHERE k.place <= i.indnkeyatts) END,
            'ours', EXISTS (
                SELECT FROM pg_catalog.pg_depend d
                WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid
                AND d.refclassid NOT IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_constraint'::regclass)),
            'texts', COALESCE(pg_catalog.pg_get_expr(i.indexprs, i.indrelid), '')
                || COALESCE(pg_catalog.pg_get_expr(i.indpred, i.indrelid), ''),
            'depends', (
                SELECT pg_catalog.jsonb_agg(DISTINCT a.attname)
                FROM (
                    SELECT d.refobjsubid FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid
                    AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = i.indrelid
                    UNION ALL
                    SELECT k.attnum FROM pg_catalog.unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, place)
                    WHERE k.place <= i.indnkeyatts AND k.attnum > 0
                ) AS of (attnum)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = of.attnum AND of.attnum > 0)
            ) ORDER BY i.indexrelid)
        FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_class x ON x.oid = COALESCE(pg_catalog.pg_partition_root(i.indexrelid)::oid, i.indexrelid)
        WHERE i.indislive AND (i.indisunique OR i.indisexclusion) AND (
            i.indrelid = c.oid OR i.indrelid IN (SELECT oid FROM family)
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid))),
    'triggers', (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'name', g.tgname, 'type', g.tgtype,
            'known', p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN (
                'tsvector_update_trigger', 'tsvector_update_trigger_column', 'suppress_redundant_updates_trigger'),
            'condition', CASE WHEN g.tgqual IS NOT NULL AND NOT g.tgdeferrable THEN pg_catalog.pg_get_triggerdef(g.oid) END
            ) ORDER BY g.tgname)
        FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
        WHERE g.tgrelid IN (SELECT oid FROM family) AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A')
        AND NOT @ours@),
    'capturing', (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(g.tgname, CASE g.tgenabled WHEN 'A' THEN pg_catalog.md5(p.prosrc)
            ELSE '' END) ORDER BY g.tgname)
        FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid WHERE g.tgrelid = c.oid AND @ours@),
    'references', (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'table', pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(r.relname),
            'name', pg_catalog.jsonb_build_array(n.nspname, r.relname),
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


_HARMLESS = (
    "random random_normal setseed array_sample array_shuffle bernoulli system gen_random_uuid uuidv4 uuidv7 uuid_generate_v1 "
    "uuid_generate_v1mc uuid_generate_v4 gen_random_bytes gen_salt pgp_sym_encrypt pgp_sym_encrypt_bytea pgp_pub_encrypt "
    "pgp_pub_encrypt_bytea nextval currval lastval setval pg_sequence_last_value set_config set_limit clock_timestamp timeofday "
    "pg_sleep pg_sleep_for pg_sleep_until pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_xact_lock "
    "pg_try_advisory_xact_lock_shared pg_blocking_pids pg_relation_size pg_total_relation_size pg_table_size pg_indexes_size "
    "pg_database_size pg_tablespace_size pg_partition_tree pg_partition_ancestors pg_current_wal_lsn pg_current_wal_insert_lsn "
    "pg_current_wal_flush_lsn pg_is_in_recovery pg_xact_status txid_status pg_xact_commit_timestamp current_query lo_get "
    "pg_stat_clear_snapshot merge_action"
)
"""Volatile functions of PostgreSQL and its extensions that write no rows, and whose effects a rollback need not take back."""
_WRITES = (
    "(p.provolatile = 'v' AND p.prokind <> 'p' AND (p.proname NOT IN ("
    + ", ".join(f"'{name}'" for name in _HARMLESS.split())
    + ") OR p.prolang NOT IN (SELECT l.oid FROM pg_catalog.pg_language l WHERE l.lanname IN ('internal', 'c'))))"
)
"""A condition that a function `p` may write rows, as far as its definition tells."""


SERVER = """
SELECT pg_catalog.current_setting('server_version_num')::integer, (
    SELECT n.nspname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = pg_catalog.to_regclass('txcoord_undo_log'))
"""
"""A query for the server's version as a number, and the schema in which the undo log stands; NULL: in none of the search path."""


def functions(names: Iterable[str]) -> str:
    """A query for functions of these names in any schema: its rows are a name, whether one is volatile, whether one may write.

    Args:
        names: In lower case; those of which there is no function have no row.
    """
    return (
        f"SELECT lower(p.proname), bool_or(p.provolatile = 'v'), bool_or({_WRITES}) FROM pg_catalog.pg_proc p "
        f"WHERE lower(p.proname) IN ({', '.join(literal(name) for name in names)}) GROUP BY 1"
    )


def query(name: str) -> str:
    """A query for one text, which `table` reads; no row: there is no such table.

    Args:
        name: The table's, as it is written in SQL.
    """
    return _FACTS.replace("@writes@", _WRITES).replace("@ours@", _OURS).replace("@name@", literal(name))


def table(facts: str) -> Table:
    """The table of which the answer to `query` tells."""
    f: dict[str, Any] = json.loads(facts)
    indexes = f["indexes"] or []
    primary = next((tuple(k["column"] for k in i["keys"]) for i in indexes if i["primary"]), ())
    return Table(
        oid=f["oid"],
        schema=f["schema"],
        name=f["name"],
        root=(f["root"][0], f["root"][1]),
        columns=tuple(
            Column(c["name"], c["type"], c["base"], c["generated"], c["identity"], c["deterministic"], c["writer"] or "")
            for c in f["columns"] or []
        ),
        primary_key=primary,
        uniques=tuple(dict.fromkeys(_unique(i) for i in indexes if not i["primary"])),
        triggers=tuple(trigger for t in f["triggers"] or [] if (trigger := _trigger(t)).events),
        references=tuple(
            Reference(
                r["table"],
                tuple(r["theirs"]),
                tuple(r["columns"]),
                on_delete=r["delete"] in _CHANGES_TOO,
                on_update=r["update"] in _CHANGES_TOO,
                follows=r["update"] == "c",
                name=(r["name"][0], r["name"][1]),
                to_itself=r["itself"],
            )
            for r in f["references"] or []
        ),
        partitioned=f["kind"] == "p",
        obstacle=_obstacle(f, primary),
        altered=_altered(f),
        capturing=tuple((name, digest) for name, digest in f["capturing"] or []),
    )


def _unique(i: dict[str, Any]) -> Unique:
    keys = i["keys"] or []
    whole_row = ".*" in i["texts"]
    depends = () if whole_row else tuple(i["depends"] or ())
    known = bool(keys) and all(key["usual"] for key in keys)
    plain = known and all(key["column"] for key in keys)
    # of rows outside a condition it was never asked, and functions of users may be others under another search path
    asked = known and not plain and not i["partial"] and not i["ours"] and bool(depends)
    return Unique(
        i["name"],
        tuple(key["column"] for key in keys) if plain else (),
        i["partial"],
        bool(i["nulls"]),
        tuple(Expression(key["sql"], key["base"], key["deterministic"]) for key in keys) if asked else (),
        depends,
    )


def _altered(f: dict[str, Any]) -> str:
    """A condition that nobody makes true without a lock that excludes changes of rows, and waits for them."""
    now, oid = f["altered"], f["oid"]
    family = f"({', '.join(map(str, now['family']))})"
    (indexes, index_sum), (fired, fired_sum), (members, member_sum) = now["indexes"], now["fired"], now["members"]
    triggers = "" if now["triggers"] else " OR c.relhastriggers"
    subclass = f"c.relhassubclass <> {'true' if now['subclass'] else 'false'}"
    found = [
        f"SELECT c.relnatts <> {now['columns']} OR c.relhasrules OR {subclass}{triggers} "
        f"FROM pg_catalog.pg_class c WHERE c.oid = {oid}",
        f"SELECT count(*) <> {indexes} OR sum(i.indexrelid::bigint) <> {index_sum} FROM pg_catalog.pg_index i "
        f"WHERE i.indrelid IN {family} AND (i.indisunique OR i.indisexclusion)",
    ]
    if now["triggers"] or members:
        found.append(
            f"SELECT count(*) <> {fired} OR sum(g.oid::bigint * 128 + ascii(g.tgenabled::text)) <> {fired_sum} "
            f"FROM pg_catalog.pg_trigger g WHERE g.tgrelid IN {family}"
        )
    if now["subclass"]:
        found.append(
            f"SELECT count(*) <> {members} OR sum(i.inhrelid::bigint) <> {member_sum} FROM pg_catalog.pg_inherits i "
            f"WHERE i.inhparent IN {family}"
        )
    if now["generated"]:
        found.append(
            f"SELECT count(*) <> {now['generated']} FROM pg_catalog.pg_attribute a "
            f"WHERE a.attrelid = {oid} AND a.attgenerated <> ''"
        )
    return " OR ".join(f"({condition})" for condition in found)


def _trigger(t: dict[str, Any]) -> Trigger:
    events = frozenset(event for bit, event in _EVENTS if t["type"] & bit)
    own_row_only = bool(t["known"] and t["type"] & _ROW and t["type"] & _BEFORE)
    return Trigger(t["name"], events, not t["type"] & _BEFORE, own_row_only, bool(_ASIDE.search(t["condition"] or "")))


def _obstacle(f: dict[str, Any], key: tuple[str, ...]) -> str:
    if f["kind"] not in "rp":
        return _KINDS.get(f["kind"], "it is no table")
    if f["persistence"] == "t":
        return "it is temporary, and gone with the session"
    if f["rules"]:
        return "it has rules, which write other statements than the application"
    if f["foreign"]:
        return "a partition of it is a foreign table, which this database cannot undo"
    if f["inherits"]:
        return "it inherits, or is inherited from, so that a row's columns are not known from the statement"
    if any(column["generated"] and column["name"] in key for column in f["columns"] or []):
        return "its primary key is generated"
    return "" if key else "it has no primary key"
