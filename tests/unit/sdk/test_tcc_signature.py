"""What the decorators refuse when they are applied, and how a call's arguments find their parameters."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from txcoord_proto.errors import ConfigurationError
from txcoord_sdk import tcc
from txcoord_sdk.tcc.action import Action
from txcoord_sdk.tcc.signature import TccSignature


class OwnSession(Session):
    """As SQLModel has one."""


def plain(conn: Connection, sku: str, quantity: int = 1) -> None: ...
def last(sku: str, session: Session | None = None) -> None: ...
def annotated(session: Annotated[OwnSession, "Depends"], sku: str) -> None: ...
def without(sku: str) -> None: ...
def method(self: object, conn: Connection, sku: str) -> None: ...
async def coroutine(session: AsyncSession, sku: str) -> None: ...


def two(a: Connection, b: Session) -> None: ...
def generator(conn: Connection) -> Iterator[int]:
    yield 1


def many(*skus: str) -> None: ...
def named(**options: str) -> None: ...
def positional(sku: str, /) -> None: ...
def wrong_world(conn: AsyncConnection) -> None: ...
async def wrong_world_too(conn: Connection) -> None: ...
def complex_one(conn: Connection, z: complex) -> None: ...


@pytest.mark.parametrize(
    ("function", "database", "kind", "carried"),
    [
        (plain, "conn", Connection, ["sku", "quantity"]),
        (last, "session", Session, ["sku"]),
        (annotated, "session", OwnSession, ["sku"]),
        (without, "", None, ["sku"]),
        (method, "conn", Connection, ["sku"]),
        (coroutine, "session", AsyncSession, ["sku"]),
    ],
)
def test_the_database_is_found_by_its_annotation(
    function: Callable[..., Any], database: str, kind: type, carried: list[str]
) -> None:
    signature = TccSignature.of(function, "a")
    assert (signature.database, signature.database_type, list(signature.carried)) == (database, kind, carried)
    assert signature.is_method is (function is method)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (two, "has 2 database parameters"),
        (generator, "is a generator"),
        (many, "arguments travel by name"),
        (named, "arguments travel by name"),
        (positional, "arguments travel by name"),
        (wrong_world, "an ordinary function cannot use a AsyncConnection"),
        (wrong_world_too, "an async function cannot use a Connection"),
        (complex_one, "parameter 'z' cannot be passed to confirm and cancel, complex cannot be carried: annotate it with"),
        (staticmethod(without), "staticmethod and classmethod do not fit"),
        (OwnSession, "write a function"),
    ],
)
def test_what_cannot_be_a_try_is_refused_when_decorated(function: Callable[..., Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        tcc("stock.reserve")(function)


def confirm_more(sku: str, price: int) -> None: ...
def confirm_default(sku: str, price: int = 3) -> None: ...
def confirm_database(conn: Connection) -> None: ...


@pytest.mark.parametrize(
    ("attempt", "part", "why"),
    [
        (plain, confirm_more, r"wants \['price'\], which the try does not have"),
        (without, confirm_database, "uses the database and the try does not"),
        (plain, method, "must both be methods"),
    ],
)
def test_parts_have_to_fit(attempt: Callable[..., Any], part: Callable[..., Any], why: str) -> None:
    action = Action("a", attempt, "auto", "")
    with pytest.raises(ConfigurationError, match=why):
        action.take("confirm", part)
    action.take("confirm", confirm_default)
    with pytest.raises(ConfigurationError, match="has a confirm already"):
        action.take("confirm", confirm_default)
    with pytest.raises(ConfigurationError, match="has no cancel"):
        _ = action.parts


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a@b", "ä", "x" * 81])
def test_names_that_would_break_a_resource_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="1 to 80 letters"):
        tcc(name)


def test_fences_are_row_intent_or_none() -> None:
    with pytest.raises(ConfigurationError, match="'row', 'intent' or None"):
        tcc("a", fence=typing.cast("Any", "rows"))
    with pytest.raises(ConfigurationError, match="has no parameter annotated Connection"):
        tcc("a", fence="row")(without)
    assert Action("a", plain, "auto", "").fence == "row"
    assert Action("a", without, "auto", "").fence is None
    assert Action("a", plain, None, "").fence is None


def test_the_database_may_be_left_out_wherever_it_stands() -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection, Session(engine) as session:
        of_plain, of_last = TccSignature.of(plain, "a"), TccSignature.of(last, "a")
        assert of_plain.bind((connection, "x", 2), {}) == ({"sku": "x", "quantity": 2}, connection)
        assert of_plain.bind(("x",), {}) == ({"sku": "x", "quantity": 1}, None)
        assert of_plain.bind((), {"sku": "x", "conn": connection}) == ({"sku": "x", "quantity": 1}, connection)
        assert of_plain.bind((), {"sku": "x", "conn": None})[1] is None
        assert of_last.bind(("x", session), {}) == ({"sku": "x"}, session)
        assert of_last.bind(("x",), {}) == ({"sku": "x"}, None)
        scoped = scoped_session(sessionmaker(engine))
        assert of_last.bind(("x", scoped), {}) == ({"sku": "x"}, scoped())
        assert TccSignature.of(method, "a").bind((connection, "x"), {}) == ({"sku": "x"}, connection)
        for args, kwargs in ((("x", 1, 2), {}), ((), {}), (("x",), {"sku": "y"}), (("x",), {"price": 1}), ((session, "x"), {})):
            with pytest.raises(TypeError, match="plain"):
                of_plain.bind(args, kwargs)
    engine.dispose()
