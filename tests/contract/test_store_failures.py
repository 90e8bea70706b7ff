"""The three failures of a group commit, and of a standby's look: what is certain after each."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from txcoord_proto.errors import StoreUnavailableError
from txcoord_server.engine.storage import FencedError, StoreBusyError, UnknownCommitError

from tests.contract.conftest import TTL, OpenStore
from tests.contract.test_store import active, branch, lead, write
from tests.servers import Direction, TcpProxy
from tests.servers.fixtures import FreshUrl


@pytest.fixture(params=["postgres", "mariadb"])
def url(request: pytest.FixtureRequest) -> str:
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
    return fresh()


@pytest.fixture
def proxy(url: str) -> Iterator[TcpProxy]:
    with TcpProxy(url) as proxy:
        yield proxy


async def test_a_commit_whose_answer_is_lost_is_unknown_and_a_new_epoch_finds_it(
    open_store_of: OpenStore, proxy: TcpProxy, url: str
) -> None:
    store, witness = open_store_of(proxy.url, "n1"), open_store_of(url, "n2")
    await store.start()
    lease = await lead(store)
    group = write(lease)
    group.new_globals = [active("x")]
    group.waiting = 1
    proxy.black_hole(Direction.TO_CLIENT)
    committing = asyncio.ensure_future(store.commit(group))
    while await witness.find("x") is None:
        await asyncio.sleep(0.02)
    assert not committing.done()
    proxy.cut()
    proxy.heal()
    with pytest.raises(UnknownCommitError):
        await committing
    newer = await store.take_over(lease.epoch, 0, "SELF")
    assert newer is not None
    assert newer.commit_seq == group.commit_seq, "it happened"
    with pytest.raises(FencedError):
        await store.commit(write(lease, 2))
    await store.commit(write(newer))


async def test_a_commit_that_never_arrived_is_unknown_too(open_store_of: OpenStore, proxy: TcpProxy) -> None:
    store = open_store_of(proxy.url, "n1")
    await store.start()
    lease = await lead(store)
    await store.commit(write(lease))
    proxy.black_hole(Direction.TO_SERVER)
    group = write(lease, 2)
    group.new_globals = [active("x")]
    committing = asyncio.ensure_future(store.commit(group))
    await asyncio.sleep(0.2)
    proxy.cut()
    proxy.heal()
    with pytest.raises(UnknownCommitError):
        await committing
    newer = await store.take_over(lease.epoch, 0, "SELF")
    assert newer is not None
    assert newer.commit_seq == lease.commit_seq + 1, "it did not happen"
    assert await store.find("x") is None


async def test_without_a_connection_nothing_was_written_and_the_same_group_may_be_tried_again(
    open_store_of: OpenStore, proxy: TcpProxy
) -> None:
    store = open_store_of(proxy.url, "n1")
    await store.start()
    lease = await lead(store)
    proxy.refuse()
    proxy.cut()
    with pytest.raises(UnknownCommitError):
        await store.commit(write(lease))
    group = write(lease)
    group.new_globals = [active("x")]
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await store.commit(group)
    proxy.heal()
    await store.commit(group)
    assert await store.find("x") is not None


async def test_half_of_a_group_that_is_cancelled_is_not_written(open_store_of: OpenStore, proxy: TcpProxy, url: str) -> None:
    store, witness = open_store_of(proxy.url, "n1"), open_store_of(url, "n2")
    await store.start()
    lease = await lead(store)
    group = write(lease)
    group.new_globals = [active("x")]
    large = bytes(range(256)) * 4096
    group.new_branches = [(*branch("x", n)[:6], large, *branch("x", n)[7:]) for n in range(12)]
    group.audit = [("x", 1, "RETRY", 5, "operator:ann", "stock is back")]
    group.waiting = 1
    proxy.delay(0.02, Direction.TO_SERVER)
    before = sent(proxy)
    committing = asyncio.ensure_future(store.commit(group))
    while sent(proxy) < before + (1 << 18):
        await asyncio.sleep(0.01)
    committing.cancel()
    proxy.heal()
    with pytest.raises(asyncio.CancelledError):
        await committing
    assert await witness.find("x") is None
    await store.commit(group)
    assert await witness.find("x") == (group.new_globals[0], group.new_branches)
    assert await witness.audit("x") == group.audit


def sent(proxy: TcpProxy) -> int:
    return sum(traffic.to_server for traffic in proxy.traffic())


async def test_a_connection_whose_settings_are_refused_is_closed(open_store_of: OpenStore, url: str) -> None:
    store = open_store_of(url, lease_ttl=1 << 50)
    with pytest.raises(StoreUnavailableError, match="timeout") as refused:
        await store.look()
    engine = create_engine(url.replace("mysql:", "mysql+pymysql:").replace("postgresql:", "postgresql+psycopg:"))
    sessions = {
        "postgresql": "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        "mysql": "information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()",
    }
    query = text(f"SELECT count(*) FROM {sessions[engine.dialect.name]}")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        async with asyncio.timeout(5):
            while connection.scalar(query):
                await asyncio.sleep(0.02)
    engine.dispose()
    del refused  # which holds the frames, and a connection that was left open in them


async def test_a_standby_finds_its_way_back(open_store_of: OpenStore, proxy: TcpProxy, url: str) -> None:
    leader, standby = open_store_of(url, "n1"), open_store_of(proxy.url, "n2")
    await leader.start()
    await standby.start()
    lease = await lead(leader)
    assert (await standby.look()).holder == "n1"
    proxy.refuse()
    proxy.cut()
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            await standby.look()
    proxy.heal()
    assert (await standby.look()).holder == "n1"
    await leader.commit(write(lease))
    await leader.release()
    while not (seen := await standby.look()).gone:  # the database takes a moment to end the leader's session
        assert seen.age < TTL, "sooner than its lease runs out"
        await asyncio.sleep(0.02)
    assert await standby.take_over(seen.epoch, 0, "TAKEN") is not None


async def test_on_sqlite_another_writer_is_waited_for_and_then_named(open_store_of: OpenStore, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    store, standby = open_store_of(url, "n1"), open_store_of(url, "n2")
    await store.start()
    await standby.start()
    lease = await lead(store)
    group = write(lease)
    group.new_globals = [active("x")]
    group.waiting = 100
    writer = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match="locked"):
        await store.commit(group)
    seen = await standby.look()
    with pytest.raises(StoreBusyError):
        await standby.take_over(seen.epoch, 0, "TAKEN")
    writer.execute("ROLLBACK")
    writer.close()
    await store.commit(group)
    assert await store.find("x") is not None
