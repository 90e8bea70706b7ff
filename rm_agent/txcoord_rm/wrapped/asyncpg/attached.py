"""asyncpg's connection beside an engine: a statement outside `transaction()` is committed by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.util import await_only
from txcoord_proto.errors import ConfigurationError

from txcoord_rm.wrapped.attached import Attached

_PROBED = repr(["txcoord", ["txcoord"], 1, 1, True, True])
"""Values as captured statements give and take them."""


class AttachedAsyncpg(Attached):
    """See `Attached`; `raw` is SQLAlchemy's adapter, which begins nothing by itself here."""

    _identity = (
        "SELECT id::text, 'txcoord'::text, ARRAY['txcoord']::text[], 1::bigint, 1::integer, true, "
        "$1::text = 'txcoord' AND $2::bigint = 1 AND $3::integer = 1 FROM txcoord_database"
    )
    _identity_parameters = "txcoord", 1, 1

    def __init__(self, raw: Any, engine: Engine) -> None:
        super().__init__(raw, engine)
        self.record_class: type | None = None
        """Of the connection's rows; None: not known before it is checked."""
        self.open: list[Any] = []
        """Who began the blocks that are open."""
        self._busy = False
        raw.autocommit = True

    @property
    def asyncpg(self) -> Any:
        """The driver's module."""
        return self.dialect.loaded_dbapi.asyncpg

    def commits_each(self) -> bool:
        """See `Attached.commits_each`."""
        return not self.is_open()

    def is_closed(self) -> bool:
        """See `Attached.is_closed`."""
        return bool(self.driver.is_closed())

    def drop(self) -> None:
        """See `Attached.drop`."""
        self.driver.terminate()

    def own_error(self, error: BaseException) -> BaseException:
        """See `Attached.own_error`: SQLAlchemy's adapter has errors of its own."""
        found = super().own_error(error)
        adapted = isinstance(found, self.dialect.loaded_dbapi.Error)
        return found.__cause__ if adapted and found.__cause__ is not None else found

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Refuse what runs beside another operation, as the driver does: one here may be several of the driver's."""
        if self._busy:
            raise self.asyncpg.InterfaceError("cannot perform operation: another operation is in progress")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _check(self) -> None:
        super()._check()
        if self.takes_part() and self.is_open() is not bool(self._blocks):
            raise ConfigurationError(
                "the local transaction was begun or ended by SQL text or behind its wrapped connection: use its transaction()"
            )

    def _identity_in(self, found: Any) -> Any:
        """See `Attached._identity_in`."""
        self.record_class = self.record_class or type(found)
        identity, *values = found
        if repr(values) != _PROBED:
            raise ConfigurationError(
                "a codec of the connection changes values of text, text[], bigint, integer or boolean, which captured statements "
                "use themselves: set codecs for types of your own columns only, or convert these values in Python"
            )
        return identity

    def unchecked(self) -> None:
        """Codecs are about to be changed: look again before the next captured statement."""
        self._is_checked = False

    # ------------------------------------------------------------ the local transaction

    def enter(self, owner: Any, options: dict[str, Any]) -> None:
        """Begin a block: a local transaction, or a savepoint in the one that is open.

        Args:
            owner: Who does.
            options: Of the local transaction: isolation, readonly, deferrable.
        """
        self._check_not_ended()
        if self._blocks:
            self._save(None)
        else:
            self.dialect._txcoord_seen.pop(id(self.raw), None)
            self._begin(**options)
            self._blocks.append("")
        self.open.append(owner)

    def _begin(self, isolation: str | None, readonly: bool, deferrable: bool) -> None:
        raw = self.raw
        raw.isolation_level, raw.readonly, raw.deferrable = isolation, readonly, deferrable
        try:
            with self.told():
                await_only(raw._start_transaction())
        except BaseException:
            raw.autocommit = True
            raise

    def leave(self, keeps: bool, block: int = -1) -> None:
        """See `Attached.leave`."""
        del self.open[block:]
        super().leave(keeps, block)

    def _end(self, keeps: bool) -> None:
        try:
            if keeps and self.raw._transaction is not None:
                self.commit()
                return
            self.rollback()
            if keeps:
                raise self.asyncpg.InterfaceError("cannot commit; the transaction is lost with its connection")
        finally:
            if self.raw._transaction is not None:  # it was ended otherwise, which the driver shall know
                with contextlib.suppress(Exception):
                    self.raw.rollback()
            self.raw.autocommit = True

    def abandon(self) -> None:
        """Roll back what is open, with all blocks."""
        if self._blocks:
            self.leave(False, 0)

    def terminate(self) -> None:
        """Close the connection at once; the database rolls back what was open."""
        self._blocks.clear()
        self.open.clear()
        self.dialect.do_terminate(self.raw)

    def close(self) -> None:
        """See `Attached.close`."""
        self._blocks.clear()
        self.open.clear()
        super().close()
