"""`txcoord-agent undo`: what is in the undo log, and a person's end of a rollback that was parked."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Sequence

import click
from sqlalchemy import Connection
from txcoord_proto.errors import ConfigurationError, ExpiredXidError, TxcoordError, UnknownXidError
from txcoord_proto.failpoints import durable
from txcoord_proto.status import Decision
from txcoord_proto.terminal import as_json, errors_end_it, show_document, span, table
from txcoord_sdk.client import Client
from txcoord_sdk.database import Database
from txcoord_sdk.participant import ParkError

from txcoord_rm.at.parking import DifferenceError
from txcoord_rm.catalogue.facts import facts_on
from txcoord_rm.commands.coordinator import with_client
from txcoord_rm.commands.database import database_option, opened
from txcoord_rm.commands.shown import show_differences, show_records, undo_logs
from txcoord_rm.undo import operator
from txcoord_rm.undo.item import CorruptRecordError, UndoRecord
from txcoord_rm.undo.log import begin_undo, undo
from txcoord_rm.undo.restorer import Difference

log = logging.getLogger(__name__)

_STATES = ("IMAGE", "GUARD", "UNDONE")
_xid = click.argument("xid")
_reason = click.option("--reason", required=True, help="Why; it is logged.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_alone = click.option(
    "--without-coordinator", is_flag=True,
    help="Do not ask the coordinator whether XID is decided ROLLBACK; you are certain that it is.",
)  # fmt: skip


@click.group("undo", short_help="Look into undo records; end a parked rollback.")
def undo_command() -> None:
    """Look into the undo records of a database, and end a rollback that was parked because rows were written by others."""


@undo_command.command("ls", short_help="List undo records and guards by transaction.")
@database_option
@click.option(
    "--state", "states", multiple=True, type=click.Choice(_STATES, case_sensitive=False), help="Only this one; may be repeated."
)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="Rows at most.")
@as_json
@errors_end_it
def ls_command(url: str, states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List what is in the undo log by transaction, the oldest first.

    IMAGE: rows can be put back. UNDONE: they were. GUARD: a rollback came where nothing had been written, and nothing will be.
    """
    with opened(url) as database:
        found = database.run(lambda connection: operator.listed(connection, states or _STATES, limit))
    if as_json:
        fields = ("xid", "state", "branches", "records", "age")
        show_document({"transactions": [{field: getattr(row, field) for field in fields} for row in found]})
    elif not found:
        click.echo("none")
    else:
        rows = [(row.xid, row.state, str(row.branches), str(row.records), span(row.age)) for row in found]
        table(("XID", "STATE", "BRANCHES", "RECORDS", "AGE"), rows)


@undo_command.command("show", short_help="Show what a rollback of XID puts back.")
@_xid
@database_option
@click.option("--try", "tries", is_flag=True, help="Try it as well, in a local transaction that is rolled back; locks the rows.")
@as_json
@errors_end_it
def show_command(xid: str, url: str, tries: bool, as_json: bool) -> None:
    """Show what a rollback of XID puts back in this database, the change that is undone first at the top.

    With --try also which rows are not as the transaction left them, so that they park it. --json prints the form of Seata's undo
    log.
    """
    with opened(url) as database:
        database.run(lambda connection: _show(connection, xid, tries, as_json))


def _show(connection: Connection, xid: str, tries: bool, as_json: bool) -> None:
    begin_undo(connection)
    facts, records = facts_on(connection), _records(connection, xid)
    differences = _tried(connection, xid) if tries else None
    if as_json:
        document = {"xid": xid, "branches": undo_logs(xid, records, facts)}
        tried = {} if differences is None else {"differences": [_told(d, connection) for d in differences]}
        show_document({**document, **tried})
        return
    show_records(records, facts)
    if differences is None:
        return
    click.echo()
    if not differences:
        click.echo("tried, and taken back: every row can be put back")
    else:
        click.echo("tried, and taken back: these rows are not as the transaction left them")
        show_differences(differences, facts)


def _told(difference: Difference, connection: Connection) -> dict[str, object]:
    change = difference.change
    images = {"before": change.before, "after": change.after, "current": difference.current}
    rows = {name: None if image is None else dict(zip(change.columns, image)) for name, image in images.items()}
    return {"tableName": ".".join(change.table), **rows, "reason": difference.reason}


def _records(connection: Connection, xid: str) -> list[UndoRecord]:
    try:
        records = operator.records_of(connection, xid)
    except CorruptRecordError as error:
        raise ParkError(str(error)) from error
    if not records:
        raise ConfigurationError(
            f"there are no undo records of {xid} in this database: `txcoord-agent undo ls` lists what there is"
        )
    return records


