"""`txcoord retry`, `txcoord force-commit` and `txcoord force-rollback`: look, ask, act on what was seen."""

from __future__ import annotations

from collections.abc import Callable

import click
from txcoord_proto.terminal import show_document
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.v1 import operator_pb2 as op

from txcoord_server.commands.card import show_card, status_name
from txcoord_server.commands.coordinator import Coordinator, connected
from txcoord_server.commands.document import document

_xid = click.argument("xid")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_version = click.option(
    "--version", type=click.IntRange(1), help="Version that you saw; for scripts: nothing is shown and nobody is asked."
)
_reason = click.option("--reason", required=True, help="Why; the audit keeps it.")


@click.command("retry", short_help="Try its second phase again, now.")
@_xid
@click.option("--reason", default="", help="Why; the audit keeps it.")
@_yes
@_version
@connected
def retry_command(coordinator: Coordinator, xid: str, reason: str, yes: bool, version: int | None, as_json: bool) -> None:
    """Try every branch of XID that is parked or waits for its next try, now."""
    seen = version or _look(coordinator, xid, yes, as_json, _what_retry_does)
    request = op.RetryRequest(xid=xid, version=seen, reason=reason)
    _done(coordinator.call("Retry", request, pb.StatusReply), as_json)


@click.command("force-commit", short_help="Commit it by your word.")
@_xid
@_reason
@_yes
@_version
@connected
def force_commit_command(coordinator: Coordinator, xid: str, reason: str, yes: bool, version: int | None, as_json: bool) -> None:
    """Commit XID by your word.

    Undecided: commit is decided, if every branch has reported that it is done. Decided so already: what has not settled is
    declared done without being done. A transaction that is decided ROLLBACK cannot be committed.
    """
    _force(coordinator, xid, True, reason, version or _look(coordinator, xid, yes, as_json, _what_force_does), as_json)


@click.command("force-rollback", short_help="Roll it back by your word.")
@_xid
@_reason
@_yes
@_version
@connected
def force_rollback_command(
    coordinator: Coordinator, xid: str, reason: str, yes: bool, version: int | None, as_json: bool
) -> None:
    """Roll XID back by your word.

    Undecided: rollback is decided, and its branches are told. Decided so already: what has not settled is declared done
    without being done. A transaction that is decided COMMIT cannot be rolled back.
    """
    _force(coordinator, xid, False, reason, version or _look(coordinator, xid, yes, as_json, _what_force_does), as_json)


def _force(coordinator: Coordinator, xid: str, commit: bool, reason: str, version: int, as_json: bool) -> None:
    request = op.ForceRequest(xid=xid, commit=commit, version=version, reason=reason)
    _done(coordinator.call("Force", request, pb.StatusReply), as_json)


def _look(coordinator: Coordinator, xid: str, yes: bool, as_json: bool, consequence: Callable[[pb.Transaction], str]) -> int:
    """Show the transaction and ask whether to go on; returns the version that was seen."""
    if as_json and not yes:
        raise click.UsageError("with --json nobody is asked: add --yes, or --version N")
    reply = coordinator.call("Show", pb.StatusRequest(xid=xid), op.ShowReply)
    if not yes:
        show_card(reply.transaction, reply.acts)
        click.echo()
        click.confirm(f"{consequence(reply.transaction)} Go on?", abort=True)
    return reply.transaction.version


def _what_retry_does(t: pb.Transaction) -> str:
    return "What is parked or waits for its next try is tried again now."


def _what_force_does(t: pb.Transaction) -> str:
    if not t.decision:
        return "It is decided by your word; its branches are told then."
    unsettled = sum(b.status not in ("SETTLED", "FORCED", "FAILED") for b in t.branches)
    return f"{unsettled} branches are declared done by your word; nothing is done to their data."


def _done(reply: pb.StatusReply, as_json: bool) -> None:
    if as_json:
        show_document(document(reply))
        return
    t = reply.transaction
    click.echo(f"{t.xid} is {status_name(t)} now, version {t.version}. {t.explanation}")
