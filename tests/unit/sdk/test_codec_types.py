"""The codec over the types that it carries: a value arrives as it left, whatever it is."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import typing
import uuid
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict, Union
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from txcoord_proto.errors import ConfigurationError, InvalidArgumentError
from txcoord_sdk.codec import ArgumentPlan

Sku = NewType("Sku", str)


class Colour(enum.Enum):
    RED = 1
    GREEN = "grün"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2
    DROP = 4


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass(frozen=True, slots=True)
class Money:
    amount: Decimal
    currency: str = "EUR"


@dataclass
class Line:
    sku: Sku
    quantity: int
    price: Money
    tags: set[str] = field(default_factory=set)
    total: Decimal = field(init=False)

    def __post_init__(self) -> None:
        self.total = self.price.amount * self.quantity


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)


class Point(NamedTuple):
    x: float
    y: float


class Address(TypedDict):
    street: str
    zip: NotRequired[str]


class Card(pydantic.BaseModel):
    number: str
    limit: Decimal
    until: dt.date = pydantic.Field(alias="validUntil")
    colours: dict[str, Colour] = {}


class Secretive(pydantic.BaseModel):
    shown: int
    hidden: int = pydantic.Field(default=0, exclude=True)


NAIVE = dt.datetime(2026, 1, 1)  # noqa: DTZ001 - without a zone on purpose


def through(annotation: Any, value: Any) -> Any:
    """The value after its way to confirm, which goes over bytes of UTF-8."""
    plan = ArgumentPlan("stock.reserve", {"x": annotation})
    data = plan.encode({"x": value})
    json.loads(data.decode("utf-8"))
    return plan.decode(data, ["x"])["x"]


def same(a: Any, b: Any) -> bool:
    """Equality that also looks at types, signs of zero, digits and offsets."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (dt.datetime, dt.time)):
        return a == b and a.utcoffset() == b.utcoffset() and str(a.tzinfo) == str(b.tzinfo)
    if isinstance(a, (float, Decimal)):
        return repr(a) == repr(b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(k, kb) and same(a[k], b[kb]) for k, kb in zip(a, b, strict=True))
    return bool(a == b)


LIST: Any = list
TUPLE: Any = tuple
DICT: Any = dict
SET: Any = frozenset
OPTIONAL: Any = Optional
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
ZONES = st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=-3, minutes=-30)), ZoneInfo("Europe/Berlin")])
SCALARS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, TEXTS),
    (int, st.integers()),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (type(None), st.none()),
    (Decimal, st.decimals(allow_nan=False)),
    (dt.datetime, st.datetimes(timezones=st.none() | ZONES)),
    (dt.date, st.dates()),
    (dt.time, st.times() | st.times(timezones=st.just(dt.UTC))),
    (dt.timedelta, st.timedeltas()),
    (uuid.UUID, st.uuids()),
    (bytes, st.binary()),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Rights, st.sampled_from([Rights(n) for n in range(8)])),
    (Sku, TEXTS),
    (Annotated[int, "metadata"], st.integers()),
    (Literal["a", 1, True, None, Colour.RED], st.sampled_from(["a", 1, True, None, Colour.RED])),
    (Money, st.builds(Money, st.decimals(allow_nan=False), st.text())),
    (Point, st.builds(Point, *[st.floats(allow_nan=False, allow_infinity=False)] * 2)),
    (Address, st.fixed_dictionaries({"street": st.text()}, optional={"zip": st.text()})),
]


