"""Services on tables that capture their changes by triggers: rows of cascades and functions go with the global transaction."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import ForeignKey, delete, func, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from txcoord_proto.errors import LockConflictError, UnsupportedSqlError
from txcoord_rm import global_lock, isolation, mode
from txcoord_rm.commands.capture import capture_command
from txcoord_sdk.testing import wait_until

from tests.integration.at.test_locks import SECONDS, Holder, waits
from tests.integration.at.world import World

DRIVERS = ["postgres18+psycopg", "postgres18+asyncpg", "postgres18+psycopg_async", "postgres+psycopg", "postgres+asyncpg"]
each_driver = pytest.mark.parametrize("world", DRIVERS, indirect=True)
each_server = pytest.mark.parametrize("sync_world", ["postgres18+psycopg", "postgres+psycopg"], indirect=True)


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"
    name: Mapped[str] = mapped_column(primary_key=True)
    orders: Mapped[list[Order]] = relationship(passive_deletes=True, cascade="all, delete")


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str | None] = mapped_column(ForeignKey("customer.name", ondelete="CASCADE", onupdate="CASCADE"))
    total: Mapped[int]


def prepare(world: World) -> World:
    Base.metadata.create_all(world.outside)
    world.script(
        "INSERT INTO customer VALUES ('ann'), ('bob')",
        "INSERT INTO orders (customer, total) SELECT CASE n % 2 WHEN 0 THEN 'ann' ELSE 'bob' END, n FROM generate_series(1, 8) n",
        "CREATE FUNCTION book(text, int) RETURNS int LANGUAGE sql AS "
        "$$ INSERT INTO orders (customer, total) VALUES ($1, $2) RETURNING id $$",
    )
    url = world.outside.url.render_as_string(hide_password=False)
    done = CliRunner().invoke(capture_command, ["install", url, "customer", "public.orders"])
    assert done.exit_code == 0, done.output
    return world


@pytest.fixture
def shop(world: World) -> World:
    return prepare(world)


@pytest.fixture
def store(sync_world: World) -> World:
    return prepare(sync_world)


def settle(world: World) -> None:
    """Wait until second phases have left no images."""

    async def watched() -> None:
        until = time.monotonic() + SECONDS
        while any(state == "IMAGE" for _, _, state in world.undo_rows()) and time.monotonic() < until:
            await asyncio.sleep(0.02)

    world.run(watched())


def everything(world: World) -> list[Any]:
    return [world.rows(f"SELECT t::text FROM {table} AS t ORDER BY 1") for table in ("customer", "orders")]


def drop_ann(session: Session) -> None:
    session.delete(session.get_one(Customer, "ann"))


def work(session: Session) -> None:
    """As a service would write it."""
    session.add(Customer(name="cid", orders=[Order(total=n) for n in range(3)]))
    session.flush()
    drop_ann(session)
    session.flush()
    booked = session.scalars(select(func.book("cid", 100))).one()
    assert session.get_one(Order, booked).total == 100
    changed: Any = session.execute(update(Customer).where(Customer.name == "bob").values(name="b:o%b"))
    assert changed.rowcount == 1
    session.execute(
        text("UPDATE orders SET total = total + :more WHERE customer = :name"),
        [{"more": 1, "name": "cid"}, {"more": 2, "name": "nobody"}],
    )
    savepoint = session.begin_nested()
    session.execute(delete(Customer))
    savepoint.rollback()
    left = session.execute(
        insert(Order).returning(Order.id, Order.total), [{"customer": "cid", "total": n} for n in (7, 8)]
    ).all()
    assert [total for _, total in left] == [7, 8]


@each_driver
@pytest.mark.parametrize("undo", [False, True])
def test_a_service_with_cascades(shop: World, undo: bool) -> None:
    before = everything(shop)
    shop.globally(work, work_again, undo=undo)
    settle(shop)
    if undo:
        assert shop.status() == "ROLLED_BACK"
        assert everything(shop) == before
    else:
        assert shop.status() == "COMMITTED"
        assert shop.undo_rows() == []
        assert shop.rows("SELECT name FROM customer ORDER BY name") == [("cid",)]
        assert shop.rows("SELECT count(*), sum(total) FROM orders") == [(6, 122)]


def work_again(session: Session) -> None:
    session.execute(text("DELETE FROM customer WHERE name LIKE 'b%'"))


@each_driver
def test_a_statement_that_commits_by_itself(shop: World) -> None:
    before = everything(shop)

    def alone(session: Session) -> None:
        connection = session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        connection.execute(text("DELETE FROM customer WHERE name = 'ann'"))
        connection.execute(text("SELECT book('bob', 5)"))
        assert connection.scalar(text("SELECT count(*) FROM orders")) == 5

    shop.globally(alone, undo=True)
    settle(shop)
    assert everything(shop) == before


@each_server
def test_a_row_at_the_end_of_a_cascade_is_waited_for(store: World, pool: ThreadPoolExecutor) -> None:
    def pay(session: Session) -> None:
        session.execute(text("UPDATE orders SET total = total + 1 WHERE id = 2"))

    holder = Holder(store, pool, pay)
    second = pool.submit(store.globally, drop_ann)
    waits(store, second)
    holder.end(undo=True)
    second.result(SECONDS)
    assert store.rows("SELECT count(*) FROM orders") == [(4,)]


@each_server
def test_a_deleted_childs_key_is_held(store: World, pool: ThreadPoolExecutor) -> None:
    holder = Holder(store, pool, drop_ann)
    second = pool.submit(store.globally, lambda session: session.add(Order(id=2, customer="bob", total=1)))
    assert isinstance(second.exception(SECONDS), LockConflictError)
    holder.end(undo=True)
    assert len(store.rows("SELECT FROM orders")) == 8


@each_server
def test_a_local_write_that_respects_global_locks(store: World, pool: ThreadPoolExecutor) -> None:
    def pay(session: Session) -> None:
        session.execute(text("UPDATE orders SET total = 0 WHERE id = 2"))

    def checked() -> None:
        with global_lock():
            store.locally(drop_ann)

    holder = Holder(store, pool, pay)
    second = pool.submit(checked)
    time.sleep(0.3)
    assert not second.done()
    holder.end()
    second.result(SECONDS)
    wait_until(lambda: store.undo_rows() == [], what="no undo records")
    assert len(store.rows("SELECT FROM orders")) == 4


@each_server
def test_outside_global_transactions_nothing_is_captured(store: World) -> None:
    store.locally(work)
    assert store.undo_rows() == []


@each_server
@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE orders DISABLE TRIGGER txcoord_capture_update",
        "ALTER TABLE orders ENABLE TRIGGER txcoord_capture_delete",
        "ALTER TABLE orders ADD COLUMN note text",
        "DROP TRIGGER txcoord_capture_truncate ON orders",
        "CREATE UNIQUE INDEX more ON orders (total)",
    ],
)
def test_a_change_of_the_table_is_noticed(store: World, change: str) -> None:
    with store.client.global_transaction(name="before"), Session(store.engine) as session:
        session.execute(text("DELETE FROM customer WHERE name = 'nobody'"))
    store.script(change)
    with pytest.raises(LockConflictError, match="does not hold any more"):
        store.globally(drop_ann)
    with pytest.raises(UnsupportedSqlError, match=r"change with it by a foreign key, and .* capture install"):
        store.globally(drop_ann)
    url = store.outside.url.render_as_string(hide_password=False)
    assert CliRunner().invoke(capture_command, ["install", url, "orders"]).exit_code == 0
    before = everything(store)
    store.globally(drop_ann, undo=True)
    wait_until(lambda: everything(store) == before, what="the rollback")


@each_server
@pytest.mark.parametrize("undo", [False, True])
def test_a_block_in_xa_mode_takes_their_locks_and_leaves_no_record(store: World, pool: ThreadPoolExecutor, undo: bool) -> None:
    before = everything(store)

    def pay(session: Session) -> None:
        session.execute(text("UPDATE orders SET total = total + 1 WHERE id = 2"))

    def prepared() -> None:
        with mode("xa"):
            store.globally(drop_ann, undo=undo)

    holder = Holder(store, pool, pay)
    second = pool.submit(prepared)
    waits(store, second)
    holder.end(undo=True)
    second.result(SECONDS)
    wait_until(lambda: store.rows("SELECT FROM pg_prepared_xacts WHERE database = current_database()") == [], what="its end")
    assert [state for *_, state in store.undo_rows() if state == "IMAGE"] == []
    if undo:
        assert everything(store) == before
    else:
        assert len(store.rows("SELECT FROM orders")) == 4


@each_server
@pytest.mark.parametrize("sql", ["DELETE FROM customer WHERE name = 'ann'", "SELECT book('ann', 1)", "DO 'BEGIN END'"])
def test_what_changes_other_tables_is_refused_where_tables_are_locked_as_a_whole(store: World, sql: str) -> None:
    before = everything(store)
    with isolation("serializable"):
        store.globally(lambda session: session.execute(text("UPDATE orders SET total = 7 WHERE id = 1")), undo=True)
        with pytest.raises(UnsupportedSqlError, match="would not be locked as a whole"):
            store.globally(lambda session: session.execute(text(sql)))
    assert everything(store) == before
