"""Every store keeps the same promises: the fence, the compare-and-set, what is found again."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, make_url, text
from txcoord_proto.errors import ConfigurationError, StoreError
from txcoord_server.domain.tokens import Token
from txcoord_server.engine.storage import (
    FencedError,
    GroupWrite,
    Lease,
    ListFilter,
    PurgeRange,
    Row,
    UnknownCommitError,
)
from txcoord_server.store.migrate import VERSION, VERSION_TABLE, migrate
from txcoord_server.store.open import open_store
from txcoord_server.store.schema import metadata
from txcoord_server.store.sql_store import SqlStore

from tests.contract.conftest import TTL, OpenStore
from tests.servers import Server
from tests.servers.fixtures import FreshUrl

Opener = Callable[[str], SqlStore]


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    fresh: FreshUrl = request.getfixturevalue(f"fresh_{request.param}_url")
    return fresh()


@pytest.fixture
def open_node(open_store_of: OpenStore, url: str) -> Opener:
    """Opens further nodes on the same store."""
    return partial(open_store_of, url)


@pytest.fixture
async def store(open_node: Opener) -> SqlStore:
    store = open_node("n1")
    await store.start()
    return store


async def lead(store: SqlStore, min_age: int = 0) -> Lease:
    seen = await store.look()
    lease = await store.take_over(seen.epoch, min_age, "TAKEN")
    assert lease is not None
    return lease


def write(lease: Lease, number: int = 1) -> GroupWrite:
    return GroupWrite(lease.epoch, lease.commit_seq + number, lease.branch_ids_end)


def active(xid: str, **changes: object) -> Row:
    row: dict[str, object] = {
        "xid": xid, "grp": "default", "status": "ACTIVE", "decision": None, "reason": None, "cause": "",
        "name": "naïve 'quoted' \\n", "service": "order",
        "business_key": None, "traceparent": "", "begin_key": 7, "begun_at": 1, "first_begun_at": 1, "deadline_at": 9,
        "decided_at": 0, "settled_at": 0, "version": 1, "once_parked": 0, "forced": 0, "purge_at": None, "commit_seq": 1,
        "settled_branches": None,
    }  # fmt: skip
    return tuple((row | changes).values())


def branch(xid: str, id: int) -> Row:
    arguments = bytes(range(256))
    return (xid, id, "TCC", "stock:reserve@1", "REGISTERED", '["a\\"b\'c", "é"]', arguments, 1, 0, 0, 0, 0, 0, "", "", "")


def changed(xid: str, before: str, status: str, decision: str, settled: int = 0) -> Row:
    return (xid, before, status, decision, "REQUESTED", "KeyError('sku')", 5, settled, 2, 0, 0, None, 2, None)


async def test_what_is_written_is_found_again(store: SqlStore) -> None:
    lease = await lead(store)
    group = write(lease)
    group.new_globals = [active("x1"), active("x2"), active("x3")]
    group.new_branches = [branch("x1", 1), branch("x1", (1 << 63) - 1)]
    group.asked = ["x1", "nothing"]
    found = await store.commit(group)
    assert {x: o.status for x, o in found.items()} == {"x1": "ACTIVE"}
    chunks = [chunk async for chunk in store.unfinished()]
    assert [row for rows, _ in chunks for row in rows] == group.new_globals
    assert [row for _, rows in chunks for row in rows] == group.new_branches
    assert await store.find("x1") == (group.new_globals[0], group.new_branches)
    assert await store.find("nothing") is None
    assert await store.epochs() == {lease.epoch: 0}


async def test_a_group_may_be_larger_than_a_packet_to_the_database(store: SqlStore) -> None:
    lease = await lead(store)
    group = write(lease)
    group.new_globals = [active(f"x{n:02d}") for n in range(24)]
    large = bytes(range(256)) * 4096
    group.new_branches = [(*branch(f"x{n:02d}", n)[:6], large, *branch("", n)[7:]) for n in range(24)]
    group.asked = ["x00", "x23"]
    assert len(await store.commit(group)) == 2
    chunks = [chunk async for chunk in store.unfinished()]
    assert [row for _, rows in chunks for row in rows] == group.new_branches
    stale = write(lease)
    stale.new_branches = [(*row[:1], row[1] + 100, *row[2:]) for row in group.new_branches]
    with pytest.raises(FencedError):
        await store.commit(stale)


async def test_changes_are_compared_and_set_together_or_not_at_all(store: SqlStore) -> None:
    lease = await lead(store)
    first = write(lease)
    first.new_globals = [active(f"x{n}") for n in range(300)]
    first.new_branches = [branch(f"x{n}", n) for n in range(300)]
    await store.commit(first)
    second = write(lease, 2)
    second.changed_globals = [changed(f"x{n}", "ACTIVE", "COMMITTING", "COMMIT") for n in range(299)]
    second.changed_branches = [(f"x{n}", n, "DONE", 3, 4, 0, 0, 1, "me", "", "it's") for n in range(300)]
    await store.commit(second)
    third = write(lease, 3)
    third.new_globals = [active("y")]
    third.changed_globals = [changed("x299", "ACTIVE", "COMMITTING", "COMMIT"), changed("x0", "ACTIVE", "COMMITTING", "COMMIT")]
    with pytest.raises(UnknownCommitError):
        await store.commit(third)
    assert await store.find("y") is None
    found = await store.find("x299")
    assert found is not None
    assert found[0][2] == "ACTIVE"
    assert found[1][0][4:6] == ("DONE", branch("x299", 299)[5])


async def test_a_commit_out_of_order_or_of_an_old_epoch_writes_nothing(open_node: Opener, store: SqlStore) -> None:
    lease = await lead(store)
    skipped = write(lease, 2)
    skipped.new_globals = [active("x")]
    with pytest.raises(FencedError):
        await store.commit(skipped)
    await store.commit(write(lease))
    with pytest.raises(FencedError):
        await store.commit(write(lease))
    await store.release()
    other = open_node("n2")
    await other.start()
    newer = await lead(other)
    assert newer.epoch > lease.epoch
    assert newer.commit_seq == lease.commit_seq + 1
    assert newer.branch_ids >= lease.branch_ids_end, "no branch id is granted twice"
    late = write(lease, 2)
    late.new_globals = [active("x")]
    with pytest.raises(FencedError):
        await store.commit(late)
    assert await other.find("x") is None
    await other.commit(write(newer))
    assert set(await other.epochs()) == {lease.epoch, newer.epoch}


async def test_the_session_lock_tells_a_dead_leader_from_a_silent_one(open_node: Opener, store: SqlStore) -> None:
    lease = await lead(store)
    await store.commit(write(lease))
    other = open_node("n2")
    await other.start()
    seen = await other.look()
    assert (seen.holder, seen.address, seen.gone) == ("n1", "n1:8190", False)
    assert await other.take_over(seen.epoch, TTL, "TAKEN") is None, "the leader is neither dead nor silent"
    await asyncio.sleep(TTL / 1000 + 0.1)
    silent = await other.look()
    assert (silent.gone, silent.age >= TTL) == (False, True)
    assert await other.take_over(silent.epoch, TTL, "TAKEN") is not None


async def test_a_leader_that_ends_is_replaced_at_once(open_node: Opener, store: SqlStore) -> None:
    await lead(store)
    await store.release()
    other = open_node("n2")
    await other.start()
    seen = await other.look()
    assert seen.gone
    assert await other.take_over(seen.epoch, 0, "TAKEN") is not None


async def test_of_two_candidates_one_wins(open_node: Opener, store: SqlStore) -> None:
    other = open_node("n2")
    await other.start()
    seen = await store.look()
    leases = await asyncio.gather(*(s.take_over(seen.epoch, 0, "TAKEN") for s in (store, other)))
    assert sum(lease is not None for lease in leases) == 1


async def test_a_new_epoch_over_oneself(store: SqlStore) -> None:
    lease = await lead(store)
    await store.commit(write(lease))
    newer = await store.take_over(lease.epoch, 0, "SELF")
    assert newer is not None
    assert newer.epoch > lease.epoch
    with pytest.raises(FencedError):
        await store.commit(write(lease, 2))
    await store.commit(write(newer))


async def test_retention_removes_only_what_it_is_told(store: SqlStore) -> None:
    lease = await lead(store)
    first = write(lease)
    first.new_globals = [
        active("default.1.1", status="COMMITTED", decision="COMMIT", settled_at=5),
        active("default.1.2", status="COMMITTED", decision="COMMIT", settled_at=5, purge_at=50),
        active("default.1.3"),
        active("default.1.4", status="ROLLED_BACK", decision="ROLLBACK", settled_at=5, purge_at=90),
        active("default.1.5", status="COMMITTED", decision="COMMIT", settled_at=5),
    ]
    first.new_branches = [branch(f"default.1.{n}", n) for n in range(1, 6)]
    await store.commit(first)
    assert await store.purgeable(60, 3, "default.2", 10) == ["default.1.2"]
    assert await store.purgeable(60, 6, "default.1.5", 10) == ["default.1.2", "default.1.1"]
    second = write(lease, 2)
    second.purge_ranges = [PurgeRange("default.1.1", "default.1.4", 1_000)]
    second.purge_xids = ["default.1.4"]
    second.purged = {lease.epoch: 4}
    await store.commit(second)
    left = [n for n in range(1, 6) if await store.find(f"default.1.{n}")]
    assert left == [2, 3, 5]
    for n in left:
        found = await store.find(f"default.1.{n}")
        assert found is not None
        assert len(found[1]) == 1
    assert await store.epochs() == {lease.epoch: 4}


async def test_keyed_ranges_spare_what_is_notable_or_settled_late(store: SqlStore) -> None:
    lease = await lead(store)
    first = write(lease)
    done = {"status": "COMMITTED", "decision": "COMMIT", "settled_at": 5, "purge_at": 90, "business_key": "k"}
    rolled_back = {**done, "status": "ROLLED_BACK", "decision": "ROLLBACK"}
    first.new_globals = [
        active("default.1.1", **done),
        active("default.1.2", **{**done, "forced": 1}),
        active("default.1.3", **{**done, "once_parked": 1}),
        active("default.1.4", **rolled_back),
        active("default.1.5", **{**done, "settled_at": 7}),
        active("default.1.6", status="PARKED", decision="COMMIT", business_key="k"),
        active("default.1.7", business_key="k"),
        active("default.1.8", **done),
    ]
    first.new_branches = [branch(f"default.1.{n}", n) for n in range(1, 9)]
    await store.commit(first)
    second = write(lease, 2)
    second.purge_ranges = [PurgeRange(f"default.1.{a}", f"default.1.{b}", 7, keyed=True) for a, b in ((1, 3), (4, 7))]
    await store.commit(second)
    left = [n for n in range(1, 9) if await store.find(f"default.1.{n}")]
    assert left == [2, 3, 4, 5, 6, 7, 8]
    third = write(lease, 3)
    third.purge_ranges = [PurgeRange("default.1.1", "default.1.8", 8, keyed=True)]
    await store.commit(third)
    assert [n for n in range(1, 9) if await store.find(f"default.1.{n}")] == [2, 3, 4, 6, 7]
    for n in (2, 6):
        found = await store.find(f"default.1.{n}")
        assert found is not None
        assert len(found[1]) == 1, "and the branches of what stays"


async def test_what_is_older_than_the_newest(store: SqlStore) -> None:
    lease = await lead(store)
    group = write(lease)
    group.new_globals = [
        active(f"default.1.{n}", status="COMMITTED", decision="COMMIT", settled_at=5, purge_at=9 if n == 4 else None)
        for n in range(1, 7)
    ]
    group.new_globals.append(active("default.1.7"))
    await store.commit(group)
    assert await store.older("default.2", 0) == "default.2"
    assert await store.older("default.2", 2) == "default.1.5"
    assert await store.older("default.2", 3) == "default.1.3", "what has a time of its own is not counted"
    assert await store.older("default.1.5", 1) == "default.1.3"
    assert await store.older("default.2", 6) == "", "there are not so many"


async def test_a_purged_sequence_only_grows_and_is_written_with_its_purge(open_node: Opener, store: SqlStore) -> None:
    lease = await lead(store)
    first = write(lease)
    first.purged = {lease.epoch: 9}
    await store.commit(first)
    lower = write(lease, 2)
    lower.purged = {lease.epoch: 4}
    await store.commit(lower)
    assert await store.epochs() == {lease.epoch: 9}
    await store.release()
    other = open_node("n2")
    await other.start()
    newer = await lead(other)
    fenced = write(lease, 3)
    fenced.purged = {lease.epoch: 20}
    with pytest.raises(FencedError):
        await store.commit(fenced)
    older = write(newer)
    older.purged = {lease.epoch: 12, newer.epoch: 3}
    await other.commit(older)
    assert await other.epochs() == {lease.epoch: 12, newer.epoch: 3}, "of earlier epochs too"


async def test_an_outage_is_the_time_since_the_last_commit(store: SqlStore) -> None:
    lease = await lead(store)
    assert lease.outage == 0, "there was none before"
    await store.commit(write(lease))
    await asyncio.sleep(0.3)
    newer = await store.take_over(lease.epoch, 0, "SELF")
    assert newer is not None
    assert 250 <= newer.outage < 5_000
    assert abs(newer.now - lease.now - newer.outage) < 1_000


async def test_the_epoch_grows_also_when_the_clock_of_the_database_goes_back(store: SqlStore, url: str) -> None:
    lease = await lead(store)
    ahead = lease.epoch + 10 * 24 * 3600 * 1000
    drivers = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "sqlite": "sqlite"}
    scheme = url.split(":", maxsplit=1)[0]
    engine = create_engine(url.replace(scheme, drivers[scheme], 1))
    with engine.begin() as connection:  # as if the clock had been ten days ahead when it was taken
        connection.execute(text(f"UPDATE txc_group SET epoch = {ahead}"))
        connection.execute(text(f"UPDATE txc_epoch SET epoch = {ahead}"))
    engine.dispose()
    newer = await store.take_over(ahead, 0, "SELF")
    assert newer is not None
    assert newer.epoch == ahead + 1
    assert set(await store.epochs()) == {ahead, ahead + 1}


async def test_listing_filters_and_pages(store: SqlStore) -> None:
    lease = await lead(store)
    group = write(lease)
    group.new_globals = [
        active("x1", service="a", business_key="k"),
        active("x2", service="b"),
        active("x3", status="COMMITTED", decision="COMMIT", settled_at=5, business_key="k"),
    ]
    await store.commit(group)

    async def xids(wanted: ListFilter) -> list[object]:
        return [row[0] for row in (await store.listing(wanted))[0]]

    assert await xids(ListFilter()) == ["x2", "x1"]
    assert await xids(ListFilter(limit=1)) == ["x2"]
    assert await xids(ListFilter(after="x2")) == ["x1"]
    assert await xids(ListFilter(service="a")) == ["x1"]
    assert await xids(ListFilter(statuses=("ACTIVE", "COMMITTED"), key="k")) == ["x3", "x1"]


async def test_an_operators_acts_are_kept_with_the_group_that_they_belong_to(store: SqlStore) -> None:
    lease = await lead(store)
    group = write(lease)
    group.new_globals = [active("x")]
    group.audit = [("x", 1, "RETRY", 5, "ann", "naïve 'quoted' \\n"), ("x", 2, "FORCE_COMMIT", 6, "ben", "why")]
    await store.commit(group)
    assert await store.audit("x") == group.audit
    assert await store.audit("y") == []
    again = write(lease, 2)
    again.audit = [("x", 2, "FORCE_COMMIT", 7, "ann", "the same act upon the same version")]
    again.new_globals = [active("y")]
    with pytest.raises(UnknownCommitError, match="refuses these rows"):
        await store.commit(again)
    assert await store.find("y") is None
    assert await store.audit("x") == group.audit


async def test_tokens(store: SqlStore) -> None:
    token = Token("h" * 64, "shop", "order", ("order:*", "db@*"), "service", 1)
    await store.add_token(token)
    assert await store.tokens() == [token]
    assert await store.drop_token("shop") == 1
    assert await store.tokens() == []


async def test_impossible_rows_are_refused_by_the_database(store: SqlStore) -> None:
    lease = await lead(store)
    group = write(lease)
    group.new_globals = [active("x", status="COMMITTED", decision="ROLLBACK", settled_at=5)]
    with pytest.raises(UnknownCommitError, match="refuses these rows"):  # asking again would not help
        await store.commit(group)
    assert await store.find("x") is None
    await store.commit(write(lease))


async def test_the_migrations_make_the_schema(store: SqlStore, url: str) -> None:
    drivers = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "sqlite": "sqlite"}
    scheme = url.split(":", maxsplit=1)[0]
    engine = create_engine(url.replace(scheme, drivers[scheme], 1))
    with engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": False}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == VERSION, "what Alembic takes for its head is what we look for"
        connection.rollback()
        migrate(engine)
        on = " ON txc_global" if engine.dialect.name in ("mysql", "mariadb") else ""
        for cut in (f"TABLE {VERSION_TABLE}", "TABLE txc_token", f"INDEX txc_global_purge{on}"):
            connection.execute(text(f"DROP {cut}"))
        connection.commit()
        migrate(engine)
        assert compare_metadata(context, metadata) == [], "a migration that was cut off is finished"
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        connection.commit()
    with pytest.raises(StoreError, match="newer"):
        migrate(engine)
    engine.dispose()


@pytest.fixture
def odd_postgres(postgres: Server) -> Iterator[Callable[[str], str]]:
    """Makes databases of other kinds than the server's own; gives their URLs."""
    made: list[str] = []
    url = make_url(postgres.url)
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:

        def make(how: str) -> str:
            made.append(f"txc_odd_{secrets.token_hex(4)}")
            connection.execute(f"CREATE DATABASE {made[-1]} TEMPLATE template0 {how}".encode())
            return url.set(database=made[-1]).render_as_string(hide_password=False)

        yield make
        for name in made:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def test_a_database_that_sorts_like_a_dictionary_does_not_mix_up_groups(
    odd_postgres: Callable[[str], str], open_store_of: OpenStore
) -> None:
    url = odd_postgres("LOCALE_PROVIDER icu ICU_LOCALE 'en'")
    small, large = [open_store_of(url, group=group) for group in ("shop", "Shop")]
    leases = []
    for store in (small, large):
        await store.start()
        leases.append(await lead(store))
        group = write(leases[-1])
        finished = {"status": "COMMITTED", "decision": "COMMIT", "reason": "REQUESTED", "settled_at": 5}
        group.new_globals = [active(f"{store._group}.0.{n}", grp=store._group, **finished) for n in range(9)]
        await store.commit(group)
    purge = write(leases[0], 2)
    purge.purge_ranges = [PurgeRange("shop.0.0", "shop.0.8", 1_000)]
    await small.commit(purge)
    everything = ListFilter(statuses=("COMMITTED",))
    assert (await small.listing(everything))[0] == []
    assert len((await large.listing(everything))[0]) == 9


async def test_a_database_that_cannot_hold_every_text_is_refused(
    odd_postgres: Callable[[str], str], open_store_of: OpenStore
) -> None:
    store = open_store_of(odd_postgres("ENCODING 'LATIN1' LOCALE 'C'"))
    with pytest.raises(StoreError, match="LATIN1"):
        await store.start()


def test_a_store_that_is_none(tmp_path: Path) -> None:
    for url in ("oracle://x/y", "not a url", "sqlite://"):
        with pytest.raises(ConfigurationError):
            open_store(url, "default", "n", "n:1", TTL, None, None)
