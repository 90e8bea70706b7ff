"""Which family a dialect of SQLAlchemy belongs to: how its statements are read and captured."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Dialect
from txcoord_proto.errors import ConfigurationError

from txcoord_rm.capture.port import Capture
from txcoord_rm.capture.postgresql import PostgresqlCapture
from txcoord_rm.sql.flavour import Binds, Family, Flavour

_BINDS = {"format": Binds.PERCENT, "pyformat": Binds.PERCENT, "numeric_dollar": Binds.DOLLAR, "qmark": Binds.QUESTION}


def flavour_of(dialect: Dialect) -> Flavour:
    """How statements of a dialect are read.

    Raises:
        ConfigurationError: Its database, or the way its driver marks parameters, is not supported.
    """
    binds = _BINDS.get(dialect.paramstyle)
    if dialect.name == "postgresql" and binds in (Binds.PERCENT, Binds.DOLLAR):
        return Flavour(Family.POSTGRESQL, binds)
    if dialect.name in ("mysql", "mariadb") and binds is Binds.PERCENT:
        return Flavour(Family.MYSQL, binds, backslashes=True)
    raise ConfigurationError(
        f"{dialect.name}+{dialect.driver} (paramstyle {dialect.paramstyle}) is not supported in AT mode: use psycopg, asyncpg or "
        "psycopg2 for PostgreSQL"
    )


def capture_for(dialect: Any) -> Capture:
    """How changes of a dialect's statements are captured. Raises like `flavour_of`."""
    flavour = flavour_of(dialect)
    if flavour.family is not Family.POSTGRESQL:
        raise ConfigurationError(f"{dialect.name} is not supported in AT mode: use mode='xa'")
    return PostgresqlCapture(flavour.binds)
