"""An engine whose local transactions may be prepared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from sqlalchemy import URL
from sqlalchemy.engine import Dialect
from txcoord_proto.errors import ConfigurationError

from txcoord_rm.at.resource import Resource
from txcoord_rm.capture.families import flavour_of
from txcoord_rm.xa.effects import Effects
from txcoord_rm.xa.identifier import Identifier
from txcoord_rm.xa.kept import kept
from txcoord_rm.xa.mode import Mode
from txcoord_rm.xa.mysql import MysqlPreparing
from txcoord_rm.xa.port import Preparing
from txcoord_rm.xa.postgresql import PostgresqlPreparing


def preparing_for(dialect: Dialect) -> Preparing:
    """How a dialect's database prepares transactions.

    Raises:
        ConfigurationError: It does not.
    """
    match dialect.name:
        case "postgresql":
            return PostgresqlPreparing()
        case "mysql" | "mariadb":
            return MysqlPreparing(dialect.is_async)
        case "sqlite":
            raise ConfigurationError(
                "SQLite commits in one step and cannot prepare a transaction, so it has no XA mode: use mode='at'"
            )
    raise ConfigurationError(f"{dialect.name} has no XA mode here: use PostgreSQL, MariaDB or MySQL")


def _place(url: URL) -> tuple[str | None, int | None, str | None]:
    return url.host, url.port, url.database


class XaResource:
    """See the module.

    Args:
        resource: The engine.
        dialect: Its dialect.
        mode: Of its local transactions outside blocks that say another.

    Raises:
        ConfigurationError: Its database prepares no transactions.
    """

    def __init__(self, resource: Resource, dialect: Dialect, mode: Mode) -> None:
        self.resource = resource
        self.mode = mode
        self.preparing = preparing_for(dialect)
        self.effects = Effects(flavour_of(dialect), resource.database.dialect)
        self.locks = mode is Mode.AT
        """Whether its branches take global locks: they do where this process uses AT mode on the database as well."""
        if self.preparing.keeps:
            database = resource.database
            database.when_closed(lambda: kept.close(database))
        self._meet()
        self.used = mode is Mode.XA
        """Whether there may be XA branches of this process."""
        self._checked = False
        self._when_used: Callable[[], None] | None = None

    def _meet(self) -> None:
        """Get to know the other engines of the same database in this process."""
        url = self.resource.database.sync_engine.url
        same = [other for other in _enrolled if _place(other.resource.database.sync_engine.url) == _place(url)]
        _enrolled.add(self)
        if any(one.mode is Mode.AT for one in (self, *same)):
            for one in (self, *same):
                one.locks = True

    def check(self, cursor: Any) -> None:
        """Look, once, whether the database is set up for it.

        Raises:
            ConfigurationError: It is not; the text says what to set.
        """
        if self._checked:
            return
        self.preparing.check(cursor)
        self._checked = self.used = True
        if self._when_used is not None:
            self._when_used()

    def when_used(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the engine is used in XA mode, and now if that may be so already."""
        self._when_used = callback
        if self.used:
            callback()

    def identifier(self, xid: str, branch_id: int) -> Identifier:
        """Of a branch of this database."""
        return Identifier(self.resource.database.id, xid, branch_id)


_enrolled: WeakSet[XaResource] = WeakSet()