def _tried(connection: Connection, xid: str) -> Sequence[Difference]:
    """Rows that stand against a rollback; tried, and taken back."""
    savepoint = connection.begin_nested()
    try:
        return undo(connection, xid, operator.branches_with_images(connection, xid), facts_on(connection))
    except CorruptRecordError as error:
        raise ParkError(str(error)) from error
    finally:
        savepoint.rollback()


# ---------------------------------------------------------------- acts


@undo_command.command("force-restore", short_help="Put rows back over whatever is there.")
@_xid
@database_option
@_reason
@_yes
@_alone
@as_json
@with_client
@errors_end_it
def force_restore_command(
    client: Client, xid: str, url: str, reason: str, yes: bool, without_coordinator: bool, as_json: bool
) -> None:
    """Give rows what they had before XID, whatever others have written since; then `txcoord retry XID`.

    What others wrote into the same columns is lost. All rows are put back in one local transaction, or none.
    """
    what = "Rows get what they had before, over whatever is there now."
    with opened(url) as database:
        _check_decision(client, xid, without_coordinator)
        branch_ids = _look(database, xid, yes, as_json, what)
        _force(database, xid)
    _done(xid, "force-restore", branch_ids, reason, as_json)


@undo_command.command("accept-current", short_help="Leave rows as they are, and call them undone.")
@_xid
@database_option
@_reason
@_yes
@_alone
@as_json
@with_client
@errors_end_it
def accept_current_command(
    client: Client, xid: str, url: str, reason: str, yes: bool, without_coordinator: bool, as_json: bool
) -> None:
    """Leave every row of XID in this database as it is, and take its branches for undone; then `txcoord retry XID`.

    For when somebody has brought the data in order by hand. Also rows that could be put back are not.
    """
    what = "No row is touched; the undo records are emptied, and cannot be used any more."
    with opened(url) as database:
        _check_decision(client, xid, without_coordinator)
        branch_ids = _look(database, xid, yes, as_json, what)
        _accept(database, xid)
    _done(xid, "accept-current", branch_ids, reason, as_json)


def _check_decision(client: Client, xid: str, without_coordinator: bool) -> None:
    """Refuse to undo by force what is, or may yet be, committed.

    Raises:
        ConfigurationError: It is not decided ROLLBACK, or nobody knows.
    """
    if without_coordinator:
        return
    certain = "if you are certain that it is to be undone, use --without-coordinator"
    try:
        with client:
            transaction = client.status(xid)
    except (UnknownXidError, ExpiredXidError) as error:
        raise ConfigurationError(f"the coordinator cannot say how {xid} was decided ({error.message}); {certain}") from error
    except TxcoordError as error:
        raise ConfigurationError(f"the coordinator has not said how {xid} is decided ({error.message}); {certain}") from error
    if transaction.decision != Decision.ROLLBACK:
        decided = f"is decided {transaction.decision}" if transaction.decision else "is not decided yet"
        raise ConfigurationError(f"{xid} {decided}: only what is decided ROLLBACK is undone")


def _look(database: Database, xid: str, yes: bool, as_json: bool, consequence: str) -> list[int]:
    """Show what it is about and ask whether to go on; returns the branches."""
    if as_json and not yes:
        raise click.UsageError("with --json nobody is asked: add --yes")
    branch_ids = database.run(lambda connection: operator.branches_with_images(connection, xid))
    if not branch_ids:
        raise ConfigurationError(f"there is nothing of {xid} to undo in this database: see `txcoord-agent undo show {xid}`")
    if not as_json:
        try:
            database.run(lambda connection: _show(connection, xid, True, False))
        except ParkError as error:  # which is no reason not to accept what is there
            click.echo(f"what would be put back cannot be shown: {error}")
        click.echo(f"\n{consequence}")
    if not yes:
        click.confirm("Go on?", abort=True)
    return branch_ids


@durable("at.force")
def _force(database: Database, xid: str) -> None:
    database.run(lambda connection: _forced(connection, xid))


def _forced(connection: Connection, xid: str) -> None:
    begin_undo(connection)
    facts = facts_on(connection)
    try:
        differences = operator.force(connection, xid, facts)
    except CorruptRecordError as error:
        raise ParkError(str(error)) from error
    if differences:
        raise DifferenceError.not_even_by_force(differences, facts)


@durable("at.accept")
def _accept(database: Database, xid: str) -> None:
    database.run(lambda connection: operator.accept(connection, xid))


def _done(xid: str, act: str, branch_ids: list[int], reason: str, as_json: bool) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log.warning("%s of %s, branches %s, by %s: %s", act, xid, ", ".join(map(str, branch_ids)), _myself(), reason)
    if as_json:
        show_document({"xid": xid, "act": act, "branches": branch_ids, "reason": reason})
    else:
        click.echo(f"done. Now tell the coordinator: txcoord retry {xid} --reason ...")


def _myself() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
