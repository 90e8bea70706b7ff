"""Arguments by name: what confirm asks for, what has changed since, and what annotations must be."""

from __future__ import annotations

import inspect
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from txcoord_proto.errors import ConfigurationError, InvalidArgumentError
from txcoord_sdk.codec import ArgumentPlan, annotations_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def reserve(sku: str, amount: Decimal, note=None) -> Sequence[str]:  # type: ignore[no-untyped-def]
    """Its return type is not there at run time, which is nobody's business."""
    return [sku, str(amount), note]


def hidden(skus: Sequence[str]) -> None:
    """Its parameter's type is not there at run time."""


def test_annotations_are_resolved_and_the_return_type_is_not_looked_at() -> None:
    assert annotations_of(reserve) == {"sku": str, "amount": Decimal, "note": inspect.Parameter.empty}


def test_an_annotation_that_is_not_there_at_run_time_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"hidden: name 'Sequence' is not defined; .*\(not only under TYPE_CHECKING"):
        annotations_of(hidden)


def test_only_what_is_wanted_is_decoded() -> None:
    data = ArgumentPlan("a", {"sku": str, "old": int}).encode({"sku": "x", "old": 1})
    now = ArgumentPlan("a", {"sku": str, "new": Decimal})
    assert now.decode(data, ["sku"]) == {"sku": "x"}
    assert now.decode(data, ["sku", "new"]) == {"sku": "x"}


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"x":1}', b'{"x":"no number"}', b'{"x":{"a":1}}', b"\xff", b"null", b'{"x":null}']
)
def test_stored_arguments_that_do_not_fit_say_what_to_do(data: bytes) -> None:
    plan = ArgumentPlan("stock.reserve", {"x": Decimal})
    with pytest.raises(InvalidArgumentError, match="deploy the version of the service that stored them"):
        plan.decode(data, ["x"])


def test_a_later_format_is_refused_and_not_misread() -> None:
    plan = ArgumentPlan("stock.reserve", {"x": int})
    assert plan.encode({"x": 1}) == b'{"x":1}', "the first format says nothing about itself"
    with pytest.raises(InvalidArgumentError, match="by a newer version of txcoord"):
        plan.decode(b'{"@format":2,"x":1}', ["x"])
