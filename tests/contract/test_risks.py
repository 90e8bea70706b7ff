"""A coordinator refuses a database that can lose acknowledged commits, and says which setting it is; unless told otherwise."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from txcoord_proto.errors import UnsafeStoreError
from txcoord_server.store.sql_store import SqlStore
from txcoord_server.store.sqlite import SqliteDialect

from tests.contract.conftest import OpenStore
from tests.servers.fixtures import FreshUrl
from tests.servers.server import Server


async def check_refused(store: SqlStore, pattern: str, caplog: pytest.LogCaptureFixture) -> None:
    """It does not start because of that, and starts with a warning where risks are accepted."""
    with pytest.raises(UnsafeStoreError, match=pattern) as caught:
        await store.start()
    assert "--unsafe-store" in str(caught.value)
    assert (caught.value.code, caught.value.retryable) == ("STORE_UNSAFE", False)
    store.accepts_risks = True
    caplog.clear()
    await store.start()
    assert (await store.look()).epoch == 0, "its tables are there"
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert str(caught.value).split(": ")[1].split(";")[0] in record.getMessage()


async def check_accepted(store: SqlStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    await store.start()
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


@contextmanager
def administered(url: str, driver: str) -> Iterator[Engine]:
    engine = create_engine(make_url(url).set(drivername=driver), isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


def execute(engine: Engine, statement: str) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)


# ---------------------------------------------------------------- PostgreSQL


async def test_a_database_that_commits_asynchronously(
    fresh_postgres_url: FreshUrl, open_store_of: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    url = fresh_postgres_url()
    await check_accepted(open_store_of(url), caplog)
    with administered(url, "postgresql+psycopg") as engine:
        execute(engine, f"ALTER DATABASE {make_url(url).database} SET synchronous_commit = off")
    await check_refused(open_store_of(url), "synchronous_commit = off: set it to on", caplog)


async def test_a_role_that_commits_asynchronously(
    fresh_postgres_url: FreshUrl, open_store_of: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    url = fresh_postgres_url()
    with administered(url, "postgresql+psycopg") as engine:
        execute(engine, f"ALTER ROLE CURRENT_USER IN DATABASE {make_url(url).database} SET synchronous_commit = off")
    await check_refused(open_store_of(url), "synchronous_commit = off", caplog)


async def test_a_url_that_asks_for_it(
    fresh_postgres_url: FreshUrl, open_store_of: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    url = fresh_postgres_url()
    await check_refused(open_store_of(f"{url}?options=-csynchronous_commit%3Doff"), "synchronous_commit = off", caplog)


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_a_server_that_does_not_flush(
    setting: str, postgres: Server, fresh_postgres_url: FreshUrl, open_store_of: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    if postgres.control is None:
        pytest.skip("the server is somebody else's: its settings stay as they are")
    url = fresh_postgres_url()
    with administered(url, "postgresql+psycopg") as engine:
        try:
            execute(engine, f"ALTER SYSTEM SET {setting} = off")
            reload_until(engine, setting, "off")
            await check_refused(open_store_of(url), f"{setting} = off: set it to on", caplog)
        finally:
            execute(engine, f"ALTER SYSTEM RESET {setting}")
            reload_until(engine, setting, "on")
    await check_accepted(open_store_of(url), caplog)


def reload_until(engine: Engine, setting: str, value: str) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_reload_conf()"))
    for _ in range(100):
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_sleep(0.02)"))
            if connection.scalar(text(f"SHOW {setting}")) == value:
                return
    raise TimeoutError(f"{setting} has not become {value}")


# ---------------------------------------------------------------- MariaDB


async def test_a_server_that_flushes_once_a_second(
    mariadb: Server, fresh_mariadb_url: FreshUrl, open_store_of: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    if mariadb.control is None:
        pytest.skip("the server is somebody else's: its settings stay as they are")
    url = fresh_mariadb_url()
    with administered(url, "mysql+pymysql") as engine:
        try:
            execute(engine, "SET GLOBAL innodb_flush_log_at_trx_commit = 2")
            await check_refused(open_store_of(url), "innodb_flush_log_at_trx_commit = 2: set it to 1", caplog)
        finally:
            execute(engine, "SET GLOBAL innodb_flush_log_at_trx_commit = 1")
    await check_accepted(open_store_of(url), caplog)


async def test_a_table_without_transactions(
    fresh_mariadb_url: FreshUrl, open_store_of: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    url = fresh_mariadb_url()
    await check_accepted(open_store_of(url), caplog)
    with administered(url, "mysql+pymysql") as engine:
        execute(engine, "ALTER TABLE txc_audit ENGINE = MyISAM")
        await check_refused(open_store_of(url), "txc_audit is not an InnoDB table", caplog)


# ---------------------------------------------------------------- SQLite


async def test_a_file_without_wal(tmp_path: Path, open_store_of: OpenStore, caplog: pytest.LogCaptureFixture) -> None:
    await check_accepted(open_store_of(f"sqlite:///{tmp_path}/a.db"), caplog)
    engine = create_engine(f"sqlite:///file:{tmp_path}/b.db?vfs=unix-none&uri=true")  # it has no shared memory
    with engine.connect() as connection:
        (risk,) = SqliteDialect("default", f"{tmp_path}/b.db").risks(connection)
    engine.dispose()
    assert risk.startswith("SQLite cannot use WAL")
