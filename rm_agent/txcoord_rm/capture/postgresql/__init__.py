"""PostgreSQL: one statement changes the rows, writes their undo record and returns their lock keys."""

from __future__ import annotations

from txcoord_rm.capture.postgresql.capture import PostgresqlCapture

__all__ = ["PostgresqlCapture"]
