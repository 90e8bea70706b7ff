"""A SELECT that locks rows, as a read that global locks protect: it also returns the keys of the rows that it has locked."""

from __future__ import annotations

from collections.abc import Sequence

from txcoord_rm.capture.keys import Keys, Row
from txcoord_rm.capture.postgresql import checks
from txcoord_rm.capture.postgresql.rewrite import Captured
from txcoord_rm.capture.splice import Splice
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.flavour import Binds
from txcoord_rm.sql.statement import Span, Statement
from txcoord_rm.sql.unsupported import refuse


def capture_read(statement: Statement, tables: Sequence[Table], binds: Binds, first: bool, limited: bool) -> Captured:
    """What is run instead of `statement`.

    Args:
        statement: A SELECT with a locking clause.
        tables: Those of `statement.locked`.
        binds: How the driver marks parameters.
        first: Whether it looks at the session's settings, too.
        limited: Whether it first sets the limits of the local transaction.

    Raises:
        UnsupportedSqlError: A row that it locks has no key of its own.
    """
    keys = []
    for target, table in zip(statement.locked, tables, strict=True):
        if table.obstacle:
            reason = f"rows of {table.schema}.{table.name} cannot be locked globally: {table.obstacle}"
            raise refuse(statement.sql, reason, "name other tables with FOR UPDATE OF")
        keys.append(Keys(table).primary(Row(target.reference(statement.sql, binds))))
    select = statement.items
    assert select is not None, "a statement without is refused before"
    splice = Splice(statement, binds)
    splice.ours("WITH RECURSIVE " if statement.recursive else "WITH ")
    if statement.with_ is not None:
        splice.theirs(statement.with_).ours(", ")
    splice.ours("txcoord_u AS (").theirs(Span(statement.main.start, select.end))
    splice.ours(f", ARRAY[{', '.join(keys)}]::text[] AS txcoord_keys ").theirs(Span(select.end, statement.main.end))
    splice.ours(") SELECT txcoord_s.*, txcoord_u.* FROM (")
    conditions = (f"({checks.altered(*each)})" for each in zip(statement.locked, tables, strict=True))
    checks.write(splice, {checks.TABLE: " OR ".join(conditions)}, first, limited)
    splice.ours(") AS txcoord_s LEFT JOIN txcoord_u ON true")
    return Captured(splice.spliced(), keys=-1, shown=(1, -1))
