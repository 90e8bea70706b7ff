"""What a captured statement finds wrong when it runs: then it fails, and with it the local transaction, whatever its caller does.

The check is a row on the outer side of a join with the rows that are changed. So it is made before any of them is waited for, and
so are the limits of the local transaction set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from txcoord_proto.errors import ConfigurationError, LockConflictError, TxcoordError

from txcoord_rm.capture.splice import Splice
from txcoord_rm.catalogue.table import Table
from txcoord_rm.sql.quoting import literal
from txcoord_rm.sql.statement import Target

TABLE, MOVED = "table", "moved"
"""The table is not as it was known; a row got another primary key while it was waited for. Else: the name of a setting."""
_MARK = "txcoord:"
_FOUND = re.compile(rf"{_MARK}(\w+)")
_LIMITED = "idle_in_transaction_session_timeout", "statement_timeout", "transaction_timeout", "lock_timeout"
# current_setting of what does not exist is NULL
_LIMITS = (
    " FROM (SELECT count(set_config(name, ms::text, true)) AS changed FROM (VALUES (",
    ")) AS l (ms), (VALUES "
    + ", ".join(f"('{name}')" for name in _LIMITED)
    + ") AS n (name) WHERE current_setting(name, true) = '0' OR current_setting(name, true)::interval > ms * interval '1 ms') "
    "AS l WHERE changed IS NOT NULL",
)
_SETTINGS = {
    "DateStyle": "current_setting('DateStyle') NOT LIKE 'ISO%'",
    "extra_float_digits": "current_setting('extra_float_digits')::integer < 1",
    "IntervalStyle": "current_setting('IntervalStyle') = 'sql_standard'",
    "standard_conforming_strings": "current_setting('standard_conforming_strings') <> 'on'",
}


def altered(target: Target, table: Table) -> str:
    """A condition that a table is not as it was known, or that its name means another one.

    The name is resolved where the statement is parsed, as the statement's own are; so it stays right once that is prepared.
    """
    return f"{literal(target.written)}::regclass::oid <> {table.oid} OR {table.altered}"


def write(splice: Splice, wrong: dict[str, str], first: bool, limited: bool) -> None:
    """Add a query of one row, which fails if something is wrong.

    Args:
        splice: Where to.
        wrong: Conditions by what is wrong then.
        first: Whether settings of the session that would falsify images are wrong, too.
        limited: Whether it sets limits of the local transaction to the parameter `limit_ms`; lower ones stay.
    """
    conditions = wrong | (_SETTINGS if first else {})
    cases = ", ".join(f"CASE WHEN {condition} THEN {literal(_MARK + name)} END" for name, condition in conditions.items())
    splice.ours(f"SELECT NULLIF(concat_ws(' ', {cases}), '')::integer AS txcoord_fit")  # a text is no number, and the cast fails
    if limited:
        limit(splice)


def limit(splice: Splice) -> None:
    """Add to a query without FROM that it sets limits of the local transaction to the parameter `limit_ms`; lower ones stay."""
    splice.ours(_LIMITS[0]).parameter("limit_ms", "integer").ours(_LIMITS[1])


def found(error: BaseException) -> frozenset[str]:
    """What was wrong, if that is why a statement failed."""
    return frozenset(_FOUND.findall(str(error)))


def explained(wrong: Iterable[str], tables: Iterable[Table], detail: str = "") -> TxcoordError:
    """The error that says what was wrong, of which there is something."""
    names = " or ".join(f"{table.schema}.{table.name}" for table in tables)
    if MOVED in wrong:
        return LockConflictError(
            f"a row of {names} got another primary key while the statement waited for it: roll the transaction back and run it "
            "again"
        )
    if TABLE in wrong:
        return LockConflictError(
            f"what was known of table {names} does not hold any more, or does not here: roll the transaction back and run it "
            f"again{f' ({detail})' if detail else ''}"
        )
    return ConfigurationError(
        f"under this session's setting of {', '.join(sorted(wrong))} rows would not be put back exactly: set DateStyle to ISO, "
        "extra_float_digits to 1 or more, IntervalStyle to postgres and standard_conforming_strings to on, then begin the "
        "transaction anew"
    )
