"""`txcoord locks`."""

from __future__ import annotations

import click
from txcoord_proto.terminal import cut, show_document, table, width
from txcoord_proto.v1 import operator_pb2 as op

from txcoord_server.commands.coordinator import Coordinator, connected
from txcoord_server.commands.document import document


@click.command("locks", short_help="List global locks, holders and waiters.")
@click.option("--resource", default="", help="Only those of this resource.")
@click.option("--xid", default="", help="What this transaction holds and what it waits for.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="Rows at most.")
@connected
def locks_command(coordinator: Coordinator, resource: str, xid: str, limit: int, as_json: bool) -> None:
    """List global locks with their holders, those that somebody waits for first."""
    reply = coordinator.call("Locks", op.LocksRequest(resource=resource, xid=xid, limit=limit), op.LocksReply)
    if as_json:
        show_document(document(reply))
        return
    if not reply.locks:
        click.echo("none")
        return
    some = 30 if width() else 0
    rows = [(cut(lock.resource, some), cut(lock.key, some), lock.xid, str(len(lock.waiters) or "-")) for lock in reply.locks]
    notes = [[f"waited for by {', '.join(lock.waiters)}"] if lock.waiters else [] for lock in reply.locks]
    table(("RESOURCE", "KEY", "HELD BY", "WAITERS"), rows, notes)
    if reply.more:
        click.echo("\nthere are more: narrow it down with --resource or --xid, or raise --limit")
