"""What `@global_transaction` keeps of a function, and what it refuses when it is applied."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Generator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from txcoord_sdk import Client, ClientConfig, ConfigurationError, Hooks, Propagation, current, resume, suspend
from txcoord_sdk.transaction.unsaved import unsaved_session

if TYPE_CHECKING:
    from fractions import Fraction


@pytest.fixture
def client() -> Client:
    """A client that opens nothing."""
    return Client(ClientConfig("order"))


def test_a_function_stays_what_it_is(client: Client) -> None:
    @client.global_transaction
    def place(order_id: int, *, amount: Annotated[Decimal, "money"] = Decimal(1)) -> str:
        """Place an order."""
        return f"{order_id}: {amount}"

    assert place(1, amount=Decimal(2)) == "1: 2"
    assert (place.__name__, place.__doc__) == ("place", "Place an order.")
    signature = inspect.signature(place)
    assert signature.parameters["order_id"].annotation is int
    assert signature.parameters["amount"].annotation == Annotated[Decimal, "money"]
    assert signature.return_annotation is str
    assert not inspect.iscoroutinefunction(place)


async def test_so_does_a_coroutine_function_and_a_method(client: Client) -> None:
    class Shop:
        @client.global_transaction(name="place order")
        async def place(self, order_id: int) -> int:
            transaction = current()
            assert transaction is not None
            assert transaction.name == "place order"
            return order_id + 1

        @classmethod
        @client.global_transaction
        def count(cls) -> str:
            return cls.__name__

    assert inspect.iscoroutinefunction(Shop.place)
    assert await Shop().place(1) == 2
    assert Shop.count() == "Shop"


def test_an_annotation_for_type_checkers_only_is_left_as_it_is(client: Client) -> None:
    @client.global_transaction
    def half(of: Fraction) -> Fraction:
        return of / 2

    assert inspect.signature(half).parameters["of"].annotation == "Fraction"


def test_what_cannot_be_a_global_transaction_is_refused_when_decorated(client: Client) -> None:
    with pytest.raises(ConfigurationError, match="is no function: write one that calls it"):
        client.global_transaction(functools.partial(print, 1))

    def generator() -> Generator[int]:
        yield 1

    async def agenerator() -> Any:
        yield 1

    def plain(order_id: int) -> None: ...

    async def hook(transaction: object) -> None: ...

    decorate: Any = client.global_transaction
    refusals: list[tuple[Callable[[Any], Any], Any]] = [
        (lambda f: decorate(f), generator),
        (lambda f: decorate(f), agenerator),
        (lambda f: decorate(classmethod(f)), plain),
        (lambda f: decorate(key="order:{number}")(f), plain),
        (lambda f: decorate(hooks=Hooks(after_commit=hook))(f), plain),
        (lambda f: decorate(timeout=0)(f), plain),
        (lambda f: decorate(timeout=-1)(f), plain),
        (lambda f: decorate(timeout=float("nan"))(f), plain),
        (lambda f: decorate(timeout=float("inf"))(f), plain),
        (lambda f: decorate(timeout=86_401)(f), plain),
        (lambda f: decorate(retries=-1)(f), plain),
    ]
    for refused, function in refusals:
        with pytest.raises(ConfigurationError):
            refused(function)


def test_the_business_key_is_made_of_the_arguments(client: Client) -> None:
    keys = []

    class Order:
        id = 7

    @client.global_transaction(key="{kind}:{order.id}:{rest[0]}")
    def place(order: Order, kind: str = "order", *rest: str) -> None:
        transaction = current()
        assert transaction is not None
        keys.append(transaction._beginning.key)

    place(Order(), "gift", "x")
    place(Order(), "order", "y")
    assert keys == ["gift:7:x", "order:7:y"]


def test_blocks(client: Client) -> None:
    scope = client.global_transaction(name="block")
    with scope as outer:
        assert current() is outer is not None
        with client.global_transaction() as same:
            assert same is outer
        with client.global_transaction(propagation=Propagation.REQUIRES_NEW) as other:
            assert current() is other is not outer
        with client.global_transaction(propagation=Propagation.NOT_SUPPORTED) as none:
            assert none is current() is None
        with suspend():
            assert current() is None
            assert outer is not None
            with resume(outer):
                assert current() is outer
        assert current() is outer
        assert not outer.ended
    assert outer is not None
    assert outer.ended
    assert current() is None
    with pytest.raises(ConfigurationError, match="used once"), scope:
        pass
    with pytest.raises(ConfigurationError, match="cannot be run again"), client.global_transaction(retries=1):
        pass


async def test_asynchronous_blocks_and_their_hooks(client: Client) -> None:
    seen = []

    async def hook(transaction: object) -> None:
        seen.append(transaction)

    hooks = Hooks(after_commit=hook, after_rollback=hook)
    with pytest.raises(ConfigurationError, match="coroutine"), client.global_transaction(hooks=hooks):
        pass
    async with client.global_transaction(hooks=hooks) as first:
        pass
    with pytest.raises(KeyError):
        async with client.global_transaction(hooks=hooks) as second:
            raise KeyError
    assert seen == [first, second]


def test_threads_do_not_inherit_and_resume_brings_it_there(client: Client) -> None:
    seen = []
    with client.global_transaction() as transaction:

        def work() -> None:
            seen.append(current())
            with resume(transaction):
                seen.append(current())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [None, transaction]


# ---------------------------------------------------------------- sessions that hold what nobody wrote


class Base(DeclarativeBase):
    """Of this test."""


class Stock(Base):
    """Goods."""

    __tablename__ = "stock"
    sku: Mapped[str] = mapped_column(primary_key=True)
    free: Mapped[int]


def test_unwritten_changes_are_seen(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/s.db")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        assert unsaved_session([1, session]) == ""
        stock = Stock(sku="a", free=1)
        session.add(stock)
        assert "the session" in unsaved_session([1, session])
        asynchronous = AsyncSession()
        asynchronous.add(Stock(sku="b", free=1))
        assert "the session" in unsaved_session([1, asynchronous])
        session.commit()
        assert unsaved_session([session]) == ""
        stock.free = 1 * stock.free
        assert unsaved_session([session]) == "", "it is the same value"
        stock.free = 2
        assert unsaved_session([session])
        session.rollback()
        session.delete(stock)
        assert unsaved_session([session])
    engine.dispose()


def test_a_function_that_leaves_its_session_unwritten_is_rolled_back(client: Client, tmp_path: Path) -> None:
    from txcoord_sdk import LocalTransactionOpenError

    engine = create_engine(f"sqlite:///{tmp_path}/s.db")
    Base.metadata.create_all(engine)

    @client.global_transaction
    def stock_up(session: Session, commit: bool) -> None:
        session.add(Stock(sku="a", free=1))
        if commit:
            session.commit()

    with Session(engine) as session:
        with pytest.raises(LocalTransactionOpenError, match="commit the session before"):
            stock_up(session, commit=False)
        session.rollback()
        stock_up(session=session, commit=True)
    engine.dispose()
