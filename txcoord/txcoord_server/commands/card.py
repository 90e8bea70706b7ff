"""A transaction on a card: what it is, why it is where it is, what happens next, and its branches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click
from txcoord_proto.terminal import coloured, moment, span, table
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.v1 import operator_pb2 as op


def status_name(transaction: pb.Transaction) -> str:
    """Name of its status."""
    return pb.GlobalStatus.Name(transaction.status)


def show_card(transaction: pb.Transaction, acts: Sequence[op.Act] = ()) -> None:
    """Print the card of a transaction."""
    t = transaction
    marks = [mark for mark, there in (("OVERDUE", t.overdue), ("FORCED", t.forced)) if there]
    click.echo(" ".join([click.style(t.xid, bold=True), coloured(status_name(t)), *map(coloured, marks)]))
    click.echo()
    for name, value in _facts(t):
        click.echo(f"  {name:<10} {value}")
    click.echo()
    click.echo(click.wrap_text(t.explanation, 98))
    if t.next_events:
        click.echo("\nNext:")
        for event in t.next_events:
            click.echo(f"  {f'{moment(event.at)}: ' if event.at else ''}{event.text}")
    if t.branches:
        click.echo()
        _branches(t)
    if acts:
        click.echo("\nActs of operators:")
        for act in acts:
            why = f": {act.reason}" if act.reason else ""
            click.echo(f"  {moment(act.at)}  {act.act} of version {act.version} by {act.actor}{why}")


def _facts(t: pb.Transaction) -> Iterator[tuple[str, str]]:
    yield "decision", f"{t.decision} ({t.reason})" if t.decision else "none"
    yield "name", t.name
    yield "service", t.service
    if t.key:
        yield "key", t.key
    yield "begun", moment(t.begun_at)
    if t.deadline_at and not t.decision:
        yield "deadline", moment(t.deadline_at)
    if t.decided_at:
        yield "decided", moment(t.decided_at)
    if t.settled_at:
        yield "settled", moment(t.settled_at)
    if t.traceparent:
        yield "trace", t.traceparent
    yield "version", str(t.version)


def _branches(t: pb.Transaction) -> None:
    def after(at: int) -> str:
        return f"+{span(max(0, at - t.begun_at))}" if at else "-"

    head = ("BRANCH", "TYPE", "RESOURCE", "STATUS", "TRIES", "REGISTERED", "REPORTED", "FIRST TRY", "SETTLED")
    rows = [
        (
            str(b.id), pb.BranchType.Name(b.type), b.resource, b.status, str(b.attempts), after(b.registered_at),
            after(b.reported_at), after(b.first_command_at), after(b.settled_at),
        )
        for b in t.branches
    ]  # fmt: skip
    table(head, rows, [list(_notes(b)) for b in t.branches])


def _notes(b: pb.Branch) -> Iterator[str]:
    if b.executor:
        yield f"last sent to {b.executor}"
    if b.error_code or b.error:
        yield f"last error {': '.join(filter(None, (b.error_code, b.error)))}"
    if b.next_try_at:
        yield f"next try {moment(b.next_try_at)}"
    if b.lock_keys:
        more = f" and {len(b.lock_keys) - 3} more" if len(b.lock_keys) > 3 else ""
        yield f"global locks {', '.join(b.lock_keys[:3])}{more}"
