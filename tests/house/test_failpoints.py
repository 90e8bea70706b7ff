"""Every place that commits is a failpoint."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from txcoord_proto.failpoints import BOUNDARIES

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("txcoord/txcoord_server/store", "sdk/txcoord_sdk", "rm_agent/txcoord_rm")

MARKS = frozenset({"commit", "do_commit", "begin", "pipeline", "upgrade", "_write"})
"""Attributes that end a transaction of a database, open a block that does, or stand for a function that does."""

NOT_DURABLE = {
    "store.sql_store.SqlStore._write": "its callers are boundaries (it is a mark)",
    "store.sql_store.SqlStore.commit": "hands on to the dialects, which are boundaries",
    "store.mysql.MysqlDialect._statements": "makes the text that `write` sends",
    "store.migrate._run_migrations": "the step before the commit",
    "store.migrate._lost_at_commit": "makes an error",
    "local_transaction.WatchedDialect.do_commit": "hands on to the boundary; without enlistments the transaction is none of ours",
    "local_transaction.WatchedDialect._txcoord_send_commit": "the step of the boundary around it",
    "sealed_transaction._begin": "begins; `commit` is a mark",
    "sealed_transaction.SealedTransaction.commit": "its callers are boundaries (it is a mark)",
    "sealed_transaction.AsyncSealedTransaction.commit": "its callers are boundaries (it is a mark)",
    "database.Database.run": "its callers are; whatever else commits with it is `local.commit`",
    "database.Database.arun": "its callers are; whatever else commits with it is `local.commit`",
    "database.Database._make_own.set_up": "settings of a new connection, nothing durable",
    "client.Client.begin": "asks the coordinator",
    "client.Client.commit": "asks the coordinator",
    "tcc.second_phase.TccParticipant._in_database": "of `_confirm` and `_cancel`",
    "at.hook.EnrolledDialect.do_commit": "hands on to the watched dialect",
    "at.alone._Alone._entry": "begins",
    "at.alone._Alone._send_commit": "the step of the boundary around it",
    "wrapped.attached.Attached.commit": "hands on to the watched dialect",
    "wrapped.psycopg.attached.AttachedPsycopg._end": "hands on to the watched dialect",
    "wrapped.psycopg.asynchronous.AsyncWrappedConnection.__aexit__": "hands on to the watched dialect",
    "wrapped.psycopg.asynchronous.AsyncWrappedConnection.commit": "hands on to the watched dialect",
    "wrapped.asyncpg.attached.AttachedAsyncpg._end": "hands on to the watched dialect",
    "wrapped.asyncpg.transaction.WrappedTransaction.__aexit__": "hands on to the watched dialect",
    "wrapped.asyncpg.transaction.WrappedTransaction._leave": "hands on to the watched dialect",
    "wrapped.asyncpg.transaction.WrappedTransaction.commit": "hands on to the watched dialect",
    "xa.postgresql.PostgresqlPreparing.end": "of `xa.commit` and `xa.rollback`",
    "xa.mysql.MysqlPreparing.end": "of `xa.commit` and `xa.rollback`",
    "xa.mysql.MysqlPreparing.end_kept": "of `xa.commit` and `xa.rollback`",
    "undo.restorer.Restorer._undo": "a savepoint",
    "undo.restorer.Restorer._tried": "a savepoint",
    "undo.restorer.Restorer._checked": "a savepoint",
}
"""Functions that touch a commit and are no boundary, each with the reason."""


def functions(tree: ast.AST, name: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function with its qualified name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{name}{node.name}", node
        deeper = f"{name}{node.name}." if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) else name
        yield from functions(node, deeper)


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function itself, not in functions within it that have a name."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
            yield from own_nodes(node)


def commits(function: ast.AST) -> bool:
    """Whether it ends a transaction: calls or hands on what does, or says COMMIT."""
    for node in own_nodes(function):
        if isinstance(node, ast.Attribute) and node.attr in MARKS and ast.unparse(node) != "command.commit":
            return True  # a command's `commit` says which second phase it is
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.strip().upper() == "COMMIT":
            return True
    return False


def is_boundary(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(d).startswith(("durable(", "failpoints.durable(")) for d in function.decorator_list)


def uses_a_database(tree: ast.Module) -> bool:
    """Whether a module knows SQLAlchemy, or the statements of an enrolled engine."""
    imports = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return any("sqlalchemy" in line or "at.statements" in line for line in imports)


def places() -> dict[str, bool]:
    """Functions that commit, and whether each is a boundary."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "migrations" in path.parts:
                continue
            module = ".".join(path.relative_to(ROOT / Path(folder).parts[0]).with_suffix("").parts[1:])
            tree = ast.parse(path.read_text())
            for name, function in functions(tree) if uses_a_database(tree) else ():
                if commits(function) or is_boundary(function):
                    found[f"{module}.{name}"] = is_boundary(function)
    return found


def test_every_place_that_commits_is_a_failpoint() -> None:
    found = places()
    assert found["store.sqlite.SqliteDialect.write"], "the search finds what is known"
    bare = {name for name, covered in found.items() if not covered}
    assert bare - NOT_DURABLE.keys() == set(), "decorate these with @durable, or say in NOT_DURABLE why not"
    assert NOT_DURABLE.keys() - found.keys() == set(), "these are gone or commit no more"


def test_the_registry_holds_what_the_sources_decorate() -> None:
    for module in ("store.sqlite", "store.postgresql", "store.mysql", "store.migrate", "store.sql_store"):
        import_module(f"txcoord_server.{module}")
    for module in ("client", "tcc.decorator", "tcc.registry"):
        import_module(f"txcoord_sdk.{module}")
    for module in ("at.alone", "at.participant", "commands.undo"):
        import_module(f"txcoord_rm.{module}")
    registered = {name for names in BOUNDARIES.values() for name in names}
    expected = {name for name, covered in places().items() if covered}
    assert {name.split(".", 1)[1] for name in registered if name.startswith("txcoord_")} == expected
    assert len([n for n in BOUNDARIES["store.commit"] if n.endswith("Dialect.write")]) == 3
