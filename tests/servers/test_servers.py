"""Each server answers a real question through the client that the project uses, and survives what tests will do to it."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import psycopg
import pymysql
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kazoo.client import KazooClient
from redis import Redis
from sqlalchemy import create_engine, make_url, text

from tests.servers.databases import fresh_database
from tests.servers.fixtures import FreshUrl
from tests.servers.server import Origin, Server


def connect_mysql(url: str, timeout_s: float = 10.0) -> pymysql.Connection[pymysql.cursors.Cursor]:
    parts = make_url(url)
    return pymysql.connect(
        host=parts.host,
        port=parts.port or 3306,
        user=parts.username,
        password=str(parts.password or ""),
        database=parts.database,
        read_timeout=timeout_s,
    )


@contextmanager
def zookeeper_client(address: str) -> Iterator[KazooClient]:
    client = KazooClient(hosts=address, timeout=5.0)
    client.start(timeout=10)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def ours(server: Server) -> Server:
    """The server, when it may be killed."""
    if server.origin is Origin.ENVIRONMENT:
        pytest.skip(f"{server.name} is not ours to kill")
    return server


def test_postgres_is_durable_and_has_room_for_prepared_transactions(postgres: Server) -> None:
    with psycopg.connect(postgres.url) as connection:
        settings = {name: value for name, value in connection.execute("SELECT name, setting FROM pg_settings").fetchall()}
    assert (settings["fsync"], settings["synchronous_commit"], settings["full_page_writes"]) == ("on", "on", "on")
    assert int(settings["max_prepared_transactions"]) >= 200
    assert int(settings["max_connections"]) >= 200


async def test_postgres_answers_asyncpg(postgres: Server) -> None:
    connection = await asyncpg.connect(postgres.url)
    try:
        assert await connection.fetchval("SELECT 6 * 7") == 42
    finally:
        await connection.close()


def test_postgres18_returns_old_and_new_rows(fresh_postgres18_url: FreshUrl) -> None:
    with psycopg.connect(fresh_postgres18_url()) as connection:
        connection.execute("CREATE TABLE stock (sku text PRIMARY KEY, left_over int)")
        connection.execute("INSERT INTO stock VALUES ('tea', 10)")
        changed = connection.execute(
            "UPDATE stock SET left_over = left_over - 3 RETURNING WITH (OLD AS o, NEW AS n) o.left_over, n.left_over"
        ).fetchall()
    assert changed == [(10, 7)]


def test_mariadb_is_durable_and_speaks_xa(fresh_mariadb_url: FreshUrl) -> None:
    with connect_mysql(fresh_mariadb_url()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@innodb_flush_log_at_trx_commit, @@innodb_doublewrite, @@max_connections >= 200, VERSION()")
        flush, doublewrite, room, version = cursor.fetchone() or ()
        assert (flush, doublewrite, room) == (1, 1, 1)
        assert "MariaDB" in version
        cursor.execute("CREATE TABLE stock (sku varchar(20) PRIMARY KEY)")
        xid = uuid.uuid4().hex
        cursor.execute(f"XA START '{xid}'")
        cursor.execute("INSERT INTO stock VALUES ('tea')")
        cursor.execute(f"XA END '{xid}'")
        cursor.execute(f"XA PREPARE '{xid}'")
        cursor.execute("XA RECOVER")
        assert xid.encode() in {row[3] for row in cursor.fetchall()}
        cursor.execute(f"XA ROLLBACK '{xid}'")


def test_mysql_answers_as_mysql(fresh_mysql_url: FreshUrl) -> None:
    with connect_mysql(fresh_mysql_url()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        (version,) = cursor.fetchone() or ()
    assert "MariaDB" not in version


def test_redis_writes_through(redis: Server) -> None:
    with Redis.from_url(redis.url, decode_responses=True) as client:
        key = uuid.uuid4().hex
        client.set(key, "tea", px=60_000)
        assert client.get(key) == "tea"
        if redis.origin is not Origin.ENVIRONMENT:
            assert client.config_get("append*")["appendfsync"] == "always"


def test_zookeeper_ends_an_ephemeral_sequence_node_with_its_session(zookeeper: Server) -> None:
    folder = f"/{uuid.uuid4().hex}"
    with zookeeper_client(zookeeper.url) as watching:
        with zookeeper_client(zookeeper.url) as holder:
            path = holder.create(f"{folder}/lock-", ephemeral=True, sequence=True, makepath=True)
            assert path == f"{folder}/lock-0000000000"
            assert watching.get_children(folder) == ["lock-0000000000"]
        assert watching.get_children(folder) == []


async def produce(address: str, topic: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=address, enable_idempotence=True) as producer:
        for value in values:
            await producer.send_and_wait(topic, value, key=b"tea")


async def consume(address: str, topic: str, count: int) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, group_id=f"g-{topic}", auto_offset_reset="earliest")
    async with consumer:
        return [(await consumer.getone()).value for _ in range(count)]


async def test_kafka_delivers_to_a_group(kafka: Server) -> None:
    topic = uuid.uuid4().hex
    await produce(kafka.url, topic, b"one", b"two")
    assert await consume(kafka.url, topic, 2) == [b"one", b"two"]


def test_a_database_of_ones_own_is_dropped_with_all_that_hangs_on_it(postgres: Server, fresh_postgres_url: FreshUrl) -> None:
    first, second = fresh_postgres_url(), fresh_postgres_url("asyncpg")
    assert make_url(first).database != make_url(second).database
    assert make_url(second).drivername == "postgresql+asyncpg"
    with fresh_database(postgres) as url:
        name = make_url(url).database
        forgotten = psycopg.connect(url)
        forgotten.execute("CREATE TABLE stock (sku text)")
        forgotten.commit()
        forgotten.tpc_begin("never settled")
        forgotten.execute("INSERT INTO stock VALUES ('tea')")
        forgotten.tpc_prepare()
    with psycopg.connect(postgres.url) as connection:
        assert not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchall()
    forgotten.close()


def test_a_mariadb_database_is_dropped_although_a_prepared_transaction_holds_it(mariadb: Server) -> None:
    with fresh_database(ours(mariadb)) as url:
        forgotten, xid = connect_mysql(url), uuid.uuid4().hex
        with forgotten.cursor() as cursor:
            cursor.execute("CREATE TABLE stock (sku varchar(20) PRIMARY KEY)")
            for statement in (f"XA START '{xid}'", "INSERT INTO stock VALUES ('tea')", f"XA END '{xid}'", f"XA PREPARE '{xid}'"):
                cursor.execute(statement)
    with connect_mysql(mariadb.url) as connection, connection.cursor() as cursor:
        assert cursor.execute("SHOW DATABASES LIKE %s", (make_url(url).database,)) == 0
        assert cursor.execute("XA RECOVER") == 0


def test_a_fresh_url_serves_sqlalchemy(fresh_mariadb_url: FreshUrl) -> None:
    engine = create_engine(fresh_mariadb_url("pymysql"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE stock (sku varchar(20))"))
        assert connection.execute(text("SELECT count(*) FROM stock")).scalar() == 0
    engine.dispose()


def test_postgres_keeps_what_it_promised_over_a_kill(postgres: Server, fresh_postgres_url: FreshUrl) -> None:
    server, url = ours(postgres), fresh_postgres_url()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE stock (sku text)")
    prepared = psycopg.connect(url)
    prepared.tpc_begin("in doubt")
    prepared.execute("INSERT INTO stock VALUES ('prepared')")
    prepared.tpc_prepare()
    open_one = psycopg.connect(url)
    open_one.execute("INSERT INTO stock VALUES ('open')")
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO stock VALUES ('committed')")
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), timeout=2)
    server.restart()
    for broken in (prepared, open_one):
        broken.close()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT sku FROM stock").fetchall() == [("committed",)]
        assert [xid.gtrid for xid in connection.tpc_recover()] == ["in doubt"]


def test_mariadb_keeps_what_it_promised_over_a_kill(mariadb: Server, fresh_mariadb_url: FreshUrl) -> None:
    server, url, xid = ours(mariadb), fresh_mariadb_url(), uuid.uuid4().hex
    open_one = connect_mysql(url)
    prepared = connect_mysql(url)
    with open_one.cursor() as cursor, prepared.cursor() as preparing:
        cursor.execute("CREATE TABLE stock (sku varchar(20) PRIMARY KEY)")
        cursor.execute("INSERT INTO stock VALUES ('committed')")
        cursor.execute("COMMIT")
        for statement in (f"XA START '{xid}'", "INSERT INTO stock VALUES ('prepared')", f"XA END '{xid}'", f"XA PREPARE '{xid}'"):
            preparing.execute(statement)
        cursor.execute("INSERT INTO stock VALUES ('open')")
    server.kill()
    server.restart()
    with connect_mysql(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT sku FROM stock")
        assert cursor.fetchall() == (("committed",),)
        connection.autocommit(True)  # else MariaDB refuses XA COMMIT of a recovered XID: XAER_OUTSIDE
        cursor.execute(f"XA COMMIT '{xid}'")
        cursor.execute("SELECT sku FROM stock ORDER BY sku")
        assert cursor.fetchall() == (("committed",), ("prepared",))


def test_redis_keeps_an_acknowledged_write_over_a_kill(redis: Server) -> None:
    server, key = ours(redis), uuid.uuid4().hex
    with Redis.from_url(server.url) as client:
        client.set(key, "kept")
    server.kill()
    server.restart()
    with Redis.from_url(server.url) as client:
        assert client.get(key) == b"kept"


def test_zookeeper_keeps_a_node_over_a_kill(zookeeper: Server) -> None:
    server, path = ours(zookeeper), f"/{uuid.uuid4().hex}"
    with zookeeper_client(server.url) as client:
        client.create(path, b"kept")
    server.kill()
    server.restart()
    with zookeeper_client(server.url) as client:
        assert client.get(path)[0] == b"kept"


async def test_kafka_keeps_a_message_over_a_kill(kafka: Server) -> None:
    server, topic = ours(kafka), uuid.uuid4().hex
    await produce(server.url, topic, b"before")
    server.kill()
    server.restart()
    await produce(server.url, topic, b"after")
    assert await consume(server.url, topic, 2) == [b"before", b"after"]


def test_a_stopped_server_is_silent_and_goes_on(postgres: Server, mariadb: Server) -> None:
    with psycopg.connect(ours(postgres).url) as connection:
        with postgres.stopped(), pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(postgres.url, connect_timeout=2)
        assert connection.execute("SELECT 1").fetchone() == (1,)
    silent, alive = connect_mysql(ours(mariadb).url, timeout_s=1), connect_mysql(mariadb.url)
    with mariadb.stopped(), silent.cursor() as cursor, pytest.raises(pymysql.err.OperationalError, match="timed out"):
        cursor.execute("SELECT 1")
    with alive, alive.cursor() as cursor:
        assert cursor.execute("SELECT 1") == 1
