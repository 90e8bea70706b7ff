"""Undo records as MySQL and MariaDB are told to write them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence

from txcoord_rm.capture.port import Entry
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.backticks import literal
from txcoord_rm.undo.images import encode
from txcoord_rm.undo.item import FORMAT, Image

Pair = tuple[Image | None, Image | None]
LARGE = 1_000_000
"""Characters of images after which another record begins: a statement must fit into a packet."""
_LONG = 4096


def next_seq(branch_id: int) -> str:
    """A scalar sub-select: the number of the branch's next record; 1 where its last row is a guard, so that it fails there.

    It is read without locks: a range locked behind the last branch would keep all new ones out.
    """
    return (
        "COALESCE((SELECT IF(l.state = 'IMAGE', l.seq + 1, 1) FROM txcoord_undo_log AS l "
        f"WHERE l.branch_id = {branch_id:d} ORDER BY l.seq DESC LIMIT 1), 1)"
    )


def records(entry: Entry, seq: int, table: Table, columns: Sequence[str], changes: Sequence[Pair]) -> Iterator[str]:
    """Statements that write the records of one statement of the application.

    Args:
        entry: Where they belong.
        seq: Number of the first.
        table: Whose rows have changed.
        columns: Of the images.
        changes: Images of each row before and after.
    """
    for n, part in enumerate(_parts(changes)):
        befores, afters = (_constant(encode(images)) for images in zip(*part))
        names = literal(json.dumps(list(columns), ensure_ascii=False))
        yield (
            "INSERT INTO txcoord_undo_log "
            "(branch_id, seq, state, xid, format, created_at, table_schema, table_name, columns, befores, afters) "
            f"VALUES ({entry.branch_id:d}, {seq + n}, 'IMAGE', {literal(entry.xid)}, {FORMAT}, "
            "TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', UTC_TIMESTAMP(6)) DIV 1000, "
            f"{literal(table.schema)}, {literal(table.name)}, {names}, {befores}, {afters})"
        )


def _parts(changes: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    part, size = list[Pair](), 0
    for pair in changes:
        length = sum(len(str(value)) + 3 for image in pair if image is not None for value in image)
        if part and size + length > LARGE:
            yield part
            part, size = [], 0
        part.append(pair)
        size += length
    if part:
        yield part


def _constant(data: bytes) -> str:
    return f"x'{data.hex()}'" if len(data) <= _LONG else f"FROM_BASE64('{b64encode(data).decode()}')"