@st.composite
def nested(draw: Callable[[st.SearchStrategy[Any]], Any]) -> tuple[Any, Any]:
    """An annotation of up to three containers around a scalar, and a value of it."""
    annotation, values = draw(st.sampled_from(SCALARS))
    hashable = annotation is not Address
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["list", "tuple", "pair", "dict", "keyed", "optional", "set"]))
        if kind == "list":
            annotation, values, hashable = LIST[annotation], st.lists(values, max_size=3), False
        elif kind == "tuple":
            annotation, values = TUPLE[annotation, ...], st.lists(values, max_size=3).map(tuple)
        elif kind == "pair":
            annotation, values = TUPLE[annotation, int], st.tuples(values, st.integers())
        elif kind == "dict":
            annotation, values, hashable = DICT[str, annotation], st.dictionaries(TEXTS, values, max_size=3), False
        elif kind == "keyed" and hashable:
            annotation, values, hashable = DICT[annotation, int], st.dictionaries(values, st.integers(), max_size=3), False
        elif kind == "set" and hashable:
            annotation, values = SET[annotation], st.frozensets(values, max_size=3)
        elif kind == "optional":
            annotation, values = OPTIONAL[annotation], st.none() | values
    return annotation, draw(values)


@given(nested())
def test_a_value_arrives_as_it_left(case: tuple[Any, Any]) -> None:
    annotation, value = case
    arrived = through(annotation, value)
    assert same(arrived, value)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
))  # fmt: skip
def test_without_annotation_what_json_shows_arrives_as_it_left(value: Any) -> None:
    for annotation in (Any, object):
        assert same(through(annotation, value), value)


@pytest.mark.parametrize("text", ["1.10", "-0", "NaN", "sNaN", "Infinity", "1E+30", "0.000", "123456789012345678901234567890.01"])
def test_a_decimal_keeps_every_digit(text: str) -> None:
    assert str(through(Decimal, Decimal(text))) == str(Decimal(text))


def test_a_float_keeps_its_sign_and_a_big_integer_its_digits() -> None:
    assert math.copysign(1, through(float, -0.0)) == -1
    assert through(int, 2**20000 // 2**8000) == 2**12000
    assert type(through(float | int, 3)) is int
    assert type(through(float | int, 3.0)) is float
    assert type(through(float, 3)) is float


def test_the_zone_and_the_second_hour_of_a_night_in_october_are_kept() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    for fold in (0, 1):
        moment = dt.datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold)
        arrived = through(dt.datetime, moment)
        assert arrived.tzinfo is berlin
        assert arrived.fold == fold
        assert arrived.utcoffset() == moment.utcoffset()
    assert through(dt.time, dt.time(8, tzinfo=berlin)).tzinfo is berlin
    assert through(dt.datetime, NAIVE).tzinfo is None


def test_records_arrive_whole() -> None:
    line = Line(Sku("a"), 3, Money(Decimal("1.10")), {"x", "y"})
    line.total = Decimal("3.00")  # a rebate, which the constructor does not know
    arrived = through(Line, line)
    assert arrived == line
    assert arrived.total == Decimal("3.00")
    assert through(Tree, Tree("a", [Tree("b"), Tree("c", [Tree("d")])])).children[1].children[0].name == "d"
    assert through(
        Card, Card(number="1", limit=Decimal("9.90"), validUntil=dt.date(2027, 1, 1), colours={"a": Colour.RED})
    ) == Card(number="1", limit=Decimal("9.90"), validUntil=dt.date(2027, 1, 1), colours={"a": Colour.RED})
    assert type(through(Union[Money, Decimal, None], Money(Decimal(1)))) is Money  # noqa: UP007 - the old spelling too
    assert through(list[Money | None], [None, Money(Decimal("1.0"), "USD")])[1].currency == "USD"


def test_the_text_is_readable() -> None:
    plan = ArgumentPlan("a", {"line": Line, "at": dt.datetime, "rights": Rights, "wait": dt.timedelta, "sku": str})
    data = plan.encode(
        {
            "line": Line(Sku("ä"), 2, Money(Decimal("1.10"))),
            "at": dt.datetime(2026, 3, 1, 9, tzinfo=ZoneInfo("Europe/Berlin")),
            "rights": Rights.READ | Rights.DROP,
            "wait": dt.timedelta(minutes=-1, milliseconds=500),
            "sku": "grün",
        }
    )
    assert data.decode() == (
        '{"line":{"sku":"ä","quantity":2,"price":{"amount":"1.10","currency":"EUR"},"tags":[],"total":"2.20"},'
        '"at":"2026-03-01T09:00:00+01:00[Europe/Berlin]","rights":"READ|DROP","wait":"-PT59.500000S","sku":"grün"}'
    )


