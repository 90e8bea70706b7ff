"""`txcoord-agent check`: whether AT can work in a database, and what it is used for, a verdict a line."""

from __future__ import annotations

from collections.abc import Iterator

import click
from sqlalchemy import Connection, Executable, Table, delete, false, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from txcoord_proto.errors import ConfigurationError
from txcoord_proto.terminal import Check, Verdict, as_json, end_with, errors_end_it

from txcoord_rm.capture.postgresql.triggers import fault
from txcoord_rm.catalogue.facts import facts_on, log_on, table_named, tables_on
from txcoord_rm.catalogue.table import Event, spread
from txcoord_rm.catalogue.table import Table as Facts
from txcoord_rm.commands.database import opened, url_argument
from txcoord_rm.commands.modes import modes
from txcoord_rm.schema import TABLES, faults

_SETTINGS = {
    "postgresql": text(
        "SELECT name, setting FROM pg_settings WHERE name IN ('max_prepared_transactions', 'default_transaction_isolation') "
        "ORDER BY name"
    )
}
_KEY = "ALTER TABLE ... ADD PRIMARY KEY"
_TRIGGERS = "`txcoord-agent capture install` for both tables would capture them"
_ELSEWHERE = "keep it out of global transactions, or change it in a TCC action"


@click.command("check", short_help="Can AT work in this database? A verdict a line.")
@url_argument
@as_json
@errors_end_it
def check_command(url: str, as_json: bool) -> None:
    """Check the database at URL as the user that it names; exit code 1 when something is wrong.

    Looks at our tables and what the user may do with them, at settings, at tables whose changes would be refused inside a global
    transaction, and at what can be known of tables that are written in several modes. Nothing is changed.
    """
    with opened(url) as database:
        checks = database.run(lambda connection: list(_examine(connection)))
        if all(check.verdict is not Verdict.WRONG for check in checks):  # else our tables are not there, or not readable
            checks += database.run(lambda connection: list(modes(connection)))
    end_with(checks, as_json)


def _examine(connection: Connection) -> Iterator[Check]:
    version = ".".join(map(str, connection.dialect.server_version_info or ()))
    yield Check("database", Verdict.OK, f"{connection.dialect.name} {version}, through {connection.dialect.driver}")
    for table in TABLES:
        fault = faults(connection, table)
        if fault:
            remedy = "run `txcoord-agent init URL` as a user that may create tables" if "not there" in fault else (
                "it must be that of this version: let nothing be unfinished, drop it and run `txcoord-agent init URL`"
            )  # fmt: skip
            yield Check("our tables", Verdict.WRONG, f"{table.name}: {fault}; {remedy}")
            continue
        yield Check("our tables", Verdict.OK, f"{table.name} is there")
        yield from _privileges(connection, table)
    yield from _settings(connection)
    yield from _tables(connection)


def _privileges(connection: Connection, table: Table) -> Iterator[Check]:
    """The database is asked by statements that touch no row: it looks at privileges all the same."""
    column = next(iter(table.columns))
    asked: dict[str, Executable] = {
        "SELECT": select(table).where(false()),
        "INSERT": insert(table).from_select(list(table.columns), select(table).where(false())),
        "UPDATE": update(table).where(false()).values({column: column}),
        "DELETE": delete(table).where(false()),
    }
    refused = {name: error for name, statement in asked.items() if (error := _refusal(connection, statement))}
    if refused:
        grant = f"GRANT {', '.join(refused)} ON {table.name} TO the user"
        yield Check("privileges", Verdict.WRONG, f"{table.name}: {next(iter(refused.values()))}; {grant}")
    else:
        yield Check("privileges", Verdict.OK, f"{', '.join(asked)} on {table.name}")


def _refusal(connection: Connection, statement: Executable) -> str:
    savepoint = connection.begin_nested()
    try:
        connection.execute(statement)
    except DBAPIError as error:
        return str(error.orig).split("\n", 1)[0]
    finally:
        savepoint.rollback()
    return ""


def _settings(connection: Connection) -> Iterator[Check]:
    asked = _SETTINGS.get(connection.dialect.name)
    for name, value in connection.execute(asked).all() if asked is not None else ():
        if name == "max_prepared_transactions" and value == "0":
            yield Check("settings", Verdict.OK, f"{name} = 0: enough for AT; XA would need some")
        elif name == "default_transaction_isolation" and value != "read committed":
            yield Check(
                "settings", Verdict.WARNING,
                f"{name} = {value}: a statement that would have to wait for a global lock in the middle of a local transaction "
                "fails with a conflict instead, except at READ COMMITTED",
            )  # fmt: skip
        else:
            yield Check("settings", Verdict.OK, f"{name} = {value}")


def _tables(connection: Connection) -> Iterator[Check]:
    try:
        facts, good = facts_on(connection), 0
    except ConfigurationError as error:
        yield Check("tables", Verdict.WRONG, error.message)
        return
    for schema, name in tables_on(connection):
        table = facts((schema, name))
        if table is None:
            continue  # it was dropped meanwhile
        hindrances = list(_hindrances(connection, table))
        good += not hindrances
        for hindrance in hindrances:
            yield Check("tables", Verdict.WARNING, f"{schema}.{name}: {hindrance}")
    yield Check("tables", Verdict.OK, f"every change of {good} tables can be undone")


def _hindrances(connection: Connection, table: Facts) -> Iterator[str]:
    if table.obstacle:
        remedy = _KEY if table.obstacle == "it has no primary key" else _ELSEWHERE
        yield f"{table.obstacle}, so that every change is refused; {remedy}"
        return
    log = log_on(connection) if table.capturing else ""
    captured = bool(log) and not fault(table, log)
    for event in Event:
        if why := table.triggered(event, but_aside=captured):
            yield f"{event.value} is refused: {why}; {_ELSEWHERE}"
        elif (why := table.carried_on(event, table.primary_key)) and not (
            captured and _is_captured(connection, table, event, log)
        ):
            what = "UPDATE of its primary key" if event is Event.UPDATE else event.value
            yield f"{what} is refused: {why}; {_TRIGGERS if connection.dialect.name == 'postgresql' else _ELSEWHERE}"


def _is_captured(connection: Connection, table: Facts, event: Event, log: str) -> bool:
    """Whether triggers capture all rows that change with a row of a table by foreign keys."""
    begin = (table, event, frozenset(table.primary_key))
    reached = spread([begin], lambda name: table_named(connection, name))
    return all(not fault(at, log) and not at.triggered(happening, but_aside=True) for at, happening, *_ in reached)
