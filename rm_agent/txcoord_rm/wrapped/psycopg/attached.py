"""psycopg's connection beside an engine: it begins local transactions by itself, unless it commits each statement."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine

from txcoord_rm.wrapped.attached import Attached


class AttachedPsycopg(Attached):
    """See `Attached`."""

    def __init__(self, raw: Any, engine: Engine) -> None:
        super().__init__(raw, engine)
        self._autocommit = False
        """Whether the driver commits each statement outside of the block that is open."""

    def commits_each(self) -> bool:
        """See `Attached.commits_each`."""
        return self.driver.autocommit and not self.is_open()

    def is_closed(self) -> bool:
        """See `Attached.is_closed`."""
        return bool(self.driver.closed)

    def drop(self) -> None:
        """See `Attached.drop`."""
        self.raw.close()

    def enter(self, name: str | None) -> None:
        """Begin a block: a local transaction, or a savepoint in the one that is open."""
        if self.is_open() or self._blocks:
            self._save(name)
            return
        self._autocommit = bool(self.driver.autocommit)
        if self._autocommit:
            self._set_autocommit(False)
        self._blocks.append("")

    def _end(self, keeps: bool) -> None:
        try:
            if keeps:
                self.commit()
            else:
                self.rollback()
        finally:
            if self._autocommit and not self.is_closed():
                self._set_autocommit(True)

    def asks_for_rollback(self, error: BaseException) -> bool:
        """Whether an error does nothing but leave the innermost block without what it did."""
        return type(error) is self.dialect.loaded_dbapi.Rollback and getattr(error, "transaction", None) is None

    def set_autocommit(self, value: bool) -> None:
        """See the driver."""
        self._check_no_block("autocommit")
        self._set_autocommit(value)

    def _set_autocommit(self, value: bool) -> None:
        if self.dialect.is_async:
            self.raw.set_autocommit(value)
        else:
            self.raw.autocommit = value
