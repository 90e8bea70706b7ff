"""Undo records for people, as a table, and for programs in the form of Seata's undo log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import click
from txcoord_proto.terminal import cut, table, width

from txcoord_rm.at.parking import describe, row_key, shown
from txcoord_rm.catalogue.facts import Facts
from txcoord_rm.catalogue.table import Event
from txcoord_rm.undo.item import Change, Image, UndoRecord
from txcoord_rm.undo.restorer import Difference

HEAD = ("BRANCH", "DID", "TABLE", "ROW", "COLUMN", "BEFORE", "AFTER")


def show_records(records: Sequence[UndoRecord], facts: Facts) -> None:
    """Print what a rollback puts back, the change that is undone first at the top; and what there is nothing to put back of."""
    lines = [line for record in reversed(records) if record.state == "IMAGE" for line in _lines(record, facts)]
    if lines:
        table(HEAD, lines)
    for state, meaning in (
        ("UNDONE", "undone already"),
        ("GUARD", "guards against a phase one that comes late: nothing to undo"),
    ):
        if named := [str(record.branch_id) for record in records if record.state == state]:
            click.echo(f"{'branches' if len(named) > 1 else 'branch'} {', '.join(named)}: {meaning}")


def show_differences(differences: Sequence[Difference], facts: Facts) -> None:
    """Print rows that are not as the transaction left them."""
    for difference in differences:
        for line in describe(difference, facts, 0):
            click.echo(f"  {line}")


def _lines(record: UndoRecord, facts: Facts) -> Iterator[tuple[str, ...]]:
    longest = 24 if width() else 0
    for change in record.changes():
        for column in change.changed:
            yield (
                str(record.branch_id), event_of(change).value, ".".join(change.table), row_key(change, facts),
                column, _cell(change, column, change.before, longest), _cell(change, column, change.after, longest),
            )  # fmt: skip


def _cell(change: Change, column: str, image: Image | None, longest: int) -> str:
    return "-" if image is None else cut(shown(change.value(column, image), 0), longest)


def event_of(change: Change) -> Event:
    """What was done to the row."""
    return Event.INSERT if change.before is None else Event.DELETE if change.after is None else Event.UPDATE


# ---------------------------------------------------------------- Seata's form


def undo_logs(xid: str, records: Sequence[UndoRecord], facts: Facts) -> list[dict[str, Any]]:
    """A document for each branch, with what it did in the order in which it did it."""
    return [
        {"branchId": branch_id, "xid": xid, "state": of_branch[0].state, "undoItems": list(_items(of_branch, facts))}
        for branch_id, group in groupby(records, key=lambda record: record.branch_id)
        if (of_branch := list(group))
    ]


def _items(records: Sequence[UndoRecord], facts: Facts) -> Iterator[dict[str, Any]]:
    for record in records:
        if record.state == "IMAGE":
            forwards = reversed(list(record.changes()))
            for event, group in groupby(forwards, key=event_of):  # an upsert both inserts and updates
                changes = list(group)
                yield {
                    "sqlType": event.value,
                    "tableName": ".".join(record.table),
                    "beforeImage": _image(record.table, changes, [c.before for c in changes], facts),
                    "afterImage": _image(record.table, changes, [c.after for c in changes], facts),
                }


def _image(name: tuple[str, str], changes: list[Change], images: list[Image | None], facts: Facts) -> dict[str, Any]:
    rows = [{"fields": list(_fields(change, image, facts))} for change, image in zip(changes, images) if image is not None]
    return {"tableName": ".".join(name), "rows": rows}


def _fields(change: Change, image: Image, facts: Facts) -> Iterator[dict[str, Any]]:
    known = facts(change.table)
    types = {} if known is None else {column.name: column.type for column in known.columns}
    for name, value in zip(change.columns, image):
        is_key = known is not None and name in known.primary_key
        yield {
            "name": name,
            "keyType": "PRIMARY_KEY" if is_key else "NULL",
            "type": types.get(name, ""),
            "value": {"hex": value.hex()} if isinstance(value, bytes) else value,
        }
