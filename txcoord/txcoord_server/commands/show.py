"""`txcoord show`."""

from __future__ import annotations

import click
from txcoord_proto.terminal import show_document
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.v1 import operator_pb2 as op

from txcoord_server.commands.card import show_card
from txcoord_server.commands.coordinator import Coordinator, connected
from txcoord_server.commands.document import document


@click.command("show", short_help="Show one: why it is where it is, and what happens next.")
@click.argument("xid", default="")
@click.option("--key", default="", help="Instead of XID: the newest transaction with this business key.")
@connected
def show_command(coordinator: Coordinator, xid: str, key: str, as_json: bool) -> None:
    """Show a transaction: why it is where it is, what happens next, its branches, and what operators did."""
    if bool(xid) is bool(key):
        raise click.UsageError("give either an XID or --key")
    reply = coordinator.call("Show", pb.StatusRequest(xid=xid, key=key), op.ShowReply)
    if as_json:
        show_document(document(reply))
    else:
        show_card(reply.transaction, reply.acts)
