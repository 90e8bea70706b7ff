"""Undo records as MySQL and MariaDB are told to write them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from itertools import compress
from operator import ne
from typing import TypeAlias

from txcoord_rm.capture.port import Entry
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.backticks import literal
from txcoord_rm.undo.images import packed, written
from txcoord_rm.undo.item import FORMAT, Image

Images: TypeAlias = Sequence[Image | None]
LARGE = 1_000_000
"""Bytes of images that one record has at most, unless they are of one row: a statement must fit into a packet."""
_LONG = 4096


def next_seq(branch_id: int) -> str:
    """A scalar sub-select: the number of the branch's next record; 1 where its last row is a guard, so that it fails there.

    It is read without locks: a range locked behind the last branch would keep all new ones out.
    """
    return (
        "COALESCE((SELECT IF(l.state = 'IMAGE', l.seq + 1, 1) FROM txcoord_undo_log AS l "
        f"WHERE l.branch_id = {branch_id:d} ORDER BY l.seq DESC LIMIT 1), 1)"
    )


def records(entry: Entry, seq: int, table: Table, columns: Sequence[str], befores: Images, afters: Images) -> Iterator[str]:
    """Statements that write the records of one statement of the application, of rows that are other than before.

    Args:
        entry: Where they belong.
        seq: Number of the first.
        table: Whose rows they are.
        columns: Of the images.
        befores: Images of each row.
        afters: The same of each after it has changed.
    """
    differ = list(map(ne, befores, afters))
    if not all(differ):
        befores, afters = list(compress(befores, differ)), list(compress(afters, differ))
    for n, (before, after) in enumerate(_parts(befores, afters)):
        names = literal(json.dumps(list(columns), ensure_ascii=False))
        yield (
            "INSERT INTO txcoord_undo_log "
            "(branch_id, seq, state, xid, format, created_at, table_schema, table_name, columns, befores, afters) "
            f"VALUES ({entry.branch_id:d}, {seq + n}, 'IMAGE', {literal(entry.xid)}, {FORMAT}, "
            "TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', UTC_TIMESTAMP(6)) DIV 1000, "
            f"{literal(table.schema)}, {literal(table.name)}, {names}, {_constant(packed(before))}, {_constant(packed(after))})"
        )


def _parts(befores: Images, afters: Images) -> Iterator[tuple[bytes, bytes]]:
    """JSON of images, in portions that fit into a statement."""
    if befores:
        before, after = written(befores), written(afters)
        if len(before) + len(after) <= LARGE or len(befores) == 1:
            yield before, after
        else:
            half = len(befores) // 2
            yield from _parts(befores[:half], afters[:half])
            yield from _parts(befores[half:], afters[half:])


def _constant(data: bytes) -> str:
    return f"x'{data.hex()}'" if len(data) <= _LONG else f"FROM_BASE64('{b64encode(data).decode()}')"
