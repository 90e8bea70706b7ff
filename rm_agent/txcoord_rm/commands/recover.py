"""`txcoord-agent recover`: what is prepared in a database and not ended, looked at and ended now."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import click
from sqlalchemy import Connection
from txcoord_proto.errors import ConfigurationError
from txcoord_proto.terminal import as_json, errors_end_it, show_document, table
from txcoord_sdk import schema
from txcoord_sdk.client import Client
from txcoord_sdk.database import Database
from txcoord_sdk.transaction.effects import drive

from txcoord_rm.at.participant import resource_of
from txcoord_rm.commands.coordinator import with_client
from txcoord_rm.commands.database import opened, url_argument
from txcoord_rm.schema import faults
from txcoord_rm.xa import scan as scanning
from txcoord_rm.xa.resource import preparing_for
from txcoord_rm.xa.scan import ENDED, Finding, Scan
from txcoord_rm.xa.second_phase import XaSecondPhase


@click.command("recover", short_help="End prepared transactions that were left behind.")
@url_argument
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@as_json
@with_client
@errors_end_it
def recover_command(client: Client, url: str, dry_run: bool, as_json: bool) -> None:
    """Look for prepared transactions of txcoord in the database at URL, and end them as the coordinator has decided.

    What `txcoord-agent serve` and services in XA mode do from time to time, once. One of which the coordinator knows nothing is
    an orphan, and is rolled back if it is still there 20 seconds after it was seen first: the command waits for that. What
    others have prepared is not touched. Exit code 1 when anything stays prepared, also if that is right, since its transaction
    is under way; and when the database or the coordinator does not answer.
    """
    with opened(url, undoes=False) as database, client:
        preparing = preparing_for(database.sync_engine.dialect)
        database.run(_check_tables)
        second_phase = XaSecondPhase(database, preparing, resource_of(database.prepare()))
        findings = _look(Scan(second_phase, client.status), dry_run)
    _show(database, findings, dry_run, as_json)
    sys.exit(0 if all(finding.ended for finding in findings) else 1)


def _check_tables(connection: Connection) -> None:
    """Refuse a database in which nothing of ours can be prepared; nothing is created here.

    Raises:
        ConfigurationError: It is one.
    """
    for known in schema.metadata.sorted_tables:
        if fault := faults(connection, known):
            raise ConfigurationError(f"{known.name}: {fault}; no service has used txcoord here, is it the right database?")


def _look(scan: Scan, dry_run: bool) -> list[Finding]:
    findings = drive(scan.steps(dry_run))
    if dry_run or not any(finding.is_too_young for finding in findings):
        return findings
    click.echo(f"orphans are looked at again in {scanning.ORPHAN_SECONDS:g} s", err=True)
    time.sleep(scanning.ORPHAN_SECONDS)
    return [finding for finding in findings if finding.ended] + drive(scan.steps())


def _show(database: Database, findings: Sequence[Finding], dry_run: bool, as_json: bool) -> None:
    if as_json:
        branches = [
            {
                "xid": finding.identifier.xid, "branch": finding.identifier.branch_id, "decision": finding.decision,
                "end": finding.end, "ended": finding.ended, "reason": finding.reason,
            }
            for finding in findings
        ]  # fmt: skip
        show_document({"database": database.id, "dry_run": dry_run, "branches": branches})
    elif not findings:
        click.echo(f"nothing of txcoord is prepared in database {database.id}")
    else:
        rows = [(f.identifier.xid, str(f.identifier.branch_id), f.decision or "?", _done(f, dry_run)) for f in findings]
        notes = [[" ".join(f.reason.split())] if f.reason else [] for f in findings]
        table(("XID", "BRANCH", "DECISION", "DONE"), rows, notes)


def _done(finding: Finding, dry_run: bool) -> str:
    if finding.end is None or finding.ended:
        return ENDED[finding.end]
    return f"{'would be' if dry_run else 'not'} {ENDED[finding.end]}"
