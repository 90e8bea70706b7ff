"""Which statements may pass as they are, and why others may not: by their first word."""

from __future__ import annotations

from txcoord_rm.sql.flavour import Family

QUERIES = frozenset({"SELECT", "VALUES", "TABLE"})
CHANGES = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"})
LOCKS = frozenset({"UPDATE", "SHARE", "NO", "KEY"})
"""What follows FOR where rows are locked."""
PASSING = {
    Family.POSTGRESQL: frozenset({"SHOW", "FETCH", "MOVE", "CLOSE", "LISTEN", "UNLISTEN", "LOCK", "DEALLOCATE"}),
    Family.MYSQL: frozenset({"SHOW", "DESCRIBE", "DESC"}),
    Family.SQLITE: frozenset({"BEGIN"}),  # inside a transaction an error; so SQLAlchemy says to begin one
}
PRAGMAS = frozenset(
    {"TABLE_INFO", "TABLE_XINFO", "TABLE_LIST", "INDEX_LIST", "INDEX_INFO", "INDEX_XINFO", "FOREIGN_KEY_LIST", "DATABASE_LIST"}
    | {"COLLATION_LIST", "COMPILE_OPTIONS", "FUNCTION_LIST"}
)
"""Of SQLite: those that only tell, whatever their argument."""
SETTINGS = {
    Family.POSTGRESQL: frozenset(
        {
            "STATEMENT_TIMEOUT",
            "TIMEZONE",
            "TIME",
            "LOCK_TIMEOUT",
            "SEARCH_PATH",
            "APPLICATION_NAME",
            "WORK_MEM",
            "CONSTRAINTS",
            "ROLE",
        }
        | {"IDLE_IN_TRANSACTION_SESSION_TIMEOUT", "ENABLE_SEQSCAN", "ENABLE_NESTLOOP", "ENABLE_HASHJOIN", "JIT"}
    ),
    Family.MYSQL: frozenset({"INNODB_LOCK_WAIT_TIMEOUT", "MAX_STATEMENT_TIME", "MAX_EXECUTION_TIME", "SORT_BUFFER_SIZE"}),
    Family.SQLITE: frozenset(),
}
"""What SET may set: it changes neither how SQL is read nor how values are shown. Names with a dot are the application's own."""

NESTED = (
    "an INSERT, UPDATE or DELETE inside WITH would change rows without undo records",
    "run it as a statement of its own",
)
_END = "it would end the local transaction unseen", "use commit() and rollback() of the connection or session"
_SCHEMA = "a change of the schema cannot be undone", "make it before or after the global transaction"
_CODE = "what it does is not written in it", "write the statements themselves, or do the work in a TCC branch"
_BULK = "its rows would change without undo records", "use INSERT, UPDATE and DELETE, or do the work in a TCC branch"
_SESSION = "it changes how the session reads SQL or shows values", "set it before the global transaction"

REASONS: dict[str, tuple[str, str]] = (
    dict.fromkeys(("BEGIN", "START", "COMMIT", "ROLLBACK", "END", "ABORT", "PREPARE", "XA"), _END)
    | dict.fromkeys(
        ("CREATE", "ALTER", "DROP", "RENAME", "COMMENT", "GRANT", "REVOKE", "SECURITY", "REINDEX", "CLUSTER"), _SCHEMA
    )
    | dict.fromkeys(("ANALYZE", "ANALYSE", "VACUUM", "OPTIMIZE", "REPAIR", "FLUSH", "CHECKPOINT", "REFRESH", "ATTACH"), _SCHEMA)
    | dict.fromkeys(("CALL", "DO", "EXECUTE", "EXEC", "IMPORT"), _CODE)
    | dict.fromkeys(("TRUNCATE", "COPY", "LOAD", "HANDLER"), _BULK)
    | dict.fromkeys(("SET", "RESET", "DISCARD", "USE", "PRAGMA", "DETACH"), _SESSION)
    | {
        "NOTIFY": ("a notification cannot be taken back", "send a half message"),
        "LOCK": ("it ends the local transaction unseen", "lock rows with SELECT ... FOR UPDATE"),
        "UNLOCK": _END,
        "MERGE": ("what it inserts, updates and deletes cannot be told apart for certain", "use INSERT, UPDATE and DELETE"),
        "EXPLAIN": ("it runs what it explains", "leave ANALYZE out"),
    }
)
UNKNOWN = "it is none of the statements that can be undone", "use INSERT, UPDATE and DELETE, or do the work in a TCC branch"

EXPLAIN = frozenset(
    {"(", ")", ",", "=", "COSTS", "ON", "OFF", "TRUE", "FALSE", "VERBOSE", "SETTINGS", "SUMMARY", "GENERIC_PLAN", "MEMORY"}
    | {"FORMAT", "TEXT", "JSON", "YAML", "XML", "TREE", "TRADITIONAL", "EXTENDED", "PARTITIONS", "QUERY", "PLAN"}
)
"""Options with which a statement is explained and not run."""

FUNCTIONS = {
    Family.POSTGRESQL: frozenset({"pg_notify", "query_to_xml", "query_to_xml_and_xmlschema", "database_to_xml", "xpath_table"})
    | {"lo_create", "lo_creat", "lo_from_bytea", "lo_put", "lo_unlink", "lo_import", "lo_open", "lo_truncate", "lowrite"}
    | {"lo_truncate64", "pg_logical_slot_get_changes", "pg_logical_slot_get_binary_changes", "pg_drop_replication_slot"}
    | {"pg_create_logical_replication_slot", "pg_replication_slot_advance", "dblink_open", "pg_reload_conf"}
    | {"dblink", "dblink_exec", "dblink_send_query", "pg_logical_emit_message", "pg_file_write", "pg_terminate_backend"},
    Family.MYSQL: frozenset({"load_file"}),
    Family.SQLITE: frozenset({"load_extension", "writefile", "edit"}),
}
"""Built-in functions whose effects no rollback takes back."""
COUNTING = {Family.SQLITE: frozenset({"changes", "total_changes"})}
"""Built-in functions whose answers tell of statements of ours, too."""
