"""What connections of psycopg, synchronous or not, have in common when they are wrapped."""

from __future__ import annotations

from typing import Any

from txcoord_rm.wrapped.psycopg.attached import AttachedPsycopg


class WrappedBase:
    """A connection.

    Args:
        attached: The driver's connection.
    """

    def __init__(self, attached: AttachedPsycopg) -> None:
        self._attached = attached

    def __getattr__(self, name: str) -> Any:
        if name.startswith("tpc_"):
            raise AttributeError(f"{name}: a wrapped connection takes part in no other two-phase transactions")
        return getattr(self._attached.driver, name)

    def pipeline(self) -> Any:
        """See psycopg.

        Raises:
            UnsupportedSqlError: Inside a global transaction.
        """
        self._attached.refuse_inside("pipeline()", "results come too late to lock the rows", "run the statements one by one")
        return self._attached.driver.pipeline()
