"""Which family a dialect of SQLAlchemy belongs to: how its statements are read and captured."""

from __future__ import annotations

from sqlalchemy.engine import Dialect
from txcoord_proto.errors import ConfigurationError

from txcoord_rm.capture.mysql import MysqlCapture
from txcoord_rm.capture.port import Capture
from txcoord_rm.capture.postgresql import PostgresqlCapture
from txcoord_rm.capture.sqlite import SqliteCapture
from txcoord_rm.sql.flavour import Binds, Family, Flavour

_BINDS = {"format": Binds.PERCENT, "pyformat": Binds.PERCENT, "numeric_dollar": Binds.DOLLAR, "qmark": Binds.QUESTION}


def flavour_of(dialect: Dialect) -> Flavour:
    """How statements of a dialect are read.

    Raises:
        ConfigurationError: Its database, or the way its driver marks parameters, is not supported.
    """
    binds = _BINDS.get(dialect.paramstyle)
    match dialect.name:
        case "postgresql" if binds in (Binds.PERCENT, Binds.DOLLAR):
            return Flavour(Family.POSTGRESQL, binds)
        case "mysql" | "mariadb" if binds is Binds.PERCENT:
            return Flavour(Family.MYSQL, binds, backslashes=True)  # as servers are; another session is refused
        case "sqlite" if binds is Binds.QUESTION:
            return Flavour(Family.SQLITE, Binds.NATIVE)
    raise ConfigurationError(
        f"{dialect.name}+{dialect.driver} (paramstyle {dialect.paramstyle}) is not supported in AT mode: use PostgreSQL with "
        "psycopg, asyncpg or psycopg2, MariaDB or MySQL with PyMySQL, aiomysql or asyncmy, or SQLite with sqlite3 or aiosqlite"
    )


def capture_for(flavour: Flavour) -> Capture:
    """How changes of statements are captured that are read so."""
    match flavour.family:
        case Family.SQLITE:
            return SqliteCapture()
        case Family.MYSQL:
            return MysqlCapture(flavour)
        case Family.POSTGRESQL:
            return PostgresqlCapture(flavour.binds)
