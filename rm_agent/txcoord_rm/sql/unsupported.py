"""How a statement is refused."""

from __future__ import annotations

from txcoord_proto.errors import UnsupportedSqlError

SHOWN = 200


def refuse(sql: str, reason: str, remedy: str = "") -> UnsupportedSqlError:
    """The error for a statement that may not run inside a global transaction, because it could not be undone for certain.

    Args:
        sql: The statement.
        reason: Why it cannot be proven safe.
        remedy: What to do instead.
    """
    shown = " ".join(sql.split())
    shown = shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "\u2026"
    advice = f"; {remedy}" if remedy else ""
    return UnsupportedSqlError(
        f"refused inside a global transaction, {reason}{advice}. The statement: {shown}", {"statement": shown, "reason": reason}
    )