class Numbered(pydantic.BaseModel):
    """Pydantic writes the keys as text and cannot read them."""

    colours: dict[Colour, int]


class NoRoundTrip:
    """No type of ours."""


@dataclass
class WantsMore:
    kept: int
    asked: InitVar[str]


UNSUPPORTED: list[Any] = [
    NoRoundTrip,
    complex,
    list[NoRoundTrip],
    dict[str, complex],
    dt.date | dt.datetime,
    str | Colour,
    Money | Line,
    Money | Address,
    list[int] | tuple[int, ...],
    typing.TypeVar("T"),
    Callable[[], int],
    WantsMore,
    str | Any,
    type,
    bytearray,
]


@pytest.mark.parametrize("annotation", UNSUPPORTED, ids=str)
def test_what_cannot_be_carried_is_refused_with_the_parameter_and_the_remedy(annotation: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        ArgumentPlan("stock.reserve", {"sku": str, "lines": annotation})
    assert "stock.reserve" in str(refused.value)
    assert "'lines'" in str(refused.value)
    assert "annotate it with" in str(refused.value)


def test_an_annotation_inside_a_dataclass_is_named() -> None:
    @dataclass
    class Order:
        lines: list[int]
        source: complex

    globals()["Order"] = Order
    with pytest.raises(ConfigurationError, match=r"Order.source: complex cannot be carried"):
        ArgumentPlan("a", {"order": Order})


WRONG: list[tuple[Any, Any, str]] = [
    (float, math.nan, "no number in JSON"),
    (float, math.inf, "no number in JSON"),
    (float, 2**60 + 1, "without loss"),
    (str, "\ud800", "surrogate"),
    (str, 1, "int instead of str"),
    (int, True, "bool instead of int"),
    (int, "1", "str instead of int"),
    (int, 2**15000, "4,000 digits"),
    (Decimal, 1.1, "float instead of Decimal"),
    (dt.date, NAIVE, "datetime instead of date"),
    (list[int], (1,), "tuple instead of list"),
    (list[Money], [Money(Decimal(1)), 2], r"\[1\] int instead of Money"),
    (tuple[int, int], (1,), "1 members instead of 2"),
    (Literal["a"], "b", "not one of"),
    (Literal[1], True, "not one of"),
    (Any, Decimal("1.0"), "annotate the parameter"),
    (Any, (1,), "annotate the parameter"),
    (Any, {1: 2}, "annotate the parameter"),
    (Any, {"a": {Decimal(1)}}, "annotate the parameter"),
    (Address, {"zip": "1"}, "street"),
    (Address, {"street": "a", "no": 1}, "no"),
    (Secretive, Secretive(shown=1, hidden=2), "does not read back"),
    (Numbered, Numbered(colours={Colour.RED: 1}), "does not read back"),
    (Colour | int, 1.5, "float instead of Colour"),
    (Rights, 1, "int instead of Rights"),
]


@pytest.mark.parametrize(("annotation", "value", "why"), WRONG, ids=range(len(WRONG)))
def test_a_value_of_another_type_is_refused_at_the_call(annotation: Any, value: Any, why: str) -> None:
    plan = ArgumentPlan("stock.reserve", {"x": annotation})
    with pytest.raises(InvalidArgumentError, match=why) as refused:
        plan.encode({"x": value})
    assert refused.value.details == {"field": "x"}
    assert "stock.reserve: argument 'x'" in str(refused.value)


def test_a_subclass_would_lose_its_fields_and_is_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Priced(Money):
        vat: int = 19

    with pytest.raises(InvalidArgumentError, match="Priced instead of Money"):
        ArgumentPlan("a", {"x": Money}).encode({"x": Priced(Decimal(1))})


def test_what_holds_itself_is_refused_at_the_call() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidArgumentError, match="recursion"):
        ArgumentPlan("a", {"x": Any}).encode({"x": loop})
