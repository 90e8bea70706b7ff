"""`txcoord-agent capture`: tables whose changes triggers capture, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
from sqlalchemy import Connection
from txcoord_proto.terminal import as_json, errors_end_it, show_document
from txcoord_proto.terminal import table as show_table

from txcoord_rm.capture.postgresql.triggers import fault, install, remove, run
from txcoord_rm.catalogue.facts import facts_on, log_on, table_named, tables_on
from txcoord_rm.catalogue.table import Table
from txcoord_rm.commands.database import opened, url_argument

_tables = click.argument("tables", nargs=-1, required=True, metavar="TABLE...")
_dry_run = click.option("--dry-run", is_flag=True, help="Print the statements, and run none.")


@click.group("capture", short_help="Have triggers capture changes of tables (PostgreSQL).")
def capture_command() -> None:
    """Have triggers capture what no statement tells: rows that change by foreign keys, and whatever writes a table.

    Outside global transactions they look at a setting, and no further. Run it as the owner of the tables, who must be allowed to
    write txcoord_undo_log.
    """


@capture_command.command("install", short_help="Create the triggers, or bring them up to date.")
@url_argument
@_tables
@_dry_run
@as_json
@errors_end_it
def install_command(url: str, tables: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Create the triggers on TABLE..., in the database at URL; again after a change of the table, or of txcoord.

    Let it be a moment without global transactions that write the tables.
    """
    _change(url, tables, dry_run, as_json, install)


@capture_command.command("remove", short_help="Drop the triggers.")
@url_argument
@_tables
@_dry_run
@as_json
@errors_end_it
def remove_command(url: str, tables: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Drop the triggers on TABLE..., in the database at URL: statements that need them are refused from then on."""
    _change(url, tables, dry_run, as_json, lambda table, log: remove(table))


@capture_command.command("list", short_help="List tables that have the triggers.")
@url_argument
@as_json
@errors_end_it
def list_command(url: str, as_json: bool) -> None:
    """List tables that have the triggers, and what is wrong with these; exit code 1 when anything is."""
    with opened(url) as database:
        found = database.run(_listed)
    if as_json:
        show_document({"tables": [{"table": name, "fault": why} for name, why in found]})
    else:
        show_table(("TABLE", "TRIGGERS"), [(name, why or "capture all changes") for name, why in found])
    if any(why for _, why in found):
        raise SystemExit(1)


def _listed(connection: Connection) -> list[tuple[str, str]]:
    log, facts = log_on(connection), facts_on(connection)
    tables = [table for name in tables_on(connection) if (table := facts(name)) is not None and table.capturing]
    return [(f"{table.schema}.{table.name}", fault(table, log)) for table in tables]


def _change(url: str, names: Sequence[str], dry_run: bool, as_json: bool, make: Callable[[Table, str], list[str]]) -> None:
    def change(connection: Connection) -> list[str]:
        log = log_on(connection)
        statements = [sql for name in names for sql in make(table_named(connection, name), log)]
        if not dry_run:
            run(connection.execute, statements)
        return statements

    with opened(url) as database:
        if not dry_run:
            database.prepare()
        statements = database.run(change)
    if dry_run and as_json:
        show_document({"statements": statements})
    elif dry_run:
        click.echo("\n\n".join(f"{statement};" for statement in statements))
    elif as_json:
        show_document({"tables": list(names)})
    else:
        click.echo(f"done: {', '.join(names)}")
