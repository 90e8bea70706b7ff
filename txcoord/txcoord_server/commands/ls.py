"""`txcoord ls`."""

from __future__ import annotations

import click
from txcoord_proto.status import BranchStatus, GlobalStatus
from txcoord_proto.terminal import age, cut, show_document, table, width
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.v1 import operator_pb2 as op

from txcoord_server.commands.card import status_name
from txcoord_server.commands.coordinator import Coordinator, connected
from txcoord_server.commands.document import document

_ENDED = (BranchStatus.SETTLED, BranchStatus.FORCED, BranchStatus.FAILED)


@click.command("ls", short_help="List transactions.")
@click.option(
    "--status", "statuses", multiple=True, type=click.Choice([s.value for s in GlobalStatus], case_sensitive=False),
    help="Only this status; may be repeated.",
)  # fmt: skip
@click.option("--service", default="", help="Only those that this service began.")
@click.option("--key", default="", help="Only those with this business key, finished ones too.")
@click.option("--overdue", is_flag=True, help="Only those with a second phase that has failed too often.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 500), help="Rows at most.")
@click.option("--after", default="", metavar="XID", help="Go on after this one, the last of the page before.")
@connected
def ls_command(
    coordinator: Coordinator,
    statuses: tuple[str, ...],
    service: str,
    key: str,
    overdue: bool,
    limit: int,
    after: str,
    as_json: bool,
) -> None:
    """List global transactions, newest first; without --status those that are not finished."""
    request = op.ListRequest(statuses=statuses, service=service, key=key, overdue=overdue, limit=limit, after=after)
    reply = coordinator.call("List", request, op.ListReply)
    if as_json:
        show_document(document(reply))
        return
    if not reply.transactions:
        click.echo("none")
        return
    _show(list(reply.transactions))
    if reply.more:
        click.echo(f"\nthere are more: --after {reply.transactions[-1].xid}")


def _show(transactions: list[pb.Transaction]) -> None:
    head = ("XID", "STATUS", "DECISION", "AGE", "SETTLED", "SERVICE", "NAME", "KEY")
    some = 14 if width() else 0
    rows = [
        (
            t.xid, status_name(t), t.decision or "-", age(t.begun_at), _settled(t), cut(t.service, some), cut(t.name, some),
            cut(t.key, some) or "-",
        )
        for t in transactions
    ]  # fmt: skip
    troubled = [[t.explanation] if t.overdue or t.status == pb.PARKED else [] for t in transactions]
    table(head, rows, troubled)


def _settled(t: pb.Transaction) -> str:
    return f"{sum(b.status in _ENDED for b in t.branches)}/{len(t.branches)}"
